"""Usage that is paid for as it happens: each unit charged once, and each charge names its units.

The ledger moves the money and the charge is written in one transaction: both are there or neither.
Who has too little in the wallet is charged for all of it once there is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from sqlalchemy import func, insert, or_, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import User
from bursar.billing import queries
from bursar.billing.models import Charging, PricePlan, UsageCharge, UsagePeriod
from bursar.billing.months import month_of
from bursar.billing.waits import Waiting
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


async def due(
    db: AsyncSession, people: Sequence[UUID], month: str, charging: Charging
) -> tuple[list[Due], list[Waiting]]:
    """What is to be billed of their month, locked until the transaction ends; and what waits."""
    facts = {"people": people, "month": month}
    await db.execute(OPEN, facts)
    found, waiting = [], []
    for row in (await db.execute(DUE, {**facts, "charging": charging})).mappings():
        each = Due(
            **{**row, "amount": int(row["amount"]), "amount_after": int(row["amount_after"])}
        )
        if why := queries.too_much(charging, each.amount, each.amount_after, each.scale):
            waiting.append(Waiting(each.user_id, each.meter, why))
        else:
            found.append(each)
    return found, waiting


async def charge(db: AsyncSession, people: Sequence[UUID], month: str) -> list[Waiting]:
    """Takes what their usage of a month costs out of their wallets; answers what waits."""
    found, waiting = await due(db, people, month, Charging.AT_ONCE)
    if not found:
        return waiting
    outcomes = await wallets.try_all(db, [asked(each) for each in found])
    told = list(zip(found, outcomes, strict=True))
    paid = [
        written(each) | {"operation_id": outcome.operation_id}
        for each, outcome in told
        if isinstance(outcome, Outcome)
    ]
    if paid:
        await db.execute(insert(UsageCharge), paid)
    if refused := [each.period_id for each, outcome in told if isinstance(outcome, WALLET_SAYS_NO)]:
        await note_unpaid(db, refused)
    # Whatever else the ledger refuses is a mistake of ours, and nobody's debt.
    return waiting + [
        Waiting(each.user_id, each.meter, outcome.detail)
        for each, outcome in told
        if isinstance(outcome, BursarError) and not isinstance(outcome, WALLET_SAYS_NO)
    ]


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


async def unpaid(db: AsyncSession) -> list[tuple[str, UUID]]:
    """Months and whose, of customers who could not pay, and have something in that currency now; or
    another tier, and nothing billed yet, so that another plan may hold for them. Where there are
    more than one run takes, those who were tried longest ago come first."""
    has_something = select(Account.id).where(
        Account.owner_id == UsagePeriod.user_id,
        Account.asset == PricePlan.currency,
        Account.status == AccountStatus.OPEN,
        Account.posted - Account.held + Account.overdraft > 0,
    )
    query = select(UsagePeriod).join(PricePlan, PricePlan.id == UsagePeriod.plan_id)
    has_moved = select(User.id).where(
        User.id == UsagePeriod.user_id,
        User.tier != PricePlan.tier,
        UsagePeriod.units == 0,
        UsagePeriod.month == month_of(datetime.now(UTC)),
    )
    may_pay = or_(has_something.exists(), has_moved.exists())
    query = query.where(
        UsagePeriod.unpaid_since.is_not(None), UsagePeriod.user_id.is_not(None), may_pay
    )
    order = UsagePeriod.unpaid_tried_at.asc().nulls_first(), UsagePeriod.id
    found = (await db.scalars(query.order_by(*order).limit(MOST_UNPAID))).all()
    if len(found) == MOST_UNPAID:  # before they are tried: who cannot be is behind the others too
        tried = update(UsagePeriod).where(UsagePeriod.id.in_([each.id for each in found]))
        tried = tried.values(unpaid_tried_at=func.now())
        await db.execute(tried.execution_options(synchronize_session=False))
    return list(dict.fromkeys((each.month, each.user_id) for each in found if each.user_id))
