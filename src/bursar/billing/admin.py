"""What staff see and do of billing: meters, price plans, invoices, the cost of anybody's usage."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Response
from pydantic import Field

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.billing import queries, reopening, service
from bursar.billing.api import ChargesQuery, CostsQuery, InvoicesQuery, PlansQuery
from bursar.billing.models import Invoice, PricePlan
from bursar.billing.schemas import (
    MOST_UNITS,
    Cancellation,
    ChargeForStaff,
    ChargeListForStaff,
    Code,
    CostForStaff,
    CostsForStaff,
    InvoiceForStaff,
    InvoiceListForStaff,
    InvoiceWithLinesForStaff,
    MeterForStaff,
    MeterIn,
    MeterList,
    Month,
    PlanChange,
    PlanForStaff,
    PlanIn,
    PlanListForStaff,
    Quote,
    Reopening,
)
from bursar.billing.service import (
    InUse,
    InvoiceClosed,
    MeterExists,
    PlanOverlap,
    StillPaid,
    TooManyMeters,
)
from bursar.billing.waits_schemas import WaitForStaff, WaitList
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.payments.currencies import UnknownCurrency
from bursar.wallets.ledger import UnknownAsset

router = APIRouter(tags=["billing"], route_class=Route)

READ = staff(Permission.BILLING_READ)
WRITE = staff(Permission.BILLING_WRITE)

MeterCode = Annotated[str, Path(max_length=100)]


class MetersQuery(PageQuery):
    """A page of meters."""

    sort: str | None = sort_field(queries.METERS)


@router.get("/billing-meters", dependencies=[READ], responses=documented(InvalidInput))
async def list_meters(db: Db, ask: Annotated[MetersQuery, Query()]) -> MeterList:
    """What is counted for money, the newest first."""
    page = await queries.meters(db, ask)
    return MeterList.of(page, meters=[MeterForStaff.model_validate(row) for row in page.items])


@router.post(
    "/billing-meters",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(MeterExists, TooManyMeters),
)
async def add_meter(db: Db, body: MeterIn) -> MeterForStaff:
    """Something to count. It is never changed, so that what was billed can be computed again."""
    row = await service.add_meter(db, body.model_dump(by_alias=False))
    return MeterForStaff.model_validate(row)


@router.delete(
    "/billing-meters/{code}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound, InUse),
)
async def remove_meter(db: Db, code: MeterCode) -> None:
    """A meter that no plan has ever been for."""
    await service.remove_meter(db, code)


@router.get("/price-plans", dependencies=[READ], responses=documented(InvalidInput))
async def list_plans(db: Db, ask: Annotated[PlansQuery, Query()]) -> PlanListForStaff:
    """All plans, the newest first."""
    page = await queries.plans(db, ask, meter=ask.meter, month=ask.month)
    rows = [PlanForStaff.model_validate(row) for row in page.items]
    return PlanListForStaff.of(page, price_plans=rows)


@router.post(
    "/price-plans",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, PlanOverlap, UnknownAsset, UnknownCurrency),
)
async def add_plan(db: Db, response: Response, body: PlanIn) -> PlanForStaff:
    """Prices for whole months, from this one on at the earliest: then also for what was used of it
    already. A plan for a customer goes before one for their tier, and that before one for
    everybody."""
    return of_plan(response, await service.add_plan(db, body.facts()))


def of_plan(response: Response, row: PricePlan) -> PlanForStaff:
    response.headers["ETag"] = etag.of(row.version)
    return PlanForStaff.model_validate(row)


@router.get("/price-plans/{plan_id}", dependencies=[READ], responses=documented(NotFound))
async def read_plan(db: Db, response: Response, plan_id: UUID) -> PlanForStaff:
    """One plan; the ETag is its version."""
    return of_plan(response, await queries.plan(db, plan_id))


@router.put(
    "/price-plans/{plan_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, PlanOverlap, PreconditionFailed),
)
async def change_plan(
    db: Db, response: Response, plan_id: UUID, body: PlanChange, if_match: IfMatch = None
) -> PlanForStaff:
    """Its name, or the month with which it ends; prices stay."""
    row = await service.change_plan(db, plan_id, body.facts(), if_match=if_match)
    return of_plan(response, row)


@router.delete(
    "/price-plans/{plan_id}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound, InUse, PreconditionFailed),
)
async def remove_plan(db: Db, plan_id: UUID, if_match: IfMatch = None) -> None:
    """A plan by which nothing was counted yet."""
    await service.remove_plan(db, plan_id, if_match=if_match)


@router.get("/price-plans/{plan_id}/quote", dependencies=[READ], responses=documented(NotFound))
async def read_quote(
    db: Db, plan_id: UUID, units: Annotated[int, Query(ge=0, le=MOST_UNITS)] = 1
) -> Quote:
    """What so many units of one month cost by this plan, to the last digit."""
    plan = await queries.plan(db, plan_id)
    return Quote.of(plan, units, await queries.quote(db, plan, units))


class InvoicesForStaffQuery(InvoicesQuery):
    """A page of anybody's invoices."""

    user_id: UUID | None = None
    taken: bool = Field(
        False,
        description="Only those that are `paid` though money of theirs was taken from us: before "
        "that opened an invoice again by itself. You can reopen them.",
    )


