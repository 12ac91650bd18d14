"""What staff do with keys: see everybody's, limit and revoke them, and make service credentials."""

from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.keys import queries, service
from bursar.keys.api import KeysQuery
from bursar.keys.models import ApiKey
from bursar.keys.schemas import (
    KeyChangeByStaff,
    KeyForStaff,
    KeyListForStaff,
    KeyMadeForStaff,
    NewServiceKey,
    RotationByStaff,
)
from bursar.keys.service import KeyOver, Made, TooManyKeys

router = APIRouter(prefix="/api-keys", tags=["keys"], route_class=Route)

READ = staff(Permission.KEYS_READ)
WRITE = staff(Permission.KEYS_WRITE)


class KeysOfAllQuery(KeysQuery):
    """A page of keys, perhaps only those that fit."""

    user_id: UUID | None = None
    services: bool | None = Field(None, description="true: only keys of other services.")


@router.get("", dependencies=[READ], responses=documented(InvalidInput))
async def list_keys(db: Db, ask: Annotated[KeysOfAllQuery, Query()]) -> KeyListForStaff:
    """Keys of customers and of services, masked, the newest first."""
    page = await queries.keys(
        db,
        ask,
        user_id=ask.user_id,
        services=ask.services,
        status=ask.status,
        search=ask.search,
    )
    rows = [KeyForStaff.model_validate(row) for row in page.items]
    return KeyListForStaff.of(page, api_keys=rows)


@router.post("", status_code=201, dependencies=[WRITE])
async def create_service_key(db: Db, body: NewServiceKey) -> KeyMadeForStaff:
    """A credential for another service of the business, shown this once."""
    return made(await service.make_service(db, body.facts()))


def made(new: Made) -> KeyMadeForStaff:
    shown = KeyForStaff.model_validate(new.row).model_dump(by_alias=False)
    return KeyMadeForStaff.model_validate({**shown, "key": new.key})


@router.get("/{key_id}", dependencies=[READ], responses=documented(NotFound))
async def read_key(db: Db, response: Response, key_id: UUID) -> KeyForStaff:
    """One key, masked."""
    return told(response, await queries.key(db, key_id))


def told(response: Response, row: ApiKey) -> KeyForStaff:
    response.headers["ETag"] = etag.of(row.version, row.shown_since)
    return KeyForStaff.model_validate(row)


@router.put(
    "/{key_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, KeyOver, TooManyKeys, PreconditionFailed),
)
async def change_key(
    db: Db, response: Response, key_id: UUID, body: KeyChangeByStaff, if_match: IfMatch = None
) -> KeyForStaff:
    """Another name, scopes, expiry, addresses, limits: what is given is changed."""
    row = await service.change(db, key_id, body.facts(), if_match=if_match, expiry="/expiresAt")
    return told(response, row)


@router.post(
    "/{key_id}/rotation",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, KeyOver, service.NotAService),
)
async def rotate_key(db: Db, key_id: UUID, body: RotationByStaff) -> KeyMadeForStaff:
    """A new credential in the place of this one of a service; a customer's key is the customer's
    to rotate."""
    grace = timedelta(seconds=body.grace_seconds)
    return made(await service.rotate_service(db, key_id, grace=grace))


@router.delete(
    "/{key_id}", dependencies=[WRITE], responses=documented(NotFound, PreconditionFailed)
)
async def revoke_key(
    db: Db, response: Response, key_id: UUID, if_match: IfMatch = None
) -> KeyForStaff:
    """Refused from now on, by every process within a second; there is no way back."""
    return told(
        response, await service.revoke(db, key_id, reason="revoked by staff", if_match=if_match)
    )
