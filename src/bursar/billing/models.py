"""Meters, price plans, and what was billed of each month's usage; the database keeps them right."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    Numeric,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import (
    ARRAY,
    CHAR,
    JSONB,
)
from sqlalchemy.orm import Mapped, mapped_column, query_expression

from bursar.core.database import Base

NOTHING = text("0")


class Counts(StrEnum):
    """What of each call a meter adds up."""

    UNITS = "units"
    CALLS = "calls"


class Charging(StrEnum):
    """When usage is paid for."""

    AT_ONCE = "at_once"  # from the wallet, within minutes
    MONTHLY = "monthly"  # by an invoice, after the month


class InvoiceStatus(StrEnum):
    """Where an invoice stands."""

    OPEN = "open"
    PAID = "paid"
    VOID = "void"


class BillingMeter(Base):
    """What is counted for money: all usage, or that of some endpoints. It is never changed."""

    __tablename__ = "billing_meters"
    __table_args__ = (Index("ix_billing_meters_created_at", "created_at", "code"),)

    code: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    counts: Mapped[str] = mapped_column(server_default=Counts.UNITS)
    endpoints: Mapped[list[str]] = mapped_column(ARRAY(String), server_default="{}")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class PricePlan(Base):
    """What a meter costs, for whom and in which months; its prices are never changed."""

    __tablename__ = "price_plans"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    name: Mapped[str]
    meter: Mapped[str] = mapped_column(ForeignKey("billing_meters.code"))
    charging: Mapped[str]
    currency: Mapped[str] = mapped_column(ForeignKey("assets.code"), server_default="USD")
    tier: Mapped[str | None]
    user_id: Mapped[UUID | None]
    included: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    price_tiers: Mapped[list[dict[str, Any]]] = mapped_column(JSONB)
    first_month: Mapped[str] = mapped_column(CHAR(7))
    last_month: Mapped[str | None] = mapped_column(CHAR(7))
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    __table_args__ = (
        Index("ix_price_plans_created_at", "created_at", "id"),
        Index("ix_price_plans_user_id", "user_id", "tier"),
    )


class UsagePeriod(Base):
    """What was billed of a customer's month at one meter: so many units, for so much."""

    __tablename__ = "usage_periods"
    __table_args__ = (
        UniqueConstraint("user_id", "meter", "month", name="uq_usage_periods_month"),
        Index("ix_usage_periods_plan_id", "plan_id"),
        Index(
            "ix_usage_periods_unpaid",
            "id",
            postgresql_where=text("unpaid_since is not null"),
        ),
    )
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    meter: Mapped[str]
    month: Mapped[str] = mapped_column(CHAR(7))
    plan_id: Mapped[UUID] = mapped_column(ForeignKey("price_plans.id"))
    units: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    amount: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    unpaid_since: Mapped[datetime | None]
    unpaid_tried_at: Mapped[datetime | None]  # where more are unpaid than one run tries


class Invoice(Base):
    """What a month of usage costs, its charges as lines; paid once, from wallet or by payment, and
    once more where that money is taken back."""

    __tablename__ = "invoices"
    __table_args__ = (
        UniqueConstraint("year", "number", name="uq_invoices_number"),
        UniqueConstraint("operation_id", name="uq_invoices_operation_id"),
        UniqueConstraint("payment_id", name="uq_invoices_payment_id"),
        Index("ix_invoices_user_id", "user_id", "issued_at", "id"),
        Index("ix_invoices_issued_at", "issued_at", "id"),
        Index("ix_invoices_status", "status", "issued_at", "id"),
        Index("ix_invoices_month", "month", "issued_at", "id"),
        Index("ix_invoices_open", "id", postgresql_where=text("status = 'open'")),
        Index("ix_invoices_due_at", "due_at", postgresql_where=text("status = 'open'")),
    )
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's own name

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    year: Mapped[int] = mapped_column(server_default=FetchedValue())
    number: Mapped[int] = mapped_column(server_default=FetchedValue())
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    month: Mapped[str] = mapped_column(CHAR(7))
    currency: Mapped[str] = mapped_column(ForeignKey("assets.code"))
    total: Mapped[Decimal] = mapped_column(Numeric)
    forgiven: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    taken_before: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    taken_known: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    status: Mapped[str] = mapped_column(server_default=InvoiceStatus.OPEN)
    issued_at: Mapped[datetime] = mapped_column(server_default=func.now())
    due_at: Mapped[datetime]
    paid_at: Mapped[datetime | None]
    operation_id: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"))
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"))
    void_reason: Mapped[str | None]
    next_try_at: Mapped[datetime] = mapped_column(server_default=func.now())
    overdue_mailed_at: Mapped[datetime | None]
    reopened_at: Mapped[datetime | None]
    reopen_reason: Mapped[str | None]
    kept: Mapped[Decimal | None] = query_expression()  # of what has paid it; for who asks for it
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    @property
    def title(self) -> str:
        """The number as people say it."""
        return f"INV-{self.year}-{self.number:06d}"

    @property
    def to_pay(self) -> Decimal:
        """What pays it: the whole, but for what was given back for good before it was reopened."""
        return self.total - self.forgiven


class UsageCharge(Base):
    """Money for the units of a month from one to another, each billed once; never changed."""

    __tablename__ = "usage_charges"
    __table_args__ = (
        UniqueConstraint("operation_id", name="uq_usage_charges_operation_id"),
        Index("ix_usage_charges_period_id", "period_id", "to_units"),
        Index("ix_usage_charges_user_id", "user_id", "created_at", "id"),
        Index(
            "ix_usage_charges_invoice_id",
            "invoice_id",
            postgresql_where=text("invoice_id is not null"),
        ),
    )
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    period_id: Mapped[UUID] = mapped_column(ForeignKey("usage_periods.id"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    from_units: Mapped[int] = mapped_column(BigInteger)
    to_units: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[int] = mapped_column(BigInteger)
    amount_after: Mapped[int] = mapped_column(BigInteger)
    operation_id: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"))
    invoice_id: Mapped[UUID | None] = mapped_column(ForeignKey("invoices.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class BillingLook(Base):
    """Up to when changes of a month's usage have been looked at, and where the look is just now."""

    __tablename__ = "billing_looks"
    unaudited = True

    charging: Mapped[str] = mapped_column(primary_key=True)
    month: Mapped[str] = mapped_column(CHAR(7), primary_key=True)
    upto: Mapped[datetime | None]
    began: Mapped[datetime | None]
    after: Mapped[UUID | None]


class BillingWait(Base):
    """That a meter of a customer's month cannot be billed as it is, or none of them, and why."""

    __tablename__ = "billing_waits"
    __table_args__ = (
        UniqueConstraint(
            "user_id",
            "month",
            "charging",
            "meter",
            name="uq_billing_waits_meter",
            postgresql_nulls_not_distinct=True,
        ),
        Index("ix_billing_waits_since", "since", "id"),
    )
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    charging: Mapped[str]
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    month: Mapped[str] = mapped_column(CHAR(7))
    meter: Mapped[str | None]
    waits_because: Mapped[str]
    since: Mapped[datetime] = mapped_column(server_default=func.now())
    next_look_at: Mapped[datetime] = mapped_column(server_default=func.now())