@router.get("/invoices", dependencies=[READ], responses=documented(InvalidInput))
async def list_invoices(
    db: Db, ask: Annotated[InvoicesForStaffQuery, Query()]
) -> InvoiceListForStaff:
    """Everybody's invoices, the newest first."""
    page = await queries.invoices(
        db, ask, user_id=ask.user_id, status=ask.status, month=ask.month, taken=ask.taken
    )
    return InvoiceListForStaff.of(page, invoices=[InvoiceForStaff.of(row) for row in page.items])


@router.get("/invoices/{invoice_id}", dependencies=[READ], responses=documented(NotFound))
async def read_invoice(db: Db, response: Response, invoice_id: UUID) -> InvoiceWithLinesForStaff:
    """One invoice with its lines and payments."""
    return await of_invoice(db, response, await queries.invoice(db, invoice_id))


async def of_invoice(db: Db, response: Response, row: Invoice) -> InvoiceWithLinesForStaff:
    response.headers["ETag"] = etag.of(row.version)
    lines = await queries.lines(db, row.id)
    return InvoiceWithLinesForStaff.told(row, lines, await queries.payments_for(db, row.id))


@router.post(
    "/invoices/{invoice_id}/cancellation",
    dependencies=[WRITE],
    responses=documented(NotFound, InvoiceClosed, StillPaid, PreconditionFailed),
)
async def cancel_invoice(
    db: Db,
    response: Response,
    invoice_id: UUID,
    body: Cancellation,
    if_match: IfMatch = None,
) -> InvoiceWithLinesForStaff:
    """Nobody is asked for it any more; what it stands for stays billed. One that was paid is only
    given up once all of that money has gone back."""
    row = await service.give_up(db, invoice_id, reason=body.reason, if_match=if_match)
    return await of_invoice(db, response, row)


@router.post(
    "/invoices/{invoice_id}/reopening",
    dependencies=[WRITE],
    responses=documented(NotFound, InvoiceClosed, StillPaid, PreconditionFailed),
)
async def reopen_invoice(
    db: Db, response: Response, invoice_id: UUID, body: Reopening, if_match: IfMatch = None
) -> InvoiceWithLinesForStaff:
    """It is to be paid again, after all of the money that had paid it was given back. Where that
    was taken from us, it is open again by itself; where it is not, `taken=true` lists it, and it
    may be reopened while a part is here. Again, it changes nothing."""
    row = await reopening.reopen(db, invoice_id, reason=body.reason, if_match=if_match)
    return await of_invoice(db, response, row)


class WaitsQuery(PageQuery):
    """A page of what waits, perhaps only that of a customer, a month or a meter."""

    user_id: UUID | None = None
    month: Month | None = None
    meter: Code | None = None
    sort: str | None = sort_field(queries.WAITS)


@router.get("/billing-waits", dependencies=[READ], responses=documented(InvalidInput, NotFound))
async def list_waits(db: Db, ask: Annotated[WaitsQuery, Query()]) -> WaitList:
    """What was to be billed and cannot be as it is, the newest first: its usage or its price cannot
    be right, or something of ours is broken. It goes on by itself about an hour after that is
    mended, or sooner."""
    page = await queries.waits(db, ask, user_id=ask.user_id, month=ask.month, meter=ask.meter)
    return WaitList.of(page, waits=[WaitForStaff.model_validate(row) for row in page.items])


@router.get("/users/{user_id}/usage/costs", dependencies=[READ], responses=documented(NotFound))
async def read_costs(db: Db, user_id: UUID, ask: Annotated[CostsQuery, Query()]) -> CostsForStaff:
    """What a month of a customer's usage costs so far."""
    rows = await queries.costs(db, user_id, ask.named())
    return CostsForStaff(
        month=ask.named(),
        stopped=await queries.is_stopped(db, user_id),
        costs=[CostForStaff.model_validate(row) for row in rows],
    )


@router.get("/users/{user_id}/usage/charges", dependencies=[READ], responses=documented(NotFound))
async def list_charges(
    db: Db, user_id: UUID, ask: Annotated[ChargesQuery, Query()]
) -> ChargeListForStaff:
    """What was charged for a customer's usage, the newest first."""
    page = await queries.charges(db, ask, user_id=user_id, month=ask.month, meter=ask.meter)
    rows = [ChargeForStaff.model_validate(row) for row in page.items]
    return ChargeListForStaff.of(page, charges=rows)
