"""What billing does by itself: usage is charged each minute, invoices are issued and collected."""

import logging
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import charging, invoicing, looks, paying, queries, stops, waits
from bursar.billing.looks import Look
from bursar.billing.models import BillingLook, Charging
from bursar.billing.months import end_of, month_of, moved
from bursar.billing.rules import INVOICE_AFTER_HOURS, MARGIN
from bursar.core import events, failures, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.core.jobs import Run
from bursar.core.queue import HoldLost
from bursar.metering.rules import USAGE_RETENTION_MONTHS
from bursar.payments import asking, refunds
from bursar.payments.asking import Desk
from bursar.payments.providers.registry import providers
from bursar.payments.refunds import TOLD_WITHIN
from bursar.payments.tasks import go_on
from bursar.system import queries as system

log = logging.getLogger(__name__)

MOST_INVOICES = 500  # of one run; the next one, five minutes later, goes on
ONE = "one at a time"


@jobs.cron("* * * * *", "billing.begin_charging")
async def begin_charging(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has the usage of this month and the last one charged, once a minute."""
    await jobs.enqueue(db, charge_usage, {"months": 2}, unique_key=ONE)


@jobs.cron("40 1 * * *", "billing.begin_charging_late")
async def begin_charging_late(db: AsyncSession, _: dict[str, Any]) -> None:
    """The same for all months of which usage can still be reported, once a night."""
    months = await system.value(db, USAGE_RETENTION_MONTHS)
    await jobs.enqueue(db, charge_usage, {"months": months + 1}, unique_key="late")


@jobs.steps("billing.charge_usage", added_by={Role.WORKER}, at_once=1)
async def charge_usage(run: Run) -> None:
    """Charges usage that is paid for as it happens, and what could not be paid before."""
    now = datetime.now(UTC)
    async with run.transaction() as db:
        unpaid = await charging.unpaid(db)
        waiting = await waits.to_look_at(db, Charging.AT_ONCE)
        has_plans = await queries.has_plans(db)
    await looks.at_some(run, Charging.AT_ONCE, charging.charge, unpaid)
    for back in range(int(run.payload["months"]) if has_plans else 0):
        month = moved(month_of(now), -back)
        await Look(run, Charging.AT_ONCE, month, charging.charge).at_changes()
    async with run.transaction() as db:
        await stops.sweep(db)
    await looks.at_some(run, Charging.AT_ONCE, charging.charge, waiting)


@jobs.cron("*/5 * * * *", "billing.begin_invoicing")
async def begin_invoicing(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has the months invoiced that are over, each once a month; looks every five minutes."""
    await jobs.enqueue(db, issue_invoices, unique_key=ONE)


@jobs.steps("billing.issue_invoices", added_by={Role.WORKER}, at_once=1)
async def issue_invoices(run: Run) -> None:
    """Puts the usage of months that are over on invoices, what was reported late with the next."""
    now = datetime.now(UTC)
    async with run.transaction() as db:
        hours = await system.value(db, INVOICE_AFTER_HOURS)
        months = await system.value(db, USAGE_RETENTION_MONTHS)
        waiting = await waits.to_look_at(db, Charging.MONTHLY)
        looked_at = {
            row.month: row.upto
            for row in await db.scalars(select(BillingLook).filter_by(charging=Charging.MONTHLY))
        }
    grace = timedelta(hours=hours)
    newest = moved(month_of(now - grace), -1)  # the last month that is over and waited for
    for back in range(months + 1):
        month = moved(newest, -back)
        seen = looked_at.get(month)
        if seen is None or seen + MARGIN < end_of(newest) + grace:
            await Look(run, Charging.MONTHLY, month, invoicing.issue).at_changes()
    await looks.at_some(run, Charging.MONTHLY, invoicing.issue, waiting)


@jobs.cron("*/5 * * * *", "billing.begin_collecting")
async def begin_collecting(db: AsyncSession, _: dict[str, Any]) -> None:
    """Looks every five minutes for invoices that can be paid."""
    if await paying.to_collect(db, 1):
        await jobs.enqueue(db, collect_invoices, unique_key=ONE)


@jobs.steps("billing.collect_invoices", added_by={Role.WORKER}, at_once=1)
async def collect_invoices(run: Run) -> None:
    """Takes what open invoices ask for from wallets and saved methods."""
    async with run.transaction() as db:
        desk = Desk(run.transaction, providers(db.info["settings"]))
        found = await paying.to_collect(db, MOST_INVOICES)
    for invoice_id in found:
        await collect_one(run, desk, invoice_id)
    async with run.transaction() as db:
        await stops.sweep(db)


async def collect_one(run: Run, desk: Desk, invoice_id: UUID) -> None:
    """One that fails keeps no other waiting."""
    try:
        async with run.transaction() as db:
            payment_id = await paying.collect(db, desk.providers, invoice_id)
            await begin_giving_back(db, await paying.to_give_back(db, invoice_id))
        if payment_id:
            await asking.create(desk, payment_id)
    except HoldLost:
        raise
    except Exception as error:
        told, where = failures.message(error), failures.where(error)
        log.error("the invoice %s cannot be collected: %s\n%s", invoice_id, told, where)


@events.on(
    "payments.completed",
    "payments.refunded",
    "payments.refund_failed",
    "payments.disputed",
    subscriber="billing.mark_paid",
)
async def mark_paid(db: AsyncSession, event: Published) -> None:
    """An invoice is paid by the payment for it, and open again where that is taken from us; what it
    does not need goes back, once nobody contests it, and is not with a provider that refuses."""
    not_needed = await paying.heed(db, UUID(event.payload["payment_id"]))
    await begin_giving_back(db, not_needed, str(event.id))


async def begin_giving_back(db: AsyncSession, not_needed: list[UUID], told_by: str = "") -> None:
    """Each event has a job of its own: one that runs already may have looked before it."""
    for each in not_needed:
        key = f"{each}:{told_by}"
        await jobs.enqueue(db, give_back, {"payment_id": str(each)}, unique_key=key)


@events.on("payments.failed", subscriber="billing.try_later")
async def try_later(db: AsyncSession, event: Published) -> None:
    """The saved method did not pay an invoice."""
    await paying.payment_failed(db, UUID(event.payload["payment_id"]))


@jobs.job("billing.give_back", added_by={Role.WORKER})
async def give_back(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Has given back what an invoice does not need of a payment. A provider that has refused just
    now may tell a moment later that it is contested, and goes back from there."""
    payment_id = UUID(payload["payment_id"])
    if await refunds.was_refused_just_now(db, payment_id):
        await jobs.enqueue(db, give_back, payload, run_at=datetime.now(UTC) + TOLD_WITHIN)
        return
    await go_on(db, await paying.give_back(db, payment_id))
