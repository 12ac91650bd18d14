"""The verbs of staff: meters and price plans are made and ended, invoices are given up.

What usage costs is computed by the database (database.sql); who pays, by charging.py and
invoicing.py.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import delete, func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.audit import service as audit
from bursar.billing import queries
from bursar.billing.models import (
    BillingMeter,
    Invoice,
    InvoiceStatus,
    PricePlan,
    UsagePeriod,
)
from bursar.billing.months import month_of
from bursar.billing.rules import METERS
from bursar.core import etag, events
from bursar.core.database import Role
from bursar.core.errors import BursarError, InvalidInput
from bursar.payments import currencies
from bursar.wallets import assets


class InvoiceIssued(
    events.Event, name="billing.invoice_issued", published_by={Role.WORKER}, public=True
):
    """A customer's usage of a month was put on an invoice."""

    invoice_id: UUID
    user_id: UUID


class InvoicePaid(
    events.Event, name="billing.invoice_paid", published_by={Role.WORKER}, public=True
):
    """An invoice was paid, from the wallet or by a payment."""

    invoice_id: UUID
    user_id: UUID | None


class InvoiceReopened(
    events.Event,
    name="billing.invoice_reopened",
    published_by={Role.WORKER, Role.STAFF},
    public=True,
):
    """An invoice is to be paid again: the money that had paid it is gone."""

    invoice_id: UUID
    user_id: UUID | None


ONE_AT_A_TIME = text("select pg_advisory_xact_lock(hashtextextended('billing meters', 0))")


class MeterExists(BursarError, status=409, code="billing.meter_exists"):
    """There is a meter with this code; meters are never changed, so that what was billed by one
    can be computed again."""


class TooManyMeters(BursarError, status=409, code="billing.too_many_meters"):
    """There are as many meters as there may be; remove one that no plan is for."""


async def add_meter(db: AsyncSession, facts: Mapping[str, Any]) -> BillingMeter:
    """What is to be counted."""
    await db.execute(ONE_AT_A_TIME)
    if (await db.scalar(select(func.count()).select_from(BillingMeter)) or 0) >= METERS:
        raise TooManyMeters(f"There may be {METERS} meters; remove one that no plan is for.")
    making = insert(BillingMeter).values(**facts).on_conflict_do_nothing().returning(BillingMeter)
    row = (await db.scalars(making)).one_or_none()
    if row is None:
        raise MeterExists(f"There is a meter {facts['code']!r} already; take another code.")
    await audit.record(db, "billing.meter_added", "meter", row.code, after=dict(facts))
    return row


class InUse(BursarError, status=409, code="billing.in_use"):
    """Something stands on this, so it stays: a plan on its meter, billed usage on its plan."""


async def remove_meter(db: AsyncSession, code: str) -> None:
    """A meter that no plan has ever had."""
    await queries.meter(db, code)
    if await db.scalar(select(PricePlan.id).where(PricePlan.meter == code).limit(1)):
        raise InUse("A price plan is for this meter, so it stays.")
    await db.execute(delete(BillingMeter).where(BillingMeter.code == code))
    await audit.record(db, "billing.meter_removed", "meter", code)


class PlanOverlap(BursarError, status=409, code="billing.plan_overlap"):
    """Another plan is for the same meter, the same customers and some of these months; end that
    one first."""


async def add_plan(db: AsyncSession, facts: Mapping[str, Any]) -> PricePlan:
    """Prices for whole months, from this one on at the earliest."""
    await queries.meter(db, facts["meter"])
    await check_currency(db, facts["currency"])
    if facts["user_id"] is not None:
        await accounts.user(db, facts["user_id"])
    if facts["first_month"] < (now := month_of(datetime.now(UTC))):
        raise InvalidInput.at("/firstMonth", f"A plan begins with {now} or later.", "too_early")
    row = PricePlan(**facts)
    db.add(row)
    await written(db, row)
    await audit.record(db, "billing.plan_added", "price_plan", row.id, after=dict(facts))
    return row


