"""Reads of rewards: rules and tiers, where a customer stands, and the history of their points."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.queries import keeps_personal_data
from bursar.core import paging
from bursar.core.errors import NotFound
from bursar.core.paging import Order, Page, PageQuery
from bursar.rewards import rules as what_counts
from bursar.rewards.models import RewardDay, RewardRule, RewardTier
from bursar.system import queries as system
from bursar.wallets import queries as wallets
from bursar.wallets.ledger import POINTS, USD
from bursar.wallets.models import Account
from bursar.wallets.queries import Entry, EntryFilters

TAKEN_AWAY = 1_000  # lines of the history stand in the export of personal data, the newest

RULES = Order(
    {"created_at": RewardRule.created_at, "name": RewardRule.name},
    key=RewardRule.id,
    default="-created_at",
)
TIERS = Order(
    {"from_points": RewardTier.from_points, "name": RewardTier.name},
    key=RewardTier.id,
    default="from_points",
)


async def rules(db: AsyncSession) -> Sequence[RewardRule]:
    """Those that are active; of customers' login roles the database shows no others anyway."""
    query = select(RewardRule).where(RewardRule.active)
    return (await db.scalars(query.order_by(RewardRule.created_at, RewardRule.id))).all()


async def tiers(db: AsyncSession) -> Sequence[RewardTier]:
    return (await db.scalars(select(RewardTier).order_by(RewardTier.from_points))).all()


async def most_per_unit(db: AsyncSession) -> Decimal:
    """The most points that may be given for a dollar, as staff have it set now."""
    return what_counts.most_per_unit(
        await system.value(db, what_counts.WORTH_AT_MOST),
        await system.value(db, what_counts.POINTS_PER_USD),
    )


async def highest_rate(db: AsyncSession) -> Decimal:
    """Of all rules that are not over, also of those that have not begun."""
    over = RewardRule.ends_at <= func.now()
    query = select(func.max(RewardRule.points_per_unit)).where(RewardRule.active, over.is_not(True))
    return await db.scalar(query) or Decimal(0)


async def highest_multiplier(db: AsyncSession) -> Decimal:
    """Of all tiers; without a tier points are taken once."""
    return max(Decimal(1), await db.scalar(select(func.max(RewardTier.multiplier))) or Decimal(0))


async def rules_page(
    db: AsyncSession, ask: PageQuery, *, active: bool | None = None
) -> Page[RewardRule]:
    query = select(RewardRule)
    if active is not None:
        query = query.where(RewardRule.active == active)
    return await paging.fetch(db, query, ask, RULES)


async def tiers_page(db: AsyncSession, ask: PageQuery) -> Page[RewardTier]:
    return await paging.fetch(db, select(RewardTier), ask, TIERS)


async def rule(db: AsyncSession, rule_id: UUID) -> RewardRule:
    found = await db.get(RewardRule, rule_id)
    if found is None:
        raise NotFound("There is no such rule.")
    return found


async def tier(db: AsyncSession, tier_id: UUID) -> RewardTier:
    found = await db.get(RewardTier, tier_id)
    if found is None:
        raise NotFound("There is no such tier.")
    return found


@dataclass(frozen=True, slots=True)
class Redeeming:
    """What staff have set about redeeming."""

    redeemable: bool
    points_per_usd: int
    at_least: int


async def redeeming(db: AsyncSession) -> Redeeming:
    return Redeeming(
        await system.value(db, what_counts.REDEEMABLE),
        await system.value(db, what_counts.POINTS_PER_USD),
        await system.value(db, what_counts.LEAST_REDEEMED),
    )


@dataclass(frozen=True, slots=True)
class Expiring:
    """The points that expire next, unless they are redeemed before."""

    points: int
    expires_on: date


@dataclass(frozen=True, slots=True)
class CustomersRewards:
    """Where a customer stands."""

    points_balance: int
    points_available: int
    points_this_year: int
    tier: RewardTier | None
    next_tier: RewardTier | None
    expiring: Expiring | None
    redeeming: Redeeming
    worth: int  # in millionths of a dollar

    @property
    def points_to_next_tier(self) -> int | None:
        return self.next_tier.from_points - self.points_this_year if self.next_tier else None


