"""Usage that is paid for as it happens: each unit charged once, and each charge names its units.

The ledger moves the money and the charge is written in one transaction: both are there or neither.
Who has too little in the wallet is charged for all of it once there is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing.models import Charging, UsageCharge, UsagePeriod
from bursar.core import money
from bursar.core.errors import BursarError
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Outcome, Request
from bursar.wallets.models import Account, AccountStatus

SCOPE = "billing"
MOST_UNPAID = 5000  # of one run
WALLET_SAYS_NO = (
    ledger.InsufficientFunds,
    ledger.AccountFrozen,
    ledger.AccountClosed,
    ledger.UnknownAccount,
)
OPEN = text("select open_usage_periods(cast(:people as uuid[]), :month)")
DUE = text("select * from usage_due(cast(:people as uuid[]), :month, :charging)")


@dataclass(frozen=True, slots=True)
class Due:
    """The next units of a customer's month that cost something, and what."""

    period_id: UUID
    user_id: UUID
    meter: str
    plan: str
    currency: str
    scale: int
    from_units: int
    to_units: int
    amount: int
    amount_after: int


class TooMuch(BursarError, status=409, code="billing.too_much"):
    """More than an invoice can say or the ledger can move: the usage or its price cannot be right.
    It stands in the log, for staff to look at."""


async def due(
    db: AsyncSession, people: Sequence[UUID], month: str, charging: Charging
) -> list[Due]:
    """What is to be billed of their month; locked until the transaction ends."""
    facts = {"people": people, "month": month}
    await db.execute(OPEN, facts)
    rows = await db.execute(DUE, {**facts, "charging": charging})
    return [checked(**row) for row in rows.mappings()]


def checked(amount: Decimal, amount_after: Decimal, **about: Any) -> Due:
    if amount_after > money.MOST_MINOR:
        raise TooMuch(f"{amount_after} of the smallest unit is more than the ledger can move.")
    return Due(amount=int(amount), amount_after=int(amount_after), **about)


async def charge(db: AsyncSession, people: Sequence[UUID], month: str) -> int:
    """Takes what their usage of a month costs out of their wallets; answers how often it did."""
    found = await due(db, people, month, Charging.AT_ONCE)
    if not found:
        return 0
    outcomes = await wallets.try_all(db, [asked(each) for each in found])
    told = list(zip(found, outcomes, strict=True))
    paid = [
        written(each) | {"operation_id": outcome.operation_id}
        for each, outcome in told
        if isinstance(outcome, Outcome)
    ]
    if paid:
        await db.execute(insert(UsageCharge), paid)
    if refused := [each.period_id for each, outcome in told if cannot_pay(outcome)]:
        await note_unpaid(db, refused)
    return len(paid)


def cannot_pay(outcome: Outcome | BursarError) -> bool:
    """Whatever else the ledger refuses is a mistake of ours, and nobody's debt."""
    if isinstance(outcome, BursarError) and not isinstance(outcome, WALLET_SAYS_NO):
        raise outcome
    return isinstance(outcome, BursarError)


def asked(each: Due) -> Request:
    about = {
        "meter": each.meter,
        "from_units": each.from_units,
        "to_units": each.to_units,
        "period_id": str(each.period_id),
    }
    leg = ledger.transfer(
        ledger.user(each.user_id),
        "revenue",
        each.amount,
        each.currency,
        kind="charge",
        category="usage",
        metadata=about,
    )
    return Request(SCOPE, f"{each.period_id}:{each.from_units}", (leg,), event="billing.charged")


def written(each: Due) -> dict[str, object]:
    names = ("period_id", "from_units", "to_units", "amount", "amount_after")
    return {name: getattr(each, name) for name in names}


async def note_unpaid(db: AsyncSession, periods: Sequence[UUID]) -> None:
    row = update(UsagePeriod).where(UsagePeriod.id.in_(periods), UsagePeriod.unpaid_since.is_(None))
    row = row.values(unpaid_since=func.now())
    await db.execute(row.execution_options(synchronize_session=False))


async def unpaid(db: AsyncSession) -> Sequence[UsagePeriod]:
    """Periods of customers who could not pay, and have something in a wallet now."""
    has_something = select(Account.id).where(
        Account.owner_id == UsagePeriod.user_id,
        Account.status == AccountStatus.OPEN,
        Account.posted - Account.held + Account.overdraft > 0,
    )
    query = select(UsagePeriod).where(UsagePeriod.unpaid_since.is_not(None), has_something.exists())
    return (await db.scalars(query.order_by(UsagePeriod.id).limit(MOST_UNPAID))).all()
