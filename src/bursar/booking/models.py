"""Who can be booked and for what, what is booked, and what is still to be done about it.

What is owed to somebody stands in the row: a letter to write (`letter`), money to give back
(`refund_percent`, `refund_asked_at`), a payment to wait for (`pay_by`). Jobs do it, once.
"""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Computed,
    FetchedValue,
    ForeignKey,
    Identity,
    Index,
    Numeric,
    Text,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bursar.core.database import Base

NO = text("false")
NOTHING = text("0")
UNREAD: dict[str, Any] = {"deferred": True, "deferred_raiseload": True}  # only searched in
LIVE = "status in ('booked', 'confirmed')"


class AppointmentStatus(StrEnum):
    """Where an appointment stands; the last three are for good."""

    BOOKED = "booked"
    CONFIRMED = "confirmed"  # paid for, or staff have said so
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    NO_SHOW = "no_show"


class TrainingStatus(StrEnum):
    """Where a training stands."""

    SCHEDULED = "scheduled"
    CANCELLED = "cancelled"
    COMPLETED = "completed"


class EnrolmentStatus(StrEnum):
    """Where somebody's enrolment stands."""

    ENROLLED = "enrolled"
    WAITING = "waiting"
    CANCELLED = "cancelled"


class PaymentStatus(StrEnum):
    """Whether a booking is paid for."""

    UNPAID = "unpaid"
    PAID = "paid"
    PARTIALLY_REFUNDED = "partially_refunded"
    REFUNDED = "refunded"


class ExceptionKind(StrEnum):
    """How a time differs from the working hours."""

    CLOSED = "closed"
    EXTRA = "extra"


class Row:
    """What rows have that people make and change."""

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


def trigrams(table: str) -> Index:
    """For searching in the middle of words."""
    return Index(
        f"ix_{table}_searched",
        "searched",
        postgresql_using="gin",
        postgresql_ops={"searched": "gin_trgm_ops"},
    )


class Provider(Row, Base):
    """Somebody who gives services and trainings, of the staff or not. Their email is for staff."""

    __tablename__ = "providers"
    __table_args__ = (
        Index("ix_providers_name", "name", "id"),
        Index("ix_providers_created_at", "created_at", "id"),
        trigrams("providers"),
    )

    name: Mapped[str]
    email: Mapped[str | None]
    time_zone: Mapped[str] = mapped_column(server_default="UTC")
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    searched: Mapped[str] = mapped_column(
        Text,
        Computed("lower(' ' || name || ' ' || coalesce(email, ''))", persisted=True),
        **UNREAD,
    )


class ProviderName(Base):
    """What everybody may know of a provider."""

    __table__ = Provider.__table__
    __mapper_args__ = {"include_properties": ("id", "name", "time_zone", "active")}  # noqa: RUF012

    id: Mapped[UUID]
    name: Mapped[str]
    time_zone: Mapped[str]
    active: Mapped[bool]


class Service(Row, Base):
    """What one customer can book at one time with one provider."""

    __tablename__ = "services"
    __table_args__ = (
        Index("ix_services_name", "name", "id"),
        Index("ix_services_price", "price", "id"),
        Index("ix_services_created_at", "created_at", "id"),
        trigrams("services"),
    )

    name: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    price: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str] = mapped_column(server_default="USD")
    duration_minutes: Mapped[int]
    buffer_before_minutes: Mapped[int] = mapped_column(server_default=NOTHING)
    buffer_after_minutes: Mapped[int] = mapped_column(server_default=NOTHING)
    payment_in_advance: Mapped[bool] = mapped_column(server_default=NO)
    active: Mapped[bool] = mapped_column(server_default=text("true"))
    searched: Mapped[str] = mapped_column(
        Text, Computed("lower(' ' || name || ' ' || description)", persisted=True), **UNREAD
    )
    providers: Mapped[list[ProviderName]] = relationship(
        secondary="service_providers", viewonly=True, lazy="selectin", order_by=ProviderName.name
    )


class ServiceProvider(Base):
    """Who gives which service."""

    __tablename__ = "service_providers"

    service_id: Mapped[UUID] = mapped_column(
        ForeignKey("services.id", ondelete="CASCADE"), primary_key=True
    )
    provider_id: Mapped[UUID] = mapped_column(
        ForeignKey("providers.id"), primary_key=True, index=True
    )


class WorkingHours(Base):
    """When a provider works in every week, by their own clock; Monday is 1."""

    __tablename__ = "working_hours"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    provider_id: Mapped[UUID] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"))
    weekday: Mapped[int]
    starts_minute: Mapped[int]
    ends_minute: Mapped[int]


