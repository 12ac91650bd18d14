"""Rules and tiers that staff set, and how far points have been given."""

from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from sqlalchemy import BigInteger, FetchedValue, ForeignKey, Index, Numeric, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class RewardRule(Base):
    """Points for one whole dollar spent, in one category or in any, at its time."""

    __tablename__ = "reward_rules"
    __table_args__ = (Index("ix_reward_rules_created_at", "created_at", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    name: Mapped[str]
    category: Mapped[str | None]
    points_per_unit: Mapped[Decimal] = mapped_column(Numeric)
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    starts_at: Mapped[datetime | None]
    ends_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class RewardTier(Base):
    """What multiplies the points of whoever has earned so many in the last 365 days."""

    __tablename__ = "reward_tiers"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    name: Mapped[str] = mapped_column(unique=True)
    from_points: Mapped[int] = mapped_column(BigInteger, unique=True)
    multiplier: Mapped[Decimal] = mapped_column(Numeric)
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class RewardStanding(Base):
    """The part of a point that a wallet's charges have earned so far; below zero, the points that
    are owed because they were gone when what had earned them was reversed."""

    __tablename__ = "reward_standings"
    unaudited = True

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    carried: Mapped[Decimal] = mapped_column(Numeric, server_default=text("0"))


class RewardRate(Base):
    """Points for one unit, from an entry of a wallet on until the next row says otherwise."""

    __tablename__ = "reward_rates"
    unaudited = True

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    from_seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    rate: Mapped[Decimal] = mapped_column(Numeric)


class RewardDay(Base):
    """Points that the charges of one day have earned, less those of charges reversed that day."""

    __tablename__ = "reward_days"
    unaudited = True

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    earned: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
