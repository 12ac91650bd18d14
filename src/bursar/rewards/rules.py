"""Which rule and which tier count, what points are worth, and what staff may set of it.

Of all rules that fit a charge (its category or none, active, at the charge's time) the best one
counts, alone; never for a charge that was made before the rule. A rule that has been changed counts
as it stands when the points are given, which is a minute or two after the charge: also for charges
that were made before the change and have no points yet. A customer's tier is the highest whose
`from_points` they have earned in 365 days, the day of the charge included; it multiplies what they
earn from then on.

Points for a charge are never worth more than a share of what was spent, or whoever spends could
have more back than they gave. No rule and no tier that could lead to more is accepted, and where
points are given the same limit holds again, as staff have set it by then.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from decimal import Decimal

from bursar.rewards.models import RewardRule, RewardTier
from bursar.system.catalogue import setting

TIER_DAYS = timedelta(days=365)
MOST_RULES = 500  # each charge is held against all of them
MOST_TIERS = 50

POINTS_PER_USD = setting(
    "points_per_usd",
    int,
    100,
    "How many points are redeemed for one dollar.",
    ge=1,
    le=1_000_000,
)
WORTH_AT_MOST = setting(
    "points_worth_at_most",
    Decimal,
    Decimal("0.5"),
    "The share of what was spent that the points for it may be worth; 0.5 is half of it.",
    ge=0,
    le=1,
)
REDEEMABLE = setting(
    "points_redeemable", bool, True, "Whether customers may redeem points for balance."
)
LEAST_REDEEMED = setting(
    "points_redeemed_at_least",
    int,
    100,
    "The fewest points that are redeemed at once.",
    ge=1,
    le=1_000_000_000,
)
EXPIRE_AFTER_DAYS = setting(
    "points_expire_after_days",
    int,
    0,
    "After how many whole days points expire, the oldest first; 0: never.",
    ge=0,
    le=3650,
)
MOST_GRANTED = setting(
    "points_granted_at_most",
    int,
    10_000,
    "How many points one member of staff may give and take by hand in one day, counted in UTC.",
    ge=1,
    le=1_000_000_000,
)


def fits(rule: RewardRule, category: str | None, moment: datetime) -> bool:
    return (
        rule.active
        and rule.created_at <= moment
        and (rule.category is None or rule.category == category)
        and (rule.starts_at is None or rule.starts_at <= moment)
        and (rule.ends_at is None or moment < rule.ends_at)
    )


def points_per_unit(rules: Iterable[RewardRule], category: str | None, moment: datetime) -> Decimal:
    """Of the best rule that fits; 0 where none does."""
    found = (rule.points_per_unit for rule in rules if fits(rule, category, moment))
    return max(found, default=Decimal(0))


def tier_of(tiers: Iterable[RewardTier], earned: int) -> RewardTier | None:
    """The highest that so many points reach. More given back than earned counts as none earned, as
    customers are shown it."""
    reached = [tier for tier in tiers if tier.from_points <= max(0, earned)]
    return max(reached, key=lambda tier: tier.from_points, default=None)


def tier_after(tiers: Iterable[RewardTier], earned: int) -> RewardTier | None:
    """The lowest that they do not reach yet."""
    ahead = [tier for tier in tiers if tier.from_points > earned]
    return min(ahead, key=lambda tier: tier.from_points, default=None)


def most_per_unit(share: Decimal, points_per_usd: int) -> Decimal:
    """As many points for a dollar as are worth that share of it."""
    return share * points_per_usd


def worth(points: int, points_per_usd: int) -> int:
    """In millionths of a dollar; what is less than that is not paid."""
    return points * 10**6 // points_per_usd
