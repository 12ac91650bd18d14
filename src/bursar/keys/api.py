"""What customers do with their keys, and where anybody reports one that leaked."""

import base64
from datetime import timedelta
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import Field

from bursar.accounts.sign_in import owner
from bursar.auth.actor import Actor
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import customer, everyone, in_person
from bursar.auth.scopes import CUSTOMERS
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.idempotency import own_key
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.keys import leaks, queries, rules, secret, service
from bursar.keys.leaks import BadSignature, Report
from bursar.keys.models import ApiKey, KeyStatus
from bursar.keys.schemas import (
    KeyChange,
    KeyList,
    KeyMade,
    KeyOut,
    LeakOutcome,
    LeaksIn,
    NewKey,
    Rotation,
    ScopeList,
    ScopeOut,
)
from bursar.keys.service import KeyOver, Made, NotACustomer, TooManyKeys
from bursar.system import queries as system

router = APIRouter(prefix="/api-keys", tags=["keys"], route_class=Route)

Me = Annotated[Actor, customer]
MyselfOnly = Annotated[Actor, in_person]


class KeysQuery(PageQuery):
    """A page of keys, perhaps only those that are good or those that were revoked."""

    status: KeyStatus | None = None
    search: str | None = Field(None, min_length=1, max_length=100)
    sort: str | None = sort_field(queries.KEYS)


@router.get("", responses=documented(InvalidInput))
async def list_keys(db: Db, actor: Me, ask: Annotated[KeysQuery, Query()]) -> KeyList:
    """Your keys, masked, the newest first."""
    page = await queries.keys(db, ask, user_id=owner(actor), status=ask.status, search=ask.search)
    return KeyList.of(page, api_keys=[KeyOut.model_validate(row) for row in page.items])


@router.post("", status_code=201, responses=documented(TooManyKeys, NotACustomer))
async def create_key(db: Db, actor: MyselfOnly, body: NewKey) -> KeyMade:
    """A new key, shown this once: only its SHA-256 is kept."""
    return made(await service.make(db, owner(actor), body.facts()))


def made(new: Made) -> KeyMade:
    return KeyMade.model_validate({**KeyOut.model_validate(new.row).model_dump(), "key": new.key})


@router.get("/scopes", dependencies=[customer])
async def list_scopes(db: Db) -> ScopeList:
    """What a key of yours may be allowed to do."""
    own = await system.value(db, rules.API_SCOPES)
    every: dict[str, str] = {name.value: says for name, says in CUSTOMERS.items()}
    every |= dict.fromkeys(own, "Of the API that these keys are for.")
    return ScopeList(scopes=[ScopeOut(name=name, allows=says) for name, says in every.items()])


@router.post("/leaks", dependencies=[everyone], responses=documented(BadSignature))
@own_key
async def report_leaks(
    request: Request,
    door: AtDoor,
    body: LeaksIn,
    github_public_key_signature: Annotated[str | None, Header(max_length=500)] = None,
) -> list[LeakOutcome]:
    """Revokes keys that were found in public and mails their owners; in the format of GitHub's
    secret scanning. Each is judged by itself: what cannot be read is a false positive, in its
    place."""
    async with door.transaction() as db:
        await leaks.demand_signature(db, await request.body(), github_public_key_signature)
        ours = await leaks.revoke(db, [Report(each.token, each.url) for each in body.root])
    return [
        LeakOutcome(
            token_hash=base64.b64encode(secret.digest(leak.token)).decode(),
            token_type=leak.type,
            label="true_positive" if is_ours else "false_positive",
        )
        for leak, is_ours in zip(body.root, ours, strict=True)
    ]


@router.get("/{key_id}", responses=documented(NotFound))
async def read_key(db: Db, response: Response, actor: Me, key_id: UUID) -> KeyOut:
    """One key of yours, masked."""
    return told(response, await queries.key(db, key_id, user_id=owner(actor)))


def told(response: Response, row: ApiKey) -> KeyOut:
    response.headers["ETag"] = etag.of(row.version, row.shown_since)
    return KeyOut.model_validate(row)


@router.put("/{key_id}", responses=documented(NotFound, KeyOver, TooManyKeys, PreconditionFailed))
async def change_key(
    db: Db,
    response: Response,
    actor: MyselfOnly,
    key_id: UUID,
    body: KeyChange,
    if_match: IfMatch = None,
) -> KeyOut:
    """Another name, scopes, expiry, addresses, limits: what is given is changed."""
    row = await service.change(db, key_id, body.facts(), user_id=owner(actor), if_match=if_match)
    return told(response, row)


@router.post(
    "/{key_id}/rotation", status_code=201, responses=documented(NotFound, KeyOver, TooManyKeys)
)
async def rotate_key(db: Db, actor: MyselfOnly, key_id: UUID, body: Rotation) -> KeyMade:
    """A new key in the place of this one, which is good for the grace time yet."""
    grace = timedelta(seconds=body.grace_seconds)
    return made(await service.rotate(db, key_id, grace=grace, user_id=owner(actor)))


@router.delete("/{key_id}", responses=documented(NotFound, PreconditionFailed))
async def revoke_key(
    db: Db, response: Response, actor: Me, key_id: UUID, if_match: IfMatch = None
) -> KeyOut:
    """Refused from now on, by every process within a second; there is no way back."""
    return told(response, await service.revoke(db, key_id, user_id=owner(actor), if_match=if_match))