async def rewards(db: AsyncSession, user_id: UUID) -> CustomersRewards:
    """Of one customer; who has never earned a point stands at none."""
    usd, points = await accounts(db, user_id)
    balance = points.posted if points else 0
    available = max(0, points.posted - points.held) if points else 0
    this_year = await earned_this_year(db, usd)
    all_tiers = await tiers(db)
    conditions = await redeeming(db)
    return CustomersRewards(
        points_balance=balance,
        points_available=available,
        points_this_year=this_year,
        tier=what_counts.tier_of(all_tiers, this_year),
        next_tier=what_counts.tier_after(all_tiers, this_year),
        expiring=await expiring(db, points) if points else None,
        redeeming=conditions,
        worth=what_counts.worth(available, conditions.points_per_usd),
    )


async def accounts(db: AsyncSession, user_id: UUID) -> tuple[Account, Account | None]:
    """A customer's wallet, and the one for points if they have one already."""
    query = select(Account).where(Account.owner_id == user_id, Account.asset.in_((USD, POINTS)))
    by_asset = {account.asset: account for account in await db.scalars(query)}
    if USD not in by_asset:
        raise NotFound("There is no such customer.")
    return by_asset[USD], by_asset.get(POINTS)


async def earned_this_year(db: AsyncSession, usd: Account) -> int:
    """In the last 365 days; what counts for the tier."""
    first = datetime.now(UTC).date() - what_counts.TIER_DAYS
    query = select(func.coalesce(func.sum(RewardDay.earned), 0)).where(
        RewardDay.account_id == usd.id, RewardDay.day > first
    )
    return max(0, int(await db.scalar(query) or 0))


LOTS_AT_ONCE = 1_000
# First in, first out: of all that came in, the newest that make up the balance are still there. Of
# one piece of them: how many points that is, where it begins, and what is left of its first day.
LIVING = text("""
with lots as (
  select seq, amount, (posted_at at time zone 'UTC')::date as day,
    sum(amount) over (order by seq desc) - amount as newer
  from wallet_entries(:account, until_seq => :until_seq, most => :most, credits => true)
), living as (
  select seq, day, least(amount, :balance - newer) as points from lots where newer < :balance
), oldest as (select min(day) as day from living)
select oldest.day, min(seq) as seq, sum(points)::bigint as points,
  sum(points) filter (where living.day = oldest.day)::bigint as on_day
from living cross join oldest group by oldest.day
""")


async def expiring(
    db: AsyncSession, points: Account, *, at_once: int = LOTS_AT_ONCE
) -> Expiring | None:
    """Reads backwards to the oldest point that is left, and nothing of what is gone before it."""
    days = await system.value(db, what_counts.EXPIRE_AFTER_DAYS)
    if days == 0 or points.posted <= 0:
        return None
    oldest, found = date.max, 0
    balance, until = points.posted, points.seq
    while balance > 0:
        asked = {"account": points.id, "balance": balance, "until_seq": until, "most": at_once}
        piece = (await db.execute(LIVING, asked)).one()
        found = piece.on_day + (found if piece.day == oldest else 0)
        oldest, balance, until = piece.day, balance - piece.points, piece.seq - 1
    return Expiring(found, oldest + timedelta(days=days + 1))


async def history(db: AsyncSession, user_id: UUID, ask: PageQuery) -> Page[Entry]:
    """Every point that came, or went (below zero): the newest first."""
    _, points = await accounts(db, user_id)
    if points is None:
        return Page([], 0, ask.size, ask.start, None)
    return await wallets.entries(db, points, EntryFilters(), ask)


@keeps_personal_data("rewards")
async def personal_data(db: AsyncSession, user_id: UUID) -> dict[str, Any]:
    """The points of a customer, and the newest lines of their history."""
    standing = await rewards(db, user_id)
    _, points = await accounts(db, user_id)
    lines: Sequence[Entry] = ()
    if points:
        lines = await wallets.read(db, points, EntryFilters(), 0, points.seq, TAKEN_AWAY)
    return {
        "points_balance": standing.points_balance,
        "points_this_year": standing.points_this_year,
        "tier": standing.tier.name if standing.tier else None,
        "history": [
            {"points": line.amount, "kind": line.kind, "created_at": line.posted_at}
            for line in lines
        ],
    }
