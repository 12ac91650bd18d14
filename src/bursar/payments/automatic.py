"""A wallet below its owner's threshold is filled from a saved method: never twice at once.

What counts is what a wallet has now, not each entry that brought it there. So nobody follows
entries: once a minute one statement looks at the wallets of those who have a top-up set, by the
index of their owner. A charge pays nothing for it, and a million wallets without one cost nothing.

The payment is an ordinary one, written down before its provider is asked, so a crash leaves what
the sweeper asks about again by the same key. A unique index lets no second one be pending. Where
nobody is there to act, an attempt that needs somebody is given up.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import User
from bursar.audit import service as audit
from bursar.core import etag, events, jobs, money
from bursar.core.database import Role
from bursar.core.errors import BursarError
from bursar.core.events import Published
from bursar.core.jobs import Run
from bursar.payments import asking, currencies, methods
from bursar.payments import service as payments
from bursar.payments.around_models import AutoTopUp
from bursar.payments.asking import Desk
from bursar.payments.models import Payment, PaymentMethod, ProviderState, Status
from bursar.payments.providers.registry import Providers, providers
from bursar.payments.purposes import TOP_UP
from bursar.payments.receipts import describe, written

MOST_DECLINES = 3
BACK_OFF = (timedelta(hours=1), timedelta(hours=6), timedelta(hours=24))
AT_ONCE = 50
MOST_TURNS = 100  # of one job; what is left has its turn a minute later


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a customer has set."""

    threshold: Decimal
    amount: Decimal
    currency: str = "USD"
    method_id: UUID | None = None
    at_most_per_day: int = 1
    enabled: bool = True


class State(StrEnum):
    """What keeps a top-up from working; `active` is nothing."""

    ACTIVE = "active"
    SWITCHED_OFF = "switched_off"
    NO_METHOD = "no_method"  # it was deleted
    WAITING = "waiting"  # for the next try after a declined payment
    PAUSED = "paused"  # by three of them; saving the settings again sets it going


class NoAutoTopUp(BursarError, status=404, code="payments.no_auto_topup"):
    """No automatic top-up is set for this wallet."""


class NoMethod(BursarError, status=409, code="payments.no_saved_method"):
    """There is no saved method to fill the wallet from: save one with a payment first."""


@dataclass(frozen=True, slots=True)
class View:
    """A top-up and whether it works."""

    row: AutoTopUp

    @property
    def state(self) -> State:
        row = self.row
        if not row.enabled:
            return State.SWITCHED_OFF
        if row.method_id is None:
            return State.NO_METHOD
        if row.declines >= MOST_DECLINES:
            return State.PAUSED
        waits = row.retry_at is not None and row.retry_at > datetime.now(UTC)
        return State.WAITING if waits else State.ACTIVE


async def view(db: AsyncSession, user_id: UUID) -> View:
    row = await db.get(AutoTopUp, user_id, populate_existing=True)
    if row is None:
        raise NoAutoTopUp("No automatic top-up is set for this wallet.")
    return View(row)


async def change(
    db: AsyncSession, user_id: UUID, wanted: Wanted, *, if_match: str | None = None
) -> None:
    """Sets it as its owner wants it; what was declined before counts no more."""
    before = await db.get(AutoTopUp, user_id, populate_existing=True)
    etag.check(if_match, before.version if before else 0)
    await currencies.check(db, wanted.amount, wanted.currency)
    money.signed_minor(wanted.threshold, currencies.digits(wanted.currency), pointer="/threshold")
    await payments.check_limits(db, wanted.amount)
    method_id = wanted.method_id or await default_of(db, user_id)
    await methods.method(db, user_id, method_id)
    values = {**asdict(wanted), "method_id": method_id}
    old = {name: getattr(before, name) for name in values} if before else None
    row = insert(AutoTopUp).values(user_id=user_id, **values)
    again = {**values, "declines": 0, "retry_at": None}
    await db.execute(row.on_conflict_do_update(index_elements=["user_id"], set_=again))
    await audit.record(db, "payments.auto_topup_set", "user", user_id, before=old, after=values)


async def default_of(db: AsyncSession, user_id: UUID) -> UUID:
    query = select(PaymentMethod.id).filter_by(user_id=user_id, is_default=True)
    found: UUID | None = await db.scalar(query)
    if found is None:
        raise NoMethod("Save a method with a payment first; the wallet is filled from it then.")
    return found


async def remove(db: AsyncSession, user_id: UUID) -> None:
    found = (await view(db, user_id)).row
    await db.delete(found)
    await db.flush()
    await audit.record(db, "payments.auto_topup_deleted", "user", user_id)


