"""Reads of billing: each as its caller, so that row-level security has the last word."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, or_, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import with_expression

from bursar.accounts import queries as accounts
from bursar.billing.models import (
    BillingMeter,
    BillingWait,
    Charging,
    Invoice,
    InvoiceStatus,
    PricePlan,
    UsageCharge,
    UsagePeriod,
)
from bursar.core import money, paging
from bursar.core.errors import NotFound
from bursar.core.money import decimal
from bursar.core.paging import Order, Page, PageQuery
from bursar.metering.models import MonthlyUsage, UsageStop
from bursar.payments import currencies
from bursar.payments.models import Payment
from bursar.wallets.models import Asset

MOST_PAYMENTS = 100  # of one invoice

METERS = Order(
    {"created_at": BillingMeter.created_at}, key=BillingMeter.code, default="-created_at"
)
PLANS = Order({"created_at": PricePlan.created_at}, key=PricePlan.id, default="-created_at")
INVOICES = Order({"issued_at": Invoice.issued_at}, key=Invoice.id, default="-issued_at")
WITH_KEPT = with_expression(Invoice.kept, func.invoice_money_kept(Invoice.id))
# Paid, though money was taken from us since and less than the whole is left: that opens an invoice
# by itself, but did not before.
IS_TAKEN = and_(
    Invoice.status == InvoiceStatus.PAID,
    func.money_taken(Invoice.payment_id) > Invoice.taken_before,
    func.invoice_money_kept(Invoice.id) < Invoice.total - Invoice.forgiven,
)
WAITS = Order({"since": BillingWait.since}, key=BillingWait.id, default="-since")
CHARGES = Order({"created_at": UsageCharge.created_at}, key=UsageCharge.id, default="-created_at")


async def meters(db: AsyncSession, ask: PageQuery) -> Page[BillingMeter]:
    return await paging.fetch(db, select(BillingMeter), ask, METERS)


async def meter(db: AsyncSession, code: str) -> BillingMeter:
    row = await db.get(BillingMeter, code, populate_existing=True)
    if row is None:
        raise NotFound("There is no such meter.")
    return row


async def plans(
    db: AsyncSession,
    ask: PageQuery,
    *,
    meter: str | None = None,
    month: str | None = None,
    user_id: UUID | None = None,
) -> Page[PricePlan]:
    """Those of a meter, of a month, those that could hold for one customer."""
    query = select(PricePlan)
    if meter:
        query = query.where(PricePlan.meter == meter)
    if month:
        ends = func.coalesce(PricePlan.last_month, month)
        query = query.where(PricePlan.first_month <= month, ends >= month)
    if user_id:
        tier = (await accounts.user(db, user_id)).tier
        everybody = PricePlan.user_id.is_(None) & PricePlan.tier.is_(None)
        query = query.where(or_(PricePlan.user_id == user_id, PricePlan.tier == tier, everybody))
    return await paging.fetch(db, query, ask, PLANS)


async def plan(db: AsyncSession, plan_id: UUID, *, lock: bool = False) -> PricePlan:
    query = select(PricePlan).where(PricePlan.id == plan_id)
    if lock:
        query = query.with_for_update(key_share=True)
    row: PricePlan | None = await db.scalar(query.execution_options(populate_existing=True))
    if row is None:
        raise NotFound("There is no such price plan.")
    return row


QUOTE = text("""
  select usage_cost(price_tiers, included, cast(:units as bigint), scale) as amount, scale
  from price_plans join assets on assets.code = currency where id = :plan_id
""")


async def quote(db: AsyncSession, plan: PricePlan, units: int) -> Decimal:
    """What so many units of one month cost by a plan, to the last digit."""
    amount, scale = (await db.execute(QUOTE, {"plan_id": plan.id, "units": units})).one()
    return decimal(int(amount), scale)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a month costs a customer at one meter so far."""

    meter: str
    plan_id: UUID
    plan: str
    charging: str
    currency: str
    included: int
    units: int
    amount: Decimal
    billed_units: int
    billed_amount: Decimal
    unpaid_since: datetime | None
    waits_because: str | None


