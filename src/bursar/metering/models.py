"""Usage: raw events by month, and what they add up to; written by SQL functions alone."""

from datetime import date, datetime
from ipaddress import IPv4Address, IPv6Address
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    SmallInteger,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CHAR, INET
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class Usage(Base):
    """One call of the business's API."""

    __tablename__ = "usage"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "api_key_id"], ["api_keys.user_id", "api_keys.id"], ondelete="CASCADE"
        ),
        {"postgresql_partition_by": "range (timestamp)"},
    )
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    timestamp: Mapped[datetime] = mapped_column(primary_key=True, server_default=func.now())
    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    api_key_id: Mapped[UUID | None]
    event_id: Mapped[str | None]
    endpoint: Mapped[str]
    location: Mapped[str | None]
    state: Mapped[str | None]
    date_from: Mapped[str | None]
    date_to: Mapped[str | None]
    response_time_ms: Mapped[int | None]
    status_code: Mapped[int | None] = mapped_column(SmallInteger)
    error_message: Mapped[str | None]
    ip_address: Mapped[IPv4Address | IPv6Address | None] = mapped_column(INET)
    user_agent: Mapped[str | None]
    units: Mapped[int] = mapped_column(BigInteger, server_default=text("1"))
    recorded_at: Mapped[datetime] = mapped_column(server_default=func.now())


class UsageEventId(Base):
    """That an event was counted; kept at least as long as the event itself, which may lie ahead."""

    __tablename__ = "usage_event_ids"
    __table_args__ = (Index("ix_usage_event_ids_seen_on", "seen_on", postgresql_using="brin"),)
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    event: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    seen_on: Mapped[date] = mapped_column(server_default=func.current_date())
    usage_id: Mapped[UUID | None]  # where it was verified
    line_id: Mapped[UUID | None]  # of the key that it came with; all zeros: of none


class MonthlyUsage(Base):
    """What a customer used in one month (UTC); it outlives the raw events."""

    __tablename__ = "monthly_usage"
    __table_args__ = (Index("ix_monthly_usage_month", "month", "user_id"),)
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    month: Mapped[str] = mapped_column(CHAR(7), primary_key=True)
    total_requests: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    successful_requests: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    failed_requests: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    total_response_time_ms: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    units: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    last_updated: Mapped[datetime] = mapped_column(server_default=func.now())


class ApiKeyMonth(Base):
    """What came with the keys of one line in one month."""

    __tablename__ = "api_key_months"
    unaudited = True

    line_id: Mapped[UUID] = mapped_column(
        ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True
    )
    month: Mapped[str] = mapped_column(CHAR(7), primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    units: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class Rollup:
    """Calls of one customer to one endpoint by one key with one status, and how long they took.

    All zeros stand for no key, or none that anybody named, and 0 for no status."""

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    endpoint: Mapped[str] = mapped_column(primary_key=True)
    api_key_id: Mapped[UUID] = mapped_column(primary_key=True)
    status_code: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    requests: Mapped[int] = mapped_column(BigInteger)
    units: Mapped[int] = mapped_column(BigInteger)
    timed: Mapped[int] = mapped_column(BigInteger)
    total_response_time_ms: Mapped[int] = mapped_column(BigInteger)
    latencies: Mapped[list[int]] = mapped_column(ARRAY(BigInteger))


class UsageHour(Rollup, Base):
    """In one hour."""

    __tablename__ = "usage_hours"
    unaudited = True

    hour: Mapped[datetime] = mapped_column(primary_key=True)


class UsageDay(Rollup, Base):
    """On one day (UTC)."""

    __tablename__ = "usage_days"
    unaudited = True

    day: Mapped[date] = mapped_column(primary_key=True)


class UsageGrant(Base):
    """More than the tier has, for one customer in one month."""

    __tablename__ = "usage_grants"
    __table_args__ = (
        Index("ix_usage_grants_user_id", "user_id", "month"),
        Index("ix_usage_grants_created_at", "created_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    month: Mapped[str] = mapped_column(CHAR(7))
    units: Mapped[int] = mapped_column(BigInteger)
    reason: Mapped[str]
    granted_by: Mapped[UUID | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class QuotaWarning(Base):
    """That a customer came so near to the end of a quota, which may be another one later in the
    month; each is mailed once."""

    __tablename__ = "quota_warnings"
    __table_args__ = (
        Index(
            "ix_quota_warnings_waiting", "noticed_at", postgresql_where=text("mailed_at is null")
        ),
    )
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    month: Mapped[str] = mapped_column(CHAR(7), primary_key=True)
    percent: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    quota: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    used: Mapped[int] = mapped_column(BigInteger)
    is_hard: Mapped[bool]
    noticed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    mailed_at: Mapped[datetime | None]


class UsageStop(Base):
    """That a customer's calls are refused until something is paid (billing/stops.py)."""

    __tablename__ = "usage_stops"
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    since: Mapped[datetime] = mapped_column(server_default=func.now())
