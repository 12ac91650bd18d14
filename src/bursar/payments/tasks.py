"""What payments do by themselves: ask again where nobody knows, look after what waits for long."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.core.jobs import Run
from bursar.payments import asking
from bursar.payments.asking import Desk
from bursar.payments.models import Payment, ProviderState, Refund, RefundStatus, Status
from bursar.payments.providers.registry import MANUAL, providers
from bursar.payments.rules import ABANDONED_HOURS
from bursar.system import queries as system

AT_ONCE = 50  # of one sweep
UNHEARD = (ProviderState.INTENDED, ProviderState.UNKNOWN)
LOOKED_AFTER = timedelta(hours=20)  # between two looks at what waits at its provider

# A minute after it was asked, then two, four, and so on up to an hour.
DUE = text("""
  coalesce(asked_at, created_at)
    < now() - interval '1 minute' * least(60, power(2, least(greatest(attempts - 1, 0), 6)))
""")


@jobs.cron("* * * * *", "payments.sweep")
async def sweep(db: AsyncSession, _: dict[str, Any]) -> None:
    """Looks once a minute whether there is something to ask providers again."""
    known = providers(db.info["settings"]).known
    if await due_payments(db, known, 1) or await due_refunds(db, known, 1):
        await jobs.enqueue(db, ask_again, unique_key="one at a time")


async def due_payments(db: AsyncSession, known: Collection[str], most: int = AT_ONCE) -> list[UUID]:
    """Those whose end nobody knows, the longest unasked first; of providers that are set up, so
    that what cannot be asked keeps nobody else waiting."""
    query = select(Payment.id).where(
        Payment.status == Status.PENDING,
        Payment.provider.in_(known),
        Payment.provider_state.in_(UNHEARD),
        DUE,
    )
    query = query.order_by(Payment.asked_at.nulls_first(), Payment.id).limit(most)
    return list(await db.scalars(query))


async def due_refunds(db: AsyncSession, known: Collection[str], most: int = AT_ONCE) -> list[UUID]:
    query = asked_of(known).where(Refund.provider_state.in_(UNHEARD), DUE)
    query = query.order_by(Refund.asked_at.nulls_first(), Refund.id).limit(most)
    return list(await db.scalars(query))


def asked_of(known: Collection[str]) -> Select[UUID]:
    """Pending refunds that a provider which is set up can be asked about."""
    payments = select(Payment.id).where(
        Payment.id == Refund.payment_id, Payment.provider.in_(known)
    )
    return select(Refund.id).where(Refund.status == RefundStatus.PENDING, payments.exists())


async def desk_of(run: Run) -> Desk:
    async with run.transaction() as db:
        return Desk(run.transaction, providers(db.info["settings"]))


@jobs.steps("payments.ask_again", added_by={Role.WORKER}, at_once=1)
async def ask_again(run: Run) -> None:
    """Asks providers again, by the same keys, where nobody knows how it ended."""
    desk = await desk_of(run)
    async with run.transaction() as db:
        known = desk.providers.known
        payments, refunds = await due_payments(db, known), await due_refunds(db, known)
    for payment_id in payments:
        await asking.complete(desk, payment_id)
    for refund_id in refunds:
        await asking.give_back(desk, refund_id)


@jobs.steps("payments.give_back", added_by={Role.WORKER, Role.STAFF})
async def give_back(run: Run) -> None:
    """Asks the provider for one refund that was written down."""
    await asking.give_back(await desk_of(run), UUID(run.payload["refund"]))


async def go_on(db: AsyncSession, refund: Refund | None) -> None:
    """Has the provider asked for a refund that waits for that."""
    if refund is not None and refund.status == RefundStatus.PENDING:
        await jobs.enqueue(db, give_back, {"refund": str(refund.id)})


@jobs.cron("25 * * * *", "payments.look_after")
async def look_after(db: AsyncSession, _: dict[str, Any]) -> None:
    """Once an hour looks after payments that nobody goes on with, and refunds that take long."""
    await jobs.enqueue(db, look_at_waiting, unique_key="one at a time")


@jobs.steps("payments.look_at_waiting", added_by={Role.WORKER}, at_once=1, timeout_seconds=1800)
async def look_at_waiting(run: Run) -> None:
    """Learns how payments and refunds stand that wait for a day; gives up what was abandoned."""
    desk = await desk_of(run)
    async with run.transaction() as db:
        known = desk.providers.known
        payments, refunds = await slow_payments(db, known), await slow_refunds(db, known)
    for payment_id, is_abandoned in payments:
        await (asking.cancel if is_abandoned else asking.complete)(desk, payment_id)
    for refund_id in refunds:
        await asking.give_back(desk, refund_id)


async def slow_payments(db: AsyncSession, known: Collection[str]) -> list[tuple[UUID, bool]]:
    """And whether they are given up now; should the money come after all, it still counts."""
    hours: int = await system.value(db, ABANDONED_HOURS)
    query = select(Payment.id, Payment.created_at < func.now() - timedelta(hours=hours)).where(
        Payment.status == Status.PENDING,
        Payment.provider.in_(known),
        Payment.provider_state == ProviderState.WAITING,
        Payment.asked_at < func.now() - LOOKED_AFTER,
    )
    rows = await db.execute(query.order_by(Payment.asked_at).limit(AT_ONCE))
    return [(payment_id, is_abandoned) for payment_id, is_abandoned in rows]


async def slow_refunds(db: AsyncSession, known: Collection[str]) -> list[UUID]:
    query = asked_of(known).where(
        Refund.provider_state == ProviderState.WAITING,
        Refund.asked_at < func.now() - LOOKED_AFTER,
    )
    return list(await db.scalars(query.order_by(Refund.asked_at).limit(AT_ONCE)))


@events.on("payments.completed", subscriber="payments.details")
async def learn_details(db: AsyncSession, event: Published) -> None:
    """A webhook tells neither what the provider keeps for itself nor the card that was saved."""
    payment = await db.get(Payment, UUID(event.payload["payment_id"]))
    if payment is not None and payment.provider not in (MANUAL, "demo"):
        await jobs.enqueue(db, learn, {"payment": str(payment.id)})


@jobs.steps("payments.learn", added_by={Role.WORKER})
async def learn(run: Run) -> None:
    """Asks the provider once more about a payment that is complete."""
    await asking.learn(await desk_of(run), UUID(run.payload["payment"]))