# The plan of the period where there is one; else the one that would be taken.
COSTS = text("""
  select plan.meter, plan.id, plan.name, plan.charging, plan.currency, plan.included,
    used.units, usage_cost(plan.price_tiers, plan.included, used.units, assets.scale),
    coalesce(period.units, 0), coalesce(period.amount, 0), period.unpaid_since, assets.scale
  from (
    select distinct on (meter) price_plans.* from price_plans
    left join usage_periods as opened on opened.plan_id = price_plans.id
      and opened.user_id = :user_id and opened.month = :month
    where opened.id is not null
      or first_month <= :month and coalesce(last_month, :month) >= :month
      and (price_plans.user_id = :user_id
        or price_plans.user_id is null and (tier = :tier or tier is null))
    order by meter, opened.units is null, opened.units = 0, price_plans.user_id is null,
      tier is null
  ) as plan
  join assets on assets.code = plan.currency
  left join usage_periods as period
    on period.user_id = :user_id and period.meter = plan.meter and period.month = :month
  cross join lateral (select metered_units(:user_id, plan.meter, :month) as units) as used
  order by plan.meter
""")


async def costs(db: AsyncSession, user_id: UUID, month: str) -> list[Cost]:
    tier = (await accounts.user(db, user_id)).tier
    facts = {"user_id": user_id, "month": month, "tier": tier}
    return [cost(*row) for row in await db.execute(COSTS, facts)]


def cost(
    meter: str, plan_id: UUID, plan: str, charging: str, currency: str, included: int, units: int,
    amount: Decimal, billed_units: int, billed: int, unpaid_since: datetime | None, scale: int,
) -> Cost:  # fmt: skip
    cost = int(amount)
    return Cost(
        meter, plan_id, plan, charging, currency, included, units, decimal(cost, scale),
        billed_units, decimal(billed, scale), unpaid_since,
        too_much(Charging(charging), cost - billed, cost, scale),
    )  # fmt: skip


def too_much(charging: Charging, amount: int, amount_after: int, scale: int) -> str | None:
    """Why a meter waits for staff: its usage or its price cannot be right. The customer's other
    meters do not wait for it."""
    if amount_after > money.MOST_MINOR:
        return f"{decimal(amount_after, scale):f} is more than the ledger can move."
    if charging == Charging.MONTHLY and decimal(amount, scale) >= currencies.MOST:
        return f"{decimal(amount, scale):f} is more than an invoice can say."
    return None


async def waits(
    db: AsyncSession,
    ask: PageQuery,
    *,
    user_id: UUID | None = None,
    month: str | None = None,
    meter: str | None = None,
) -> Page[BillingWait]:
    if user_id:
        await accounts.user(db, user_id)
    wanted = {
        BillingWait.user_id: user_id, BillingWait.month: month, BillingWait.meter: meter,
    }  # fmt: skip
    query = paging.only(select(BillingWait), wanted)
    return await paging.fetch(db, query, ask, WAITS, count_to=10_000)


@dataclass(frozen=True, slots=True)
class Charge:
    """Money for usage, with all that it takes to compute it again."""

    id: UUID
    user_id: UUID | None
    meter: str
    month: str
    plan_id: UUID
    from_units: int
    to_units: int
    amount: Decimal
    currency: str
    operation_id: UUID | None
    invoice_id: UUID | None
    created_at: datetime


async def charges(
    db: AsyncSession,
    ask: PageQuery,
    *,
    user_id: UUID | None = None,
    month: str | None = None,
    meter: str | None = None,
) -> Page[Any]:
    if user_id:
        await accounts.user(db, user_id)
    query = paging.only(select(UsageCharge), {UsageCharge.user_id: user_id})
    if month or meter:
        query = query.join(UsagePeriod, UsagePeriod.id == UsageCharge.period_id)
        query = paging.only(query, {UsagePeriod.month: month, UsagePeriod.meter: meter})
    page = await paging.fetch(db, query, ask, CHARGES, count_to=10_000)
    rows: Page[Any] = page
    return replace(rows, items=await explained(db, page.items))


async def lines(db: AsyncSession, invoice_id: UUID) -> list[Charge]:
    """Of an invoice."""
    query = select(UsageCharge).where(UsageCharge.invoice_id == invoice_id)
    return await explained(db, (await db.scalars(query.order_by(UsageCharge.id))).all())


