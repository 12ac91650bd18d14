"""Staff look after the staff: invite, change, suspend, remove, help with a lost second factor."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.accounts import enrolment, queries
from bursar.accounts import staff as people
from bursar.accounts.enrolment import NoSecondFactor
from bursar.accounts.models import AdminUser, StaffStatus
from bursar.accounts.service import EmailTaken
from bursar.accounts.staff import (
    AboveYou,
    LastOwner,
    NotInvited,
    OwnAccount,
    RoleChanged,
    StillInvited,
)
from bursar.accounts.staff_schemas import (
    NewStaff,
    StaffEdit,
    StaffList,
    StaffOut,
    StaffStats,
    StaffStatusChange,
)
from bursar.auth.actor import Actor
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission, StaffRole
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(prefix="/staff", tags=["staff"], route_class=Route)

READ = staff(Permission.STAFF_READ)
WRITE = staff(Permission.STAFF_WRITE)
Writer = Annotated[Actor, WRITE]
REFUSED = (AboveYou, RoleChanged)
EDIT = (NotFound, *REFUSED, OwnAccount, LastOwner, PreconditionFailed)


class StaffQuery(PageQuery):
    """A page of staff, perhaps only those that fit."""

    status: StaffStatus | None = None
    role: StaffRole | None = None
    search: str | None = Field(
        None, min_length=1, max_length=100, description="Words of name or e-mail."
    )
    sort: str | None = sort_field(queries.STAFF)


@router.get("", dependencies=[READ], responses=documented(InvalidInput))
async def list_staff(db: Db, ask: Annotated[StaffQuery, Query()]) -> StaffList:
    """The people who work here; those who have left only with status=deleted."""
    page = await queries.staff(db, ask, status=ask.status, role=ask.role, search=ask.search)
    return StaffList.of(page, staff=[StaffOut.model_validate(row) for row in page.items])


@router.post("", status_code=201, responses=documented(EmailTaken, *REFUSED))
async def invite_staff(db: Db, response: Response, actor: Writer, body: NewStaff) -> StaffOut:
    """Mails a link by which the person chooses a password and is in."""
    member = await people.invite(db, actor, email=body.email, name=body.name, role=body.role)
    return answer(response, member)


@router.get("/stats/overview", dependencies=[READ])
async def staff_overview(db: Db) -> StaffStats:
    """How many people work here, by status and by role, and who came last."""
    by_status, by_role, recent = await queries.staff_overview(db)
    return StaffStats(
        total=sum(n for status, n in by_status.items() if status != StaffStatus.DELETED),
        by_status=by_status,
        by_role=by_role,
        recent=[StaffOut.model_validate(row) for row in recent],
    )


@router.get("/{member_id}", dependencies=[READ], responses=documented(NotFound))
async def read_staff(db: Db, response: Response, member_id: UUID) -> StaffOut:
    """One member of staff; the ETag is the version."""
    return answer(response, await queries.staff_member(db, member_id))


@router.put("/{member_id}", responses=documented(*EDIT, EmailTaken))
async def change_staff(
    db: Db,
    response: Response,
    actor: Writer,
    member_id: UUID,
    body: StaffEdit,
    if_match: IfMatch = None,
) -> StaffOut:
    """Changes what is given. Whoever gets another role is signed out; of your own account you may
    change the name."""
    member = await people.change(db, actor, member_id, body.facts(), if_match=if_match)
    return answer(response, member)


@router.put("/{member_id}/status", responses=documented(*EDIT, StillInvited))
async def change_staff_status(
    db: Db,
    response: Response,
    actor: Writer,
    member_id: UUID,
    body: StaffStatusChange,
    if_match: IfMatch = None,
) -> StaffOut:
    """Whoever is suspended is signed out at once."""
    member = await people.change_status(db, actor, member_id, body.status, if_match=if_match)
    return answer(response, member)


@router.delete("/{member_id}", responses=documented(*EDIT))
async def remove_staff(
    db: Db, response: Response, actor: Writer, member_id: UUID, if_match: IfMatch = None
) -> StaffOut:
    """For good: somebody who comes back is invited anew."""
    return answer(response, await people.remove(db, actor, member_id, if_match=if_match))


@router.post("/{member_id}/invitation", responses=documented(NotFound, *REFUSED, NotInvited))
async def invite_staff_again(
    db: Db, response: Response, actor: Writer, member_id: UUID
) -> StaffOut:
    """Mails a new link; the one before is good no more."""
    return answer(response, await people.invite_again(db, actor, member_id))


@router.delete(
    "/{member_id}/second-factor",
    dependencies=[WRITE],
    responses=documented(NotFound, *REFUSED, OwnAccount, NoSecondFactor),
)
async def take_second_factor_away(door: AtDoor, response: Response, member_id: UUID) -> StaffOut:
    """For somebody who has lost it, by an owner; they are signed out and sign in without."""
    return answer(response, await enrolment.take_away(door, member_id))


def answer(response: Response, member: AdminUser) -> StaffOut:
    response.headers["ETag"] = etag.of(member.version, member.last_login)
    return StaffOut.model_validate(member)