async def check_currency(db: AsyncSession, code: str) -> None:
    if (await assets.asset(db, code)).kind != "currency":
        raise assets.unknown()
    currencies.digits(code)  # an invoice is paid in it


async def written(db: AsyncSession, row: PricePlan) -> None:
    try:
        async with db.begin_nested():
            await db.flush()
    except IntegrityError as error:
        if "ex_price_plans_one_at_a_time" not in str(error.orig):
            raise
        raise PlanOverlap(
            "Another plan is for this meter, these customers and some of these months."
        ) from None
    await db.refresh(row)


async def change_plan(
    db: AsyncSession, plan_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> PricePlan:
    """Its name, and the month with which it ends: this one at the earliest. One that has ended
    stays so: months that are over would cost something all at once."""
    row = await queries.plan(db, plan_id, lock=True)
    etag.check(if_match, row.version)
    check_end(row, facts.get("last_month", row.last_month), month_of(datetime.now(UTC)))
    before = {name: getattr(row, name) for name in facts}
    for name, value in facts.items():
        setattr(row, name, value)
    if not db.is_modified(row):
        audit.nothing_changed(db)
        return row
    await written(db, row)
    what = "billing.plan_changed"
    await audit.record(db, what, "price_plan", row.id, before=before, after=dict(facts))
    return row


def check_end(row: PricePlan, last: str | None, now: str) -> None:
    if last == row.last_month:
        return
    if row.last_month is not None and row.last_month < now:
        raise InvalidInput.at("/lastMonth", "This plan has ended; make another one.", "ended")
    least = max(row.first_month, now)
    if last is not None and last < least:
        raise InvalidInput.at("/lastMonth", f"This plan can end with {least} or later.", "early")


async def remove_plan(db: AsyncSession, plan_id: UUID, *, if_match: str | None = None) -> None:
    """A plan by which nothing was counted yet."""
    row = await queries.plan(db, plan_id, lock=True)
    etag.check(if_match, row.version)
    if await db.scalar(select(UsagePeriod.id).where(UsagePeriod.plan_id == plan_id).limit(1)):
        raise InUse("Usage was counted by this plan; end it instead.")
    await db.delete(row)
    await db.flush()
    await audit.record(db, "billing.plan_removed", "price_plan", plan_id)


class InvoiceClosed(BursarError, status=409, code="billing.invoice_closed"):
    """The invoice is paid or was given up; `state` says which."""


async def give_up(
    db: AsyncSession, invoice_id: UUID, *, reason: str, if_match: str | None = None
) -> Invoice:
    """Nobody is asked for it any more. What it stands for stays billed. Also where it was paid, and
    all of that has gone back."""
    row = await queries.invoice(db, invoice_id, lock=True)
    etag.check(if_match, row.version)
    if row.status == InvoiceStatus.VOID or row.kept:
        raise closed(row)
    if row.status == InvoiceStatus.OPEN and (part := await queries.came_for(db, row.id)):
        raise still_paid(row, part)
    row.status, row.void_reason = InvoiceStatus.VOID, reason
    await db.flush()
    await db.refresh(row)
    await audit.record(db, "billing.invoice_voided", "invoice", row.id, after={"reason": reason})
    return row


class StillPaid(BursarError, status=409, code="billing.still_paid"):
    """Money that was paid for this invoice is here; `kept` says how much. Give it back first."""


def still_paid(row: Invoice, kept: Decimal) -> StillPaid:
    return StillPaid(
        f"Of what was paid for the invoice {row.title}, {kept:f} {row.currency} is still here.",
        kept=kept,
        currency=row.currency,
    )


def closed(row: Invoice) -> InvoiceClosed:
    return InvoiceClosed(f"The invoice {row.title} is {row.status} already.", state=row.status)
