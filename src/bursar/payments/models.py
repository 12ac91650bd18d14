"""The tables of payments: what was asked for, what came of it, and what providers tell us."""

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
    LargeBinary,
    Numeric,
    SmallInteger,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class Method(StrEnum):
    """How somebody pays."""

    STRIPE = "stripe"
    PAYPAL = "paypal"
    CASH = "cash"
    CHECK = "check"
    BANK_TRANSFER = "bank_transfer"


class Status(StrEnum):
    """Where a payment stands; it only goes forward."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    REFUNDED = "refunded"
    PARTIALLY_REFUNDED = "partially_refunded"


class ProviderState(StrEnum):
    """How far we have come with the provider, of a payment and of a refund."""

    INTENDED = "intended"  # written down here; the provider was not heard of yet
    UNKNOWN = (
        "unknown"  # asked, and how that ended nobody knows: to be asked again, by the same key
    )
    WAITING = "waiting"  # the provider has it; the customer, or time, has to act
    DONE = "done"
    GONE = "gone"  # declined, cancelled or expired: nothing more will come


class RefundStatus(StrEnum):
    """Where a refund stands."""

    PENDING = "pending"
    COMPLETED = "completed"
    FAILED = "failed"
    RETURNED = "returned"  # done, and then sent back by their bank, or of money that never came


class Destination(StrEnum):
    """Where refunded money goes: the way it came, or into the customer's wallet."""

    PROVIDER = "provider"
    WALLET = "wallet"


class DisputeStatus(StrEnum):
    """Where a dispute stands."""

    OPEN = "open"
    WON = "won"
    LOST = "lost"


class EventStatus(StrEnum):
    """What has become of a webhook of a provider."""

    WAITING = "waiting"
    PARKED = "parked"  # it is about something that is not here yet, and is tried again
    DONE = "done"
    IGNORED = "ignored"  # of a type that changes nothing here
    FAILED = "failed"  # tried for as long as it is tried; staff can replay it


NOTHING = text("0")
NO = text("false")
EAGER: dict[str, Any] = {"eager_defaults": True}  # what a trigger has set comes back at once


class ProviderCustomer(Base):
    """Who a customer is at a provider; made when a method is to be saved."""

    __tablename__ = "provider_customers"
    unaudited = True

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    provider: Mapped[str] = mapped_column(primary_key=True)
    customer_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("provider", "customer_id", name="uq_provider_customers_customer_id"),
    )


class PaymentMethod(Base):
    """A saved way to pay: the provider's token for it, never a number."""

    __tablename__ = "payment_methods"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    provider: Mapped[str]
    token: Mapped[str]
    kind: Mapped[str] = mapped_column(server_default="card")
    brand: Mapped[str | None]
    last_four: Mapped[str | None]
    exp_month: Mapped[int | None] = mapped_column(SmallInteger)
    exp_year: Mapped[int | None] = mapped_column(SmallInteger)
    is_default: Mapped[bool] = mapped_column(server_default=NO)
    test_mode: Mapped[bool] = mapped_column(server_default=NO)
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    __table_args__ = (
        UniqueConstraint("provider", "token", name="uq_payment_methods_token"),
        Index("ix_payment_methods_user_id", "user_id", "created_at", "id"),
        Index(
            "uq_payment_methods_default",
            "user_id",
            unique=True,
            postgresql_where=text("is_default"),
        ),
    )


