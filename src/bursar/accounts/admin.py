"""Staff look after customers: find, add, change, suspend, delete, restore, act as one."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.accounts import impersonation, queries
from bursar.accounts import service as accounts
from bursar.accounts.impersonation import NotActive
from bursar.accounts.models import CustomerRole, Status, Tier, User
from bursar.accounts.schemas import (
    Impersonating,
    Impersonation,
    NewUser,
    StatusChange,
    StatusChanges,
    StatusesChanged,
    UserEdit,
    UserForStaff,
    UserList,
    UserStats,
)
from bursar.accounts.service import EmailTaken, Erased, UsernameTaken
from bursar.accounts.staff import RoleChanged
from bursar.auth.actor import Actor
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.idempotency import own_key
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(prefix="/users", tags=["users"], route_class=Route)

READ = staff(Permission.USERS_READ)
WRITE = staff(Permission.USERS_WRITE)
IMPERSONATE = staff(Permission.USERS_IMPERSONATE)


class UsersQuery(PageQuery):
    """A page of customers, perhaps only those that fit."""

    status: Status | None = None
    tier: Tier | None = None
    role: CustomerRole | None = None
    search: str | None = Field(
        None, min_length=1, max_length=100, description="Words of name, e-mail or username."
    )
    sort: str | None = sort_field(queries.USERS)


@router.get("", dependencies=[READ], responses=documented(InvalidInput))
async def list_users(db: Db, ask: Annotated[UsersQuery, Query()]) -> UserList:
    """Customers, the newest first; the deleted only with status=deleted."""
    page = await queries.users(
        db, ask, status=ask.status, tier=ask.tier, role=ask.role, search=ask.search
    )
    return UserList.of(page, users=[UserForStaff.model_validate(row) for row in page.items])


@router.get("/stats/overview", dependencies=[READ])
async def overview(db: Db) -> UserStats:
    """How many there are, by status, and the newest."""
    by_status, recent = await queries.overview(db)
    month = datetime.now(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return UserStats(
        total=sum(n for status, n in by_status.items() if status != Status.DELETED),
        by_status=by_status,
        active=by_status[Status.ACTIVE],
        new_this_month=await queries.signed_up_since(db, month),
        recent=[UserForStaff.model_validate(row) for row in recent],
    )


@router.post(
    "", status_code=201, dependencies=[WRITE], responses=documented(EmailTaken, UsernameTaken)
)
async def create_user(db: Db, response: Response, body: NewUser) -> UserForStaff:
    """A customer without a password; they choose one by the link of auth/forgot-password."""
    return answer(response, await accounts.create(db, body.facts()))


@router.post("/status-changes", dependencies=[WRITE], responses=documented(NotFound))
async def change_statuses(db: Db, body: StatusChanges) -> StatusesChanged:
    """Another status for up to 1,000 customers: all of them or none."""
    changed = await accounts.change_statuses(db, body.user_ids, body.status, reason=body.reason)
    return StatusesChanged(changed=changed)


@router.get("/{user_id}", dependencies=[READ], responses=documented(NotFound))
async def read_user(db: Db, response: Response, user_id: UUID) -> UserForStaff:
    """One customer; the ETag is the version."""
    return answer(response, await queries.user(db, user_id))


@router.put(
    "/{user_id}",
    responses=documented(NotFound, EmailTaken, UsernameTaken, Erased, PreconditionFailed),
)
async def change_user(
    db: Db,
    response: Response,
    actor: Annotated[Actor, WRITE],
    user_id: UUID,
    body: UserEdit,
    if_match: IfMatch = None,
) -> UserForStaff:
    """Changes what is given. Another address is only for who may also act as the customer; it is
    not verified, and the old one gets a mail."""
    user = await accounts.change(db, user_id, body.facts(), by=actor, if_match=if_match)
    return answer(response, user)


@router.put(
    "/{user_id}/status",
    dependencies=[WRITE],
    responses=documented(NotFound, Erased, PreconditionFailed),
)
async def change_status(
    db: Db, response: Response, user_id: UUID, body: StatusChange, if_match: IfMatch = None
) -> UserForStaff:
    """Whoever is not active any more is signed out at once."""
    user = await accounts.change_status(
        db, user_id, body.status, reason=body.reason, if_match=if_match
    )
    return answer(response, user)


@router.delete(
    "/{user_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, Erased, PreconditionFailed),
)
async def delete_user(
    db: Db, response: Response, user_id: UUID, if_match: IfMatch = None
) -> UserForStaff:
    """Soft: put the status back to active until the personal data is erased."""
    user = await accounts.change_status(db, user_id, Status.DELETED, if_match=if_match)
    return answer(response, user)


def answer(response: Response, user: User) -> UserForStaff:
    response.headers["ETag"] = etag.of(user.version, user.last_login)
    return UserForStaff.model_validate(user)


@router.post("/{user_id}/impersonation", responses=documented(NotFound, NotActive, RoleChanged))
@own_key
async def impersonate(
    door: AtDoor, actor: Annotated[Actor, IMPERSONATE], user_id: UUID, body: Impersonation
) -> Impersonating:
    """An access token as the customer, for an hour, to look only unless `write` is asked for and
    allowed. What is done with it stands in the audit trail under both names."""
    token, seconds, scope = await impersonation.begin(
        door, actor, user_id, reason=body.reason, write=body.write
    )
    return Impersonating(access_token=token, expires_in=seconds, scope=scope)
