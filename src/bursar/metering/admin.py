"""What staff see of usage, and what they grant."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.metering import queries, service
from bursar.metering.api import BreakdownQuery, SummaryQuery, UsageQuery, breakdown
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

router = APIRouter(prefix="/users/{user_id}", tags=["usage"], route_class=Route)

READ = staff(Permission.USAGE_READ)
GRANT = staff(Permission.USAGE_GRANT)


@router.get("/usage", dependencies=[READ], responses=documented(NotFound, InvalidInput))
async def list_usage(
    db: Db, user_id: UUID, ask: Annotated[UsageQuery, Query()]
) -> UsageListForStaff:
    """A customer's calls, the newest first."""
    page = await queries.usage(db, user_id, ask, ask.filters())
    rows = [UsageForStaff.model_validate(row) for row in page.items]
    return UsageListForStaff.of(page, usage=rows)


@router.get("/usage/summary", dependencies=[READ], responses=documented(NotFound, InvalidInput))
async def summarize(
    db: Db, user_id: UUID, ask: Annotated[SummaryQuery, Query()]
) -> SummaryForStaff:
    """What each month of a customer adds up to."""
    page = await queries.summary(db, user_id, ask, month=ask.month)
    return SummaryForStaff.of(
        page, months=[MonthForStaff.model_validate(row) for row in page.items]
    )


@router.get("/usage/quota", dependencies=[READ], responses=documented(NotFound))
async def read_quota(db: Db, user_id: UUID) -> QuotaForStaff:
    """What a customer may use in this month, and has used."""
    return QuotaForStaff.model_validate(await queries.quota(db, user_id))


@router.get("/usage/breakdown", dependencies=[READ], responses=documented(NotFound, InvalidInput))
async def break_down(
    db: Db, user_id: UUID, ask: Annotated[BreakdownQuery, Query()]
) -> BreakdownForStaff:
    """A customer's calls by endpoint, key, status, day or hour."""
    return BreakdownForStaff(**await breakdown(db, user_id, ask))


class GrantsQuery(PageQuery):
    """A page of grants."""

    sort: str | None = sort_field(queries.GRANTS)


@router.get("/usage/grants", dependencies=[READ], responses=documented(NotFound, InvalidInput))
async def list_grants(db: Db, user_id: UUID, ask: Annotated[GrantsQuery, Query()]) -> GrantList:
    """What a customer was granted beside the tier, the newest first."""
    page = await queries.grants(db, user_id, ask)
    return GrantList.of(page, grants=[GrantOut.model_validate(row) for row in page.items])


@router.post("/usage/grants", status_code=201, dependencies=[GRANT], responses=documented(NotFound))
async def grant(db: Db, user_id: UUID, body: GrantIn) -> GrantOut:
    """Gives a customer more than the tier has, for one month."""
    row = await service.grant(db, user_id, body.units, month=body.month, reason=body.reason)
    return GrantOut.model_validate(row)
