"""Rewards as they go over the wire: to customers in snake_case, to staff in camelCase."""

from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    model_validator,
)

from bursar.core import money
from bursar.core.money import NUMBER
from bursar.core.paging import PageFields
from bursar.core.wire import (
    WHOLE,
    Line,
    Moment,
    Money,
    StaffWire,
    Wire,
    begins_with_date,
)
from bursar.rewards.models import RewardTier
from bursar.rewards.queries import CustomersRewards
from bursar.rewards.service import Redemption
from bursar.wallets.ledger import USD
from bursar.wallets.queries import Entry

SCALE = 6  # of USD
MOST_POINTS = 10**12

Name = Annotated[Line, Field(min_length=1, max_length=100)]
Day = Annotated[date, PlainSerializer(date.isoformat, return_type=str)]
PerUnit = Annotated[
    Decimal,
    Field(gt=0, le=1000, decimal_places=4, description="Points for one whole dollar spent."),
    NUMBER,
]
Multiplier = Annotated[
    Decimal,
    Field(gt=0, le=10, decimal_places=4, description="Of what its customers earn."),
    NUMBER,
]
FromPoints = Annotated[
    int,
    Field(ge=0, le=MOST_POINTS, strict=True, description="Earned in the last 365 days."),
    WHOLE,
]
Zoned = Annotated[AwareDatetime, BeforeValidator(begins_with_date)]


class RuleIn(StaffWire):
    """A rule as a whole: what is left out has its default."""

    name: Name
    category: Annotated[Line, Field(min_length=1, max_length=100)] | None = Field(
        None, description="Of the charges that it is for; null: of any."
    )
    points_per_unit: PerUnit
    active: StrictBool = True
    starts_at: Zoned | None = None
    ends_at: Zoned | None = Field(None, description="The first moment it is over.")

    @model_validator(mode="after")
    def begins_before_it_ends(self) -> Self:
        if self.starts_at and self.ends_at and self.starts_at >= self.ends_at:
            raise ValueError("A rule ends after it has begun.")
        return self


class RuleFields(BaseModel):
    """What everybody sees of a rule."""

    name: str
    category: str | None
    points_per_unit: Money
    starts_at: Moment | None
    ends_at: Moment | None


class RuleOut(RuleFields, Wire):
    """A rule by which points are earned."""


class RuleForStaff(RuleFields, StaffWire):
    """A rule; the version is the ETag."""

    id: UUID
    active: bool
    version: int
    created_at: Moment
    updated_at: Moment


class RuleList(PageFields, StaffWire):
    """One page of rules."""

    rules: list[RuleForStaff]


class TierIn(StaffWire):
    """A tier as a whole."""

    name: Name
    from_points: FromPoints
    multiplier: Multiplier


class TierFields(BaseModel):
    """What everybody sees of a tier."""

    name: str
    from_points: int
    multiplier: Money


class TierOut(TierFields, Wire):
    """What multiplies points, from so many earned in 365 days on."""


class TierForStaff(TierFields, StaffWire):
    """A tier; the version is the ETag."""

    id: UUID
    version: int
    created_at: Moment
    updated_at: Moment


class TierList(PageFields, StaffWire):
    """One page of tiers."""

    tiers: list[TierForStaff]


class Program(Wire):
    """How points are earned here, and what they are worth."""

    rules: list[RuleOut]
    tiers: list[TierOut]
    redeemable: bool
    points_per_usd: int
    points_redeemed_at_least: int


class ExpiringOut(Wire):
    """The points that go next unless they are redeemed before."""

    points: int
    expires_on: Day


class ExpiringForStaff(ExpiringOut, StaffWire):
    """The same in camelCase."""


class RewardsFields(BaseModel):
    """Where a customer stands."""

    points_balance: int
    points_available: int = Field(description="Without what is held.")
    points_this_year: int = Field(description="Earned in the last 365 days: what the tier goes by.")
    tier: str | None
    multiplier: Money
    next_tier: str | None
    points_to_next_tier: int | None
    redeemable: bool
    value: Money = Field(description="What all available points would be redeemed for.")
    currency: str = USD


class RewardsOut(RewardsFields, Wire):
    """Your points, your tier, and what they are worth."""

    expiring: ExpiringOut | None


class RewardsForStaff(RewardsFields, StaffWire):
    """A customer's points, tier, and what they are worth."""

    expiring: ExpiringForStaff | None


def standing(found: CustomersRewards) -> dict[str, Any]:
    """What both of them say."""
    return {
        "points_balance": found.points_balance,
        "points_available": found.points_available,
        "points_this_year": found.points_this_year,
        "tier": name(found.tier),
        "multiplier": found.tier.multiplier if found.tier else Decimal(1),
        "next_tier": name(found.next_tier),
        "points_to_next_tier": found.points_to_next_tier,
        "redeemable": found.redeeming.redeemable,
        "value": money.decimal(found.worth, SCALE),
        "expiring": found.expiring,
    }


def name(tier: RewardTier | None) -> str | None:
    return tier.name if tier else None


class PointsEntryFields(BaseModel):
    """A line of the history; points below zero went out."""

    id: UUID
    points: int
    points_balance: int = Field(description="After this line.")
    kind: str = Field(description="earn, take_back, redeem, expire, adjustment, …")
    created_at: Moment

    @classmethod
    def of(cls, entry: Entry) -> Self:
        return cls(
            id=entry.id,
            points=entry.amount,
            points_balance=entry.balance,
            kind=entry.kind,
            created_at=entry.posted_at,
        )


class PointsEntryOut(PointsEntryFields, Wire):
    """A line of your history."""


class PointsEntryForStaff(PointsEntryFields, StaffWire):
    """A line of a customer's history."""


class History(PageFields, Wire):
    """One page of your history."""

    history: list[PointsEntryOut]


class HistoryForStaff(PageFields, StaffWire):
    """One page of a customer's history."""

    history: list[PointsEntryForStaff]


class RedemptionIn(Wire):
    """How many points to redeem for balance."""

    points: Annotated[int, Field(gt=0, le=MOST_POINTS, strict=True), WHOLE]


class RedemptionOut(Wire):
    """What came of it. What is less than a millionth of a dollar is not paid."""

    id: UUID
    points: int
    amount: Money
    currency: str = USD
    points_balance: int
    created_at: Moment

    @classmethod
    def of(cls, done: Redemption) -> Self:
        return cls(
            id=done.id,
            points=done.points,
            amount=money.decimal(done.amount, SCALE),
            points_balance=done.points_balance,
            created_at=done.created_at,
        )


class GrantIn(StaffWire):
    """Points to give; below zero they are taken."""

    points: Annotated[int, Field(ge=-MOST_POINTS, le=MOST_POINTS, strict=True), WHOLE]
    reason: Annotated[Line, Field(min_length=3, max_length=500)]

    @model_validator(mode="after")
    def is_something(self) -> Self:
        if self.points == 0:
            raise ValueError("No points would be given and none taken.")
        return self


class GrantOut(StaffWire):
    """What was given or taken, and what there is now."""

    id: UUID
    points: int
    points_balance: int
    created_at: Moment
