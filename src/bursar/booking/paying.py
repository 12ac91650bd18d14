"""What bookings cost, and what a payment does to them: once, however often it is told.

What is to go back stands in the booking (`refund_percent`); a job asks for it, each refund in the
transaction that says so in the booking (`refund_asked_at`), so that it is asked for once. A payment
that no booking needs (paid twice, or for a place that is gone) goes back whole.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.booking import queries, records
from bursar.booking.models import (
    Appointment,
    AppointmentStatus,
    Enrolment,
    EnrolmentStatus,
    PaymentStatus,
    Training,
)
from bursar.booking.pricing import share
from bursar.booking.refusals import BookingClosed, UnknownService, because, missing
from bursar.core.errors import BursarError
from bursar.payments import queries as payments
from bursar.payments import refunds
from bursar.payments.models import Payment, Refund
from bursar.payments.models import Status as Paid
from bursar.payments.purposes import Due, purpose

APPOINTMENT, TRAINING, SERVICE = "appointment", "training", "service"
STANDS = {
    Paid.COMPLETED: PaymentStatus.PAID,
    Paid.PARTIALLY_REFUNDED: PaymentStatus.PARTIALLY_REFUNDED,
    Paid.REFUNDED: PaymentStatus.REFUNDED,
}
AT_ONCE = 500


class AlreadyPaid(BursarError, status=409, code="booking.already_paid"):
    """This booking is paid for."""


class NothingDue(BursarError, status=409, code="booking.nothing_due"):
    """Nothing is to be paid for this: it is free, or there is no place yet."""


@purpose(APPOINTMENT, column="appointment_id")
async def appointment_due(db: AsyncSession, appointment_id: UUID, user_id: UUID) -> Due:
    """The price as it was booked."""
    row = await queries.appointment(db, appointment_id)
    if row.user_id != user_id:
        raise missing(Appointment)
    if row.status in (AppointmentStatus.CANCELLED, AppointmentStatus.NO_SHOW):
        raise because(BookingClosed)
    return due(row, row.service_name)


@purpose(TRAINING, column="training_id")
async def training_due(db: AsyncSession, training_id: UUID, user_id: UUID) -> Due:
    """The price as it was when they enrolled; who waits for a place pays once they have one."""
    row = await db.scalar(enrolments_of(training_id, user_id).limit(1))
    if row is None:
        raise missing(Training)
    if row.status == EnrolmentStatus.CANCELLED:
        raise because(BookingClosed)
    if row.status == EnrolmentStatus.WAITING:
        raise NothingDue("There is no place yet; you pay once you have one.")
    return due(row, row.training.title)


def enrolments_of(training_id: UUID, user_id: UUID | None) -> Select[Enrolment]:
    """The one that holds, or else the last one that did."""
    query = select(Enrolment).where(
        Enrolment.training_id == training_id, Enrolment.user_id == user_id
    )
    over = Enrolment.status == EnrolmentStatus.CANCELLED
    return query.order_by(over, Enrolment.number.desc())


def due(row: Appointment | Enrolment, description: str) -> Due:
    if row.payment_status != PaymentStatus.UNPAID:
        raise AlreadyPaid("This is paid for already.")
    if row.price == 0:
        raise NothingDue("Nothing is to be paid for this.")
    return Due(row.price, row.currency, description)


@purpose(SERVICE, column="service_id")
async def service_due(db: AsyncSession, service_id: UUID, user_id: UUID) -> Due:
    """For a service without an appointment, as somebody pays who has walked in."""
    row = await queries.service(db, service_id)
    if not row.active:
        raise because(UnknownService)
    if row.price == 0:
        raise NothingDue("Nothing is to be paid for this.")
    return Due(row.price, row.currency, row.name)


async def settle(db: AsyncSession, payment_id: UUID) -> bool:
    """Makes the booking say what its payment says; what it says already is not written again.

    Answers whether a booking needs it.
    """
    payment = await payments.payment(db, payment_id)
    status = STANDS.get(Paid(payment.status))
    row = await booking_of(db, payment)
    if row is None or status is None or payment.captured < row.price:
        return row is not None  # less than the price is for staff to look at
    facts: dict[str, Any] = {"payment_id": payment.id, "payment_status": status}
    if status == PaymentStatus.PAID:
        if row.status == "cancelled" and row.payment_id is None:
            facts["refund_percent"] = 100  # it came too late: nothing was had for it
        elif row.status == AppointmentStatus.BOOKED:
            facts["status"] = AppointmentStatus.CONFIRMED
    await records.change(db, row, facts, status)
    if row.refund_asked_at and not payment.disputed and left_to_give(row, payment) > 0:
        row.refund_asked_at = None  # the provider refused it, or it was contested: the job looks
    return True


async def booking_of(db: AsyncSession, payment: Payment) -> Appointment | Enrolment | None:
    """What it pays for, locked; None where that is paid for by another payment."""
    row: Appointment | Enrolment | None = None
    if payment.appointment_id:
        one = select(Appointment).where(Appointment.id == payment.appointment_id)
        row = await db.scalar(locked(one))
    elif payment.training_id:
        own = select(Enrolment).where(Enrolment.payment_id == payment.id)
        row = await db.scalar(locked(own)) or await db.scalar(
            locked(enrolments_of(payment.training_id, payment.user_id).limit(1))
        )
    return row if row is not None and row.payment_id in (None, payment.id) else None


def locked(query: Select[Any]) -> Select[Any]:
    return query.with_for_update(key_share=True).execution_options(populate_existing=True)


@dataclass(frozen=True, slots=True)
class Owed:
    """A payment of which something is to go back, and why."""

    payment_id: UUID
    booking_id: UUID | None = None


async def owed(db: AsyncSession) -> list[Owed]:
    """What is to be asked for. A payment that is contested waits until that is decided, and one
    that its provider has just refused to give back, until it would have told that it is."""
    found: list[Owed] = []
    for model in (Appointment, Enrolment):
        query = select(Payment.id, model.id).join(Payment, Payment.id == model.payment_id)
        query = query.where(still_owed(model), Payment.disputed == 0)
        query = query.where(~refunds.refused_just_now(Payment.id).exists())
        found += [Owed(*row) for row in await db.execute(query.limit(AT_ONCE))]
    return found


def still_owed(model: type[Appointment] | type[Enrolment]) -> ColumnElement[bool]:
    return and_(
        model.refund_percent > 0,
        model.refund_asked_at.is_(None),
        model.payment_status.in_((PaymentStatus.PAID, PaymentStatus.PARTIALLY_REFUNDED)),
    )


async def unneeded(db: AsyncSession, payment_id: UUID) -> bool:
    """Whether it was for a booking, and no booking counts it as its own."""
    payment = await payments.payment(db, payment_id)
    if (
        payment.purpose not in (APPOINTMENT, TRAINING)
        or payment.refundable <= 0
        or payment.disputed
    ):
        return False
    counts = or_(
        select(Appointment.id).where(Appointment.payment_id == payment_id).exists(),
        select(Enrolment.id).where(Enrolment.payment_id == payment_id).exists(),
    )
    return not await db.scalar(select(counts))


async def give_back(db: AsyncSession, owing: Owed) -> Refund | None:
    """Asks for one refund; a transaction posts once, so each has its own."""
    if owing.booking_id is None:
        if not await unneeded(db, owing.payment_id):
            return None
        reason = "No booking needs this payment"
        return await refunds.give_back(db, owing.payment_id, reason=reason)
    row = await owing_booking(db, owing.booking_id)
    if row is None:
        return None
    payment = await payments.payment(db, owing.payment_id, lock=True)
    if payment.disputed:
        return None  # contested since it was found; once that is over it is found again
    row.refund_asked_at = func.now()
    reason = row.cancel_reason or row.status
    return await refunds.give_back(db, payment.id, left_to_give(row, payment), reason=reason)


def left_to_give(row: Appointment | Enrolment, payment: Payment) -> Decimal:
    """What of its share has neither gone back nor is on its way."""
    whole = share(payment.captured, row.refund_percent or 0, payment.currency)
    return min(whole - payment.refunded - payment.refund_pending, payment.refundable)


async def owing_booking(db: AsyncSession, booking_id: UUID) -> Appointment | Enrolment | None:
    for model in (Appointment, Enrolment):
        one = select(model).where(model.id == booking_id, still_owed(model))
        row: Appointment | Enrolment | None = await db.scalar(locked(one))
        if row is not None:
            return row
    return None