# Attempts count, whatever has come of them: a card is not tried more often than its owner said.
DUE = text("""
select setting.user_id
from auto_topups as setting
join payment_methods as method on method.id = setting.method_id
join users on users.id = setting.user_id
join assets on assets.code = setting.currency
left join accounts as wallet
  on wallet.owner_id = setting.user_id and wallet.asset = setting.currency
where setting.enabled and setting.declines < :most_declines
  and (setting.retry_at is null or setting.retry_at <= now())
  and users.status = 'active' and users.erased_at is null
  and (wallet.id is null or wallet.status = 'open')
  and coalesce(wallet.posted - wallet.held, 0) < setting.threshold * power(10::numeric, scale)
  and (method.provider, method.test_mode) in (
    select * from unnest(cast(:names as varchar[]), cast(:tests as boolean[])))
  and not exists (
    select from payments
    where user_id = setting.user_id and automatic and payments.status = 'pending')
  and setting.at_most_per_day > (
    select count(*) from payments
    where user_id = setting.user_id and automatic and purpose = 'top_up'
      and payments.created_at >= date_trunc('day', now(), 'UTC'))
order by setting.user_id
limit :most
for no key update of setting skip locked
""")


async def due(db: AsyncSession, known: Providers, most: int = AT_ONCE) -> list[UUID]:
    """Whose wallet is to be filled now, and nobody's settings change meanwhile."""
    these = list(known.known.values())
    found = await db.scalars(
        DUE,
        {
            "most_declines": MOST_DECLINES,
            "names": [each.name for each in these],
            "tests": [each.is_test for each in these],
            "most": most,
        },
    )
    return list(found)


async def begin(db: AsyncSession, user_ids: Collection[UUID]) -> list[UUID]:
    """Writes the payments down; answers which."""
    query = select(AutoTopUp, PaymentMethod).join(
        PaymentMethod, PaymentMethod.id == AutoTopUp.method_id
    )
    found = (await db.execute(query.where(AutoTopUp.user_id.in_(user_ids)))).all()
    return await methods.begin_payments(db, [asked(setting, method) for setting, method in found])


def asked(setting: AutoTopUp, method: PaymentMethod) -> dict[str, Any]:
    return methods.payment_by(
        method,
        amount=setting.amount,
        currency=setting.currency,
        description="Automatic top-up",
        change_reason="the wallet fell below its threshold",
    )


async def stuck(db: AsyncSession, most: int = AT_ONCE) -> list[UUID]:
    """Attempts that wait for somebody, or were declined and could be tried: nobody is there."""
    query = select(Payment.id).where(
        Payment.automatic,
        Payment.status == Status.PENDING,
        Payment.provider_state == ProviderState.WAITING,
        or_(Payment.failure_code.is_not(None), Payment.next_action.is_not(None)),
    )
    return list(await db.scalars(query.order_by(Payment.id).limit(most)))


@jobs.cron("* * * * *", "payments.look_at_wallets")
async def look_at_wallets(db: AsyncSession, _: dict[str, Any]) -> None:
    """Looks once a minute for wallets below their threshold."""
    if await due(db, providers(db.info["settings"]), 1) or await stuck(db, 1):
        await jobs.enqueue(db, fill_wallets, unique_key="one at a time")


@jobs.steps("payments.fill_wallets", added_by={Role.WORKER}, at_once=1)
async def fill_wallets(run: Run) -> None:
    """Fills wallets below their threshold, and gives up attempts that wait for somebody."""
    async with run.transaction() as db:
        desk = Desk(run.transaction, providers(db.info["settings"]))
    for _ in range(MOST_TURNS):
        async with run.transaction() as db:
            begun = await begin(db, await due(db, desk.providers))
        for payment_id in begun:
            await asking.create(desk, payment_id)
        async with run.transaction() as db:
            waiting = await stuck(db)
        for payment_id in waiting:
            await asking.cancel(desk, payment_id)
        if len(begun) < AT_ONCE:
            return


@events.on("payments.completed", "payments.failed", subscriber="payments.auto_topups")
async def learn(db: AsyncSession, event: Published) -> None:
    """A payment that worked ends the count of those that did not; the third of them pauses."""
    payment = await db.get_one(Payment, UUID(event.payload["payment_id"]))
    is_ours = payment.automatic and payment.purpose == TOP_UP
    if not is_ours or payment.user_id is None:
        return
    setting = await db.get(AutoTopUp, payment.user_id, with_for_update=True)
    if setting is None:
        return
    if event.name == "payments.completed":
        setting.declines, setting.retry_at = 0, None
        return
    setting.declines = min(MOST_DECLINES, setting.declines + 1)
    setting.retry_at = datetime.now(UTC) + BACK_OFF[setting.declines - 1]
    await tell(db, payment, paused=setting.declines == MOST_DECLINES)


async def tell(db: AsyncSession, payment: Payment, *, paused: bool) -> None:
    saved = await db.get(PaymentMethod, payment.method_id) if payment.method_id else None
    await letters.tell(
        db,
        "auto_topup_declined",
        await db.get(User, payment.user_id),
        amount=written(payment.amount, payment.currency),
        method=describe(saved) if saved else "saved method",
        reason=(payment.failure_reason or "")[:200],
        paused=paused,
    )
