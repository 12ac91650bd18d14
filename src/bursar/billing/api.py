"""What customers see of billing: what usage costs them, what was charged for it, their invoices."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from bursar.accounts.sign_in import owner
from bursar.auth.actor import Actor
from bursar.auth.guard import customer, customer_or_key
from bursar.auth.scopes import KeyScope
from bursar.billing import queries
from bursar.billing.models import InvoiceStatus
from bursar.billing.months import month_of
from bursar.billing.schemas import (
    ChargeList,
    ChargeOut,
    Code,
    CostOut,
    Costs,
    InvoiceList,
    InvoiceOut,
    InvoiceWithLines,
    Month,
    PlanList,
    PlanOut,
)
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.metering.api import whose

router = APIRouter(tags=["billing"], route_class=Route)

Me = Annotated[Actor, customer]
Mine = Annotated[Actor, customer_or_key(KeyScope.USAGE_READ)]


class CostsQuery(BaseModel):
    """Which month."""

    month: Month | None = Field(None, description="This one, where nothing is said.")

    def named(self) -> str:
        return self.month or month_of(datetime.now(UTC))


class ChargesQuery(PageQuery):
    """A page of charges, perhaps only those of a month or a meter."""

    month: Month | None = None
    meter: Code | None = None
    sort: str | None = sort_field(queries.CHARGES)


class PlansQuery(PageQuery):
    """A page of plans, perhaps only those of a month or a meter."""

    month: Month | None = None
    meter: Code | None = None
    sort: str | None = sort_field(queries.PLANS)


class InvoicesQuery(PageQuery):
    """A page of invoices, perhaps only those of a month, or open ones."""

    status: InvoiceStatus | None = None
    month: Month | None = None
    sort: str | None = sort_field(queries.INVOICES)


@router.get("/usage/costs", responses=documented(InvalidInput))
async def read_costs(db: Db, actor: Mine, ask: Annotated[CostsQuery, Query()]) -> Costs:
    """What a month of your usage costs so far."""
    me = whose(actor)
    rows = await queries.costs(db, me, ask.named())
    return Costs(
        month=ask.named(),
        stopped=await queries.is_stopped(db, me),
        costs=[CostOut.model_validate(row) for row in rows],
    )


@router.get("/usage/charges", responses=documented(InvalidInput))
async def list_charges(db: Db, actor: Mine, ask: Annotated[ChargesQuery, Query()]) -> ChargeList:
    """What was charged for your usage, the newest first; each names the units it stands for."""
    page = await queries.charges(db, ask, user_id=whose(actor), month=ask.month, meter=ask.meter)
    return ChargeList.of(page, charges=[ChargeOut.model_validate(row) for row in page.items])


@router.get("/price-plans", responses=documented(InvalidInput))
async def list_plans(db: Db, actor: Me, ask: Annotated[PlansQuery, Query()]) -> PlanList:
    """Prices that hold for you, the newest first."""
    page = await queries.plans(db, ask, meter=ask.meter, month=ask.month, user_id=owner(actor))
    return PlanList.of(page, price_plans=[PlanOut.model_validate(row) for row in page.items])


@router.get("/invoices", responses=documented(InvalidInput))
async def list_invoices(db: Db, actor: Me, ask: Annotated[InvoicesQuery, Query()]) -> InvoiceList:
    """Your invoices, the newest first."""
    page = await queries.invoices(db, ask, user_id=owner(actor), status=ask.status, month=ask.month)
    return InvoiceList.of(page, invoices=[InvoiceOut.of(row) for row in page.items])


@router.get("/invoices/{invoice_id}", responses=documented(NotFound))
async def read_invoice(db: Db, response: Response, actor: Me, invoice_id: UUID) -> InvoiceWithLines:
    """One invoice with its lines and payments. It is paid from your wallet as soon as that has
    enough, else by your default method; `POST payments {"invoice_id": …}` pays it now."""
    row = await queries.invoice(db, invoice_id, user_id=owner(actor))
    response.headers["ETag"] = etag.of(row.version)
    lines = await queries.lines(db, invoice_id)
    return InvoiceWithLines.told(row, lines, await queries.payments_for(db, invoice_id))