class AvailabilityException(Base):
    """A time at which a provider does not work though the week says so, or the other way round."""

    __tablename__ = "availability_exceptions"
    __table_args__ = (
        Index(
            "ix_availability_exceptions_during",
            "provider_id",
            text("tstzrange(starts_at, ends_at)"),
            postgresql_using="gist",
        ),
        Index("ix_availability_exceptions_starts_at", "provider_id", "starts_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    provider_id: Mapped[UUID] = mapped_column(ForeignKey("providers.id", ondelete="CASCADE"))
    kind: Mapped[str]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    reason: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Booking(Row):
    """What appointments and enrolments share: whose they are, what is paid, what is owed."""

    price: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str]
    pay_by: Mapped[datetime | None]  # then it is free again, unless it is paid for
    payment_status: Mapped[str] = mapped_column(server_default=PaymentStatus.UNPAID)
    payment_id: Mapped[UUID | None] = mapped_column(ForeignKey("payments.id"))
    refund_percent: Mapped[int | None]  # of what was paid; set when it is cancelled
    refund_asked_at: Mapped[datetime | None]
    cancelled_at: Mapped[datetime | None]
    cancel_reason: Mapped[str | None]
    letter: Mapped[str | None]  # what its customer is still to be told
    reminded_at: Mapped[datetime | None]


def of_booking(table: str, live: str) -> tuple[Index, ...]:
    """For the jobs: what is left to do is little, so each has a small index of its own."""
    return (
        Index(f"ix_{table}_created_at", "created_at", "id"),
        Index(
            f"ix_{table}_payment_id",
            "payment_id",
            postgresql_where=text("payment_id is not null"),
        ),
        Index(f"ix_{table}_letter", "updated_at", postgresql_where=text("letter is not null")),
        Index(
            f"ix_{table}_pay_by",
            "pay_by",
            postgresql_where=text(f"pay_by is not null and {live} and payment_status = 'unpaid'"),
        ),
        Index(
            f"ix_{table}_refund",
            "updated_at",
            postgresql_where=text(
                "refund_percent > 0 and refund_asked_at is null"
                " and payment_status in ('paid', 'partially_refunded')"
            ),
        ),
    )


class Appointment(Booking, Base):
    """One customer with one provider at one time; name, price and length as they were agreed."""

    __tablename__ = "appointments"
    __table_args__ = (
        *of_booking("appointments", LIVE),
        Index("ix_appointments_user_id", "user_id", "starts_at", "id"),
        Index("ix_appointments_provider_id", "provider_id", "starts_at", "id"),
        Index("ix_appointments_service_id", "service_id"),
        Index("ix_appointments_starts_at", "starts_at", "id"),
        Index(
            "ix_appointments_unreminded",
            "starts_at",
            postgresql_where=text(f"reminded_at is null and {LIVE}"),
        ),
    )

    service_id: Mapped[UUID] = mapped_column(ForeignKey("services.id"))
    provider_id: Mapped[UUID] = mapped_column(ForeignKey("providers.id"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    service_name: Mapped[str]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    buffer_before_minutes: Mapped[int]
    buffer_after_minutes: Mapped[int]
    status: Mapped[str] = mapped_column(server_default=AppointmentStatus.BOOKED)
    note: Mapped[str | None]
    provider: Mapped[ProviderName] = relationship(viewonly=True, lazy="selectin")


class Training(Row, Base):
    """Something for many at once. The database counts who is enrolled and who waits."""

    __tablename__ = "trainings"
    __table_args__ = (
        Index("ix_trainings_starts_at", "starts_at", "id"),
        Index("ix_trainings_title", "title", "id"),
        Index("ix_trainings_created_at", "created_at", "id"),
        Index("ix_trainings_provider_id", "provider_id", "starts_at"),
        Index("ix_trainings_over", "ends_at", postgresql_where=text("status = 'scheduled'")),
        trigrams("trainings"),
    )

    title: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    provider_id: Mapped[UUID] = mapped_column(ForeignKey("providers.id"))
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    enrol_until: Mapped[datetime]
    capacity: Mapped[int]
    enrolled: Mapped[int] = mapped_column(server_default=NOTHING, server_onupdate=FetchedValue())
    waiting: Mapped[int] = mapped_column(server_default=NOTHING, server_onupdate=FetchedValue())
    price: Mapped[Decimal] = mapped_column(Numeric)
    currency: Mapped[str] = mapped_column(server_default="USD")
    payment_in_advance: Mapped[bool] = mapped_column(server_default=NO)
    status: Mapped[str] = mapped_column(server_default=TrainingStatus.SCHEDULED)
    cancel_reason: Mapped[str | None]
    searched: Mapped[str] = mapped_column(
        Text, Computed("lower(' ' || title || ' ' || description)", persisted=True), **UNREAD
    )
    provider: Mapped[ProviderName] = relationship(viewonly=True, lazy="selectin")


class Enrolment(Booking, Base):
    """One customer in one training, or in its waiting list; the number is the order in it."""

    __tablename__ = "training_enrolments"
    __table_args__ = (
        *of_booking("training_enrolments", "status = 'enrolled'"),
        Index(
            "uq_training_enrolments_user_id",
            "training_id",
            "user_id",
            unique=True,
            postgresql_where=text("status in ('enrolled', 'waiting')"),
        ),
        Index("ix_training_enrolments_number", "training_id", "status", "number"),
        Index("ix_training_enrolments_user_id", "user_id", "created_at", "id"),
    )

    training_id: Mapped[UUID] = mapped_column(ForeignKey("trainings.id"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    number: Mapped[int] = mapped_column(BigInteger, Identity(always=True))
    may_wait: Mapped[bool] = mapped_column(server_default=NO)
    status: Mapped[str] = mapped_column(server_default=EnrolmentStatus.ENROLLED)
    training: Mapped[Training] = relationship(viewonly=True, lazy="selectin")