async def explained(db: AsyncSession, rows: Sequence[UsageCharge]) -> list[Charge]:
    query = select(UsagePeriod, PricePlan.currency, Asset.scale)
    query = query.join(PricePlan, PricePlan.id == UsagePeriod.plan_id)
    query = query.join(Asset, Asset.code == PricePlan.currency)
    found = query.where(UsagePeriod.id.in_({row.period_id for row in rows}))
    about = {row[0].id: row for row in await db.execute(found)}
    return [explain(row, *about[row.period_id]) for row in rows]


def explain(row: UsageCharge, period: UsagePeriod, currency: str, scale: int) -> Charge:
    return Charge(
        row.id,
        row.user_id,
        period.meter,
        period.month,
        period.plan_id,
        row.from_units,
        row.to_units,
        decimal(row.amount, scale),
        currency,
        row.operation_id,
        row.invoice_id,
        row.created_at,
    )


async def invoices(
    db: AsyncSession,
    ask: PageQuery,
    *,
    user_id: UUID | None = None,
    status: str | None = None,
    month: str | None = None,
    taken: bool = False,
) -> Page[Invoice]:
    if user_id:
        await accounts.user(db, user_id)
    wanted = {Invoice.user_id: user_id, Invoice.status: status, Invoice.month: month}
    query = paging.only(select(Invoice).options(WITH_KEPT), wanted)
    if taken:
        query = query.where(IS_TAKEN)
    return await paging.fetch(db, query, ask, INVOICES, count_to=10_000)


async def invoice(
    db: AsyncSession, invoice_id: UUID, *, user_id: UUID | None = None, lock: bool = False
) -> Invoice:
    """Locked first and then read: what stands in other tables is of after the wait for it too."""
    if lock:
        locking = select(Invoice.id).where(Invoice.id == invoice_id)
        await db.execute(locking.with_for_update(key_share=True))
    query = select(Invoice).options(WITH_KEPT).where(Invoice.id == invoice_id)
    row: Invoice | None = await db.scalar(query.execution_options(populate_existing=True))
    if row is None or (user_id is not None and row.user_id != user_id):
        raise NotFound("There is no such invoice.")
    return row


async def payments_for(db: AsyncSession, invoice_id: UUID) -> Sequence[Payment]:
    """What was paid for an invoice, or was to be; the newest first."""
    query = select(Payment).where(Payment.invoice_id == invoice_id)
    query = query.order_by(Payment.created_at.desc(), Payment.id.desc()).limit(MOST_PAYMENTS)
    return (await db.scalars(query.execution_options(populate_existing=True))).all()


async def came_for(db: AsyncSession, invoice_id: UUID) -> Decimal:
    """What has been paid for an invoice by payments, and is here."""
    here = select(func.coalesce(func.sum(Payment.captured - Payment.refunded), 0))
    return Decimal(await db.scalar(here.where(Payment.invoice_id == invoice_id)) or 0)


async def is_stopped(db: AsyncSession, user_id: UUID) -> bool:
    return await db.get(UsageStop, user_id) is not None


async def has_plans(db: AsyncSession) -> bool:
    """Whether usage costs anything here."""
    return await db.scalar(select(PricePlan.id).limit(1)) is not None


async def users_of(
    db: AsyncSession, month: str, since: datetime | None, after: UUID, most: int
) -> list[UUID]:
    """Whose usage of a month has changed since, in the order of their ids."""
    query = select(MonthlyUsage.user_id).where(
        MonthlyUsage.month == month, MonthlyUsage.user_id > after
    )
    if since is not None:
        query = query.where(MonthlyUsage.last_updated >= since)
    return list(await db.scalars(query.order_by(MonthlyUsage.user_id).limit(most)))


@accounts.keeps_personal_data("billing")
async def personal_data(db: AsyncSession, user_id: UUID) -> dict[str, Any]:
    """What each month has cost, and the invoices."""
    periods = select(UsagePeriod).where(UsagePeriod.user_id == user_id)
    invoices = select(Invoice).where(Invoice.user_id == user_id)
    return {
        "usage": [
            {"month": row.month, "meter": row.meter, "units": row.units}
            for row in await db.scalars(periods.order_by(UsagePeriod.month, UsagePeriod.meter))
        ],
        "invoices": [
            {"number": row.title, "total": row.total, "currency": row.currency,
             "status": row.status, "issued_at": row.issued_at}
            for row in await db.scalars(invoices.order_by(Invoice.issued_at, Invoice.id))
        ],
    }  # fmt: skip