class Payment(Base):
    """What somebody is to pay, for what, and what has come of it."""

    __tablename__ = "payments"
    __mapper_args__ = EAGER

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    amount: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str] = mapped_column(ForeignKey("assets.code"), server_default="USD")
    payment_method: Mapped[str]
    status: Mapped[str] = mapped_column(
        server_default=Status.PENDING, server_onupdate=FetchedValue()
    )
    purpose: Mapped[str] = mapped_column(server_default="top_up")
    service_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("services.id", name="fk_payments_service_id", use_alter=True)
    )
    appointment_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("appointments.id", name="fk_payments_appointment_id", use_alter=True)
    )
    training_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("trainings.id", name="fk_payments_training_id", use_alter=True)
    )
    invoice_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("invoices.id", name="fk_payments_invoice_id", use_alter=True)
    )
    description: Mapped[str | None]
    reference: Mapped[str | None]  # what stands on the check or the transfer
    provider: Mapped[str]
    provider_state: Mapped[str] = mapped_column(server_default=ProviderState.INTENDED)
    test_mode: Mapped[bool] = mapped_column(server_default=NO)
    stripe_payment_intent_id: Mapped[str | None] = mapped_column(unique=True)
    stripe_customer_id: Mapped[str | None]
    stripe_charge_id: Mapped[str | None] = mapped_column(unique=True)
    paypal_order_id: Mapped[str | None] = mapped_column(unique=True)
    paypal_payment_id: Mapped[str | None] = mapped_column(unique=True)
    paypal_payer_id: Mapped[str | None]
    method_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("payment_methods.id", ondelete="SET NULL")
    )
    save_method: Mapped[bool] = mapped_column(server_default=NO)
    automatic: Mapped[bool] = mapped_column(server_default=NO)  # of an automatic top-up
    next_action: Mapped[dict[str, Any] | None]
    captured: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    refunded: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    refund_pending: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    disputed: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    fee: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    unclaimed: Mapped[bool] = mapped_column(server_default=NO)  # the wallet could not take it
    failure_code: Mapped[str | None]
    failure_reason: Mapped[str | None]
    change_reason: Mapped[str | None]  # of the newest change; payment_audits keeps them all
    changed_by: Mapped[str | None]
    change_data: Mapped[dict[str, Any] | None]
    # `metadata` is SQLAlchemy's own name
    about: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary)
    attempts: Mapped[int] = mapped_column(server_default=NOTHING)
    asked_at: Mapped[datetime | None]
    payment_date: Mapped[datetime | None] = mapped_column(server_onupdate=FetchedValue())
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    __table_args__ = (
        Index(
            "uq_payments_idempotency_key",
            "user_id",
            "idempotency_key",
            unique=True,
            postgresql_where=text("idempotency_key is not null"),
        ),
        Index(
            "uq_payments_automatic",
            "user_id",
            unique=True,
            postgresql_where=text("automatic and status = 'pending'"),
        ),
        Index("ix_payments_automatic", "user_id", "created_at", postgresql_where=text("automatic")),
        Index("ix_payments_user_id", "user_id", "created_at", "id"),
        Index("ix_payments_created_at", "created_at", "id"),
        Index("ix_payments_status", "status", "created_at", "id"),
        Index("ix_payments_payment_method", "payment_method", "created_at", "id"),
        Index(
            "ix_payments_due",
            "asked_at",
            postgresql_where=text("provider_state in ('intended', 'unknown')"),
        ),
        Index("ix_payments_reference", "reference", postgresql_where=text("reference is not null")),
        *(
            Index(f"ix_payments_{name}", name, postgresql_where=text(f"{name} is not null"))
            for name in ("service_id", "appointment_id", "training_id", "invoice_id")
        ),
    )

    @property
    def subject_id(self) -> UUID | None:
        """What it is paid for, where that is no top-up."""
        return self.service_id or self.appointment_id or self.training_id or self.invoice_id

    @property
    def stays(self) -> Decimal:
        """What of it is here, and not on its way back."""
        return self.captured - self.refunded - self.refund_pending

    @property
    def refundable(self) -> Decimal:
        """What could still go back: what is contested may be lost."""
        return self.stays - self.disputed


