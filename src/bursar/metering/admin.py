"""What staff see of usage, and what they grant."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse

from bursar.accounts import queries as accounts
from bursar.audit import service as audit
from bursar.auth.actor import Actor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import files
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.metering import export, queries, service
from bursar.metering.api import (
    BreakdownQuery,
    SummaryQuery,
    UsageFile,
    UsageQuery,
    breakdown,
    file,
)
from bursar.metering.export import Wanted
from bursar.metering.schemas import (
    BreakdownForStaff,
    GrantIn,
    GrantList,
    GrantOut,
    MonthForStaff,
    QuotaForStaff,
    SummaryForStaff,
    UsageForStaff,
    UsageListForStaff,
)

router = APIRouter(tags=["usage"], route_class=Route)

READ = staff(Permission.USAGE_READ)
GRANT = staff(Permission.USAGE_GRANT)


@router.get(
    "/users/{user_id}/usage", dependencies=[READ], responses=documented(NotFound, InvalidInput)
)
async def list_usage(
    db: Db, user_id: UUID, ask: Annotated[UsageQuery, Query()]
) -> UsageListForStaff:
    """A customer's calls, the newest first."""
    await accounts.user(db, user_id)
    page = await queries.usage(db, user_id, ask, ask.filters())
    rows = [UsageForStaff.model_validate(row) for row in page.items]
    return UsageListForStaff.of(page, usage=rows)


async def taken(
    request: Request, actor: Actor, ask: UsageFile, user_id: UUID | None
) -> StreamingResponse:
    """The file; that somebody took it is recorded."""
    database, now = request.app.state.database, datetime.now(UTC)
    wanted = Wanted(user_id, ask.filters(), now)
    pieces = export.stream(database, actor.claim, wanted, ask.format, export.FOR_STAFF)
    begun = await files.begin(pieces)
    async with database.transaction(actor.claim, origin=request.state.origin) as db:
        if user_id:
            await accounts.user(db, user_id)
        target = ("user", user_id) if user_id else ("usage",)
        await audit.record(db, "usage.exported", *target, after=ask.given())
    return file(begun, ask.format, now)


@router.get(
    "/usage/export",
    response_class=StreamingResponse,
    responses=files.ANSWERS | documented(InvalidInput),
)
async def export_usage(
    request: Request, actor: Annotated[Actor, READ], ask: Annotated[UsageFile, Query()]
) -> StreamingResponse:
    """Everybody's calls as a file, CSV or JSON lines: one customer after the other, the newest
    call first."""
    return await taken(request, actor, ask, None)


@router.get(
    "/users/{user_id}/usage/export",
    response_class=StreamingResponse,
    responses=files.ANSWERS | documented(NotFound, InvalidInput),
)
async def export_usage_of(
    request: Request,
    actor: Annotated[Actor, READ],
    user_id: UUID,
    ask: Annotated[UsageFile, Query()],
) -> StreamingResponse:
    """A customer's calls as a file, the newest first."""
    return await taken(request, actor, ask, user_id)


@router.get(
    "/users/{user_id}/usage/summary",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def summarize(
    db: Db, user_id: UUID, ask: Annotated[SummaryQuery, Query()]
) -> SummaryForStaff:
    """What each month of a customer adds up to."""
    await accounts.user(db, user_id)
    page = await queries.summary(db, user_id, ask, month=ask.month)
    return SummaryForStaff.of(
        page, months=[MonthForStaff.model_validate(row) for row in page.items]
    )


@router.get("/users/{user_id}/usage/quota", dependencies=[READ], responses=documented(NotFound))
async def read_quota(db: Db, user_id: UUID) -> QuotaForStaff:
    """What a customer may use in this month, and has used."""
    return QuotaForStaff.model_validate(await queries.quota(db, user_id))


@router.get(
    "/users/{user_id}/usage/breakdown",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def break_down(
    db: Db, user_id: UUID, ask: Annotated[BreakdownQuery, Query()]
) -> BreakdownForStaff:
    """A customer's calls by endpoint, key, status, day or hour."""
    await accounts.user(db, user_id)
    return BreakdownForStaff(**await breakdown(db, user_id, ask))


class GrantsQuery(PageQuery):
    """A page of grants."""

    sort: str | None = sort_field(queries.GRANTS)


@router.get(
    "/users/{user_id}/usage/grants",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_grants(db: Db, user_id: UUID, ask: Annotated[GrantsQuery, Query()]) -> GrantList:
    """What a customer was granted beside the tier, the newest first."""
    page = await queries.grants(db, user_id, ask)
    return GrantList.of(page, grants=[GrantOut.model_validate(row) for row in page.items])


@router.post(
    "/users/{user_id}/usage/grants",
    status_code=201,
    dependencies=[GRANT],
    responses=documented(NotFound),
)
async def grant(db: Db, user_id: UUID, body: GrantIn) -> GrantOut:
    """Gives a customer more than the tier has, for one month."""
    row = await service.grant(db, user_id, body.units, month=body.month, reason=body.reason)
    return GrantOut.model_validate(row)