class PaymentAudit(Base):
    """One change of a payment; written by a trigger, never changed."""

    __tablename__ = "payment_audits"
    __table_args__ = (Index("ix_payment_audits_payment_id", "payment_id", "created_at", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    old_status: Mapped[str | None]
    new_status: Mapped[str]
    change_reason: Mapped[str | None]
    changed_by: Mapped[str]
    captured: Mapped[Decimal] = mapped_column(Numeric)
    refunded: Mapped[Decimal] = mapped_column(Numeric)
    provider_data: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class Refund(Base):
    """Money that goes back. A trigger counts it in its payment, where a CHECK bounds it."""

    __tablename__ = "refunds"
    __mapper_args__ = EAGER

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    amount: Mapped[Decimal] = mapped_column(Numeric)
    destination: Mapped[str] = mapped_column(server_default=Destination.PROVIDER)
    status: Mapped[str] = mapped_column(server_default=RefundStatus.PENDING)
    provider_state: Mapped[str] = mapped_column(server_default=ProviderState.INTENDED)
    provider_refund_id: Mapped[str | None] = mapped_column(unique=True)
    reason: Mapped[str | None]
    taken: Mapped[bool] = mapped_column(server_default=NO)  # from us: it bounced, or a bank has
    requested_by: Mapped[str]
    failure_reason: Mapped[str | None]
    idempotency_key: Mapped[str | None]
    fingerprint: Mapped[bytes | None] = mapped_column(LargeBinary)
    attempts: Mapped[int] = mapped_column(server_default=NOTHING)
    asked_at: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )
    settled_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("payment_id", "idempotency_key", name="uq_refunds_idempotency_key"),
        Index("ix_refunds_payment_id", "payment_id", "created_at", "id"),
        Index(
            "ix_refunds_due",
            "asked_at",
            postgresql_where=text("provider_state in ('intended', 'unknown')"),
        ),
        Index("ix_refunds_created_at", "created_at", "id"),
    )


class Dispute(Base):
    """A payment that its payer contests at the provider. `held` is what the customer gave."""

    __tablename__ = "disputes"
    __table_args__ = (
        Index("ix_disputes_payment_id", "payment_id", "opened_at", "id"),
        Index("ix_disputes_opened_at", "opened_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    payment_id: Mapped[UUID] = mapped_column(ForeignKey("payments.id"))
    provider_dispute_id: Mapped[str] = mapped_column(unique=True)
    amount: Mapped[Decimal] = mapped_column(Numeric)
    counted: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    held: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
    status: Mapped[str] = mapped_column(server_default=DisputeStatus.OPEN)
    reason: Mapped[str | None]
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())
    due_at: Mapped[datetime | None]
    closed_at: Mapped[datetime | None]


class PaymentEvent(Base):
    """A webhook as it came in, and what became of it."""

    __tablename__ = "payment_events"
    unaudited = True

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    provider: Mapped[str]
    event_id: Mapped[str]
    type: Mapped[str]
    payload: Mapped[str] = mapped_column(Text)
    headers: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    status: Mapped[str] = mapped_column(server_default=EventStatus.WAITING)
    attempts: Mapped[int] = mapped_column(server_default=NOTHING)
    outcome: Mapped[str | None]
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"))
    happened_at: Mapped[datetime | None]
    received_at: Mapped[datetime] = mapped_column(server_default=func.now())
    next_try_at: Mapped[datetime | None]
    settled_at: Mapped[datetime | None]

    __table_args__ = (
        UniqueConstraint("provider", "event_id", name="uq_payment_events_event_id"),
        Index("ix_payment_events_received_at", "received_at", "id"),
        Index("ix_payment_events_status", "status", "received_at", "id"),
        Index(
            "ix_payment_events_due",
            "next_try_at",
            postgresql_where=text("status in ('waiting', 'parked')"),
        ),
        Index(
            "ix_payment_events_payment_id",
            "payment_id",
            postgresql_where=text("payment_id is not null"),
        ),
    )


class PaymentTotal(Base):
    """How many payments there are of each kind, kept by a trigger; the summary adds the shards."""

    __tablename__ = "payment_totals"
    unaudited = True

    payment_method: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str] = mapped_column(primary_key=True)
    currency: Mapped[str] = mapped_column(primary_key=True)
    shard: Mapped[int] = mapped_column(SmallInteger, primary_key=True)
    payments: Mapped[int] = mapped_column(BigInteger, server_default=NOTHING)
    amount: Mapped[Decimal] = mapped_column(Numeric, server_default=NOTHING)
