"""What is paid in advance is held for a while, and is then free again for others."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.booking import records
from bursar.booking.models import (
    Appointment,
    AppointmentStatus,
    Enrolment,
    EnrolmentStatus,
    PaymentStatus,
)
from bursar.booking.rules import NOT_PAID
from bursar.booking.service import AppointmentChanged
from bursar.booking.trainings import EnrolmentCancelled
from bursar.core import events

AT_ONCE = 200
LIVE = (AppointmentStatus.BOOKED, AppointmentStatus.CONFIRMED)
# A payment that comes too late all the same goes back whole.
RELEASED: dict[str, Any] = {
    "status": "cancelled",
    "cancel_reason": NOT_PAID,
    "refund_percent": 100,
}


async def release_unpaid(db: AsyncSession) -> int:
    """Answers how many are free again."""
    return await release_appointments(db) + await release_enrolments(db)


async def release_appointments(db: AsyncSession) -> int:
    query = select(Appointment).where(
        Appointment.pay_by < func.now(),
        Appointment.status.in_(LIVE),
        Appointment.payment_status == PaymentStatus.UNPAID,
    )
    locked = query.limit(AT_ONCE).with_for_update(skip_locked=True, key_share=True)
    rows = (await db.scalars(locked)).all()
    for row in rows:
        await records.change(db, row, RELEASED, "released")
        changed = AppointmentChanged(appointment_id=str(row.id), status=row.status)
        await events.publish(db, changed)
    return len(rows)


async def release_enrolments(db: AsyncSession) -> int:
    """Their trainings are locked first, in order: as everybody does who changes an enrolment."""
    query = select(Enrolment).where(
        Enrolment.pay_by < func.now(),
        Enrolment.status == EnrolmentStatus.ENROLLED,
        Enrolment.payment_status == PaymentStatus.UNPAID,
    )
    found = (await db.scalars(query.order_by(Enrolment.training_id).limit(AT_ONCE))).all()
    for training_id in sorted({row.training_id for row in found}):
        await db.execute(select(func.hold_training(training_id)))
    again = query.where(Enrolment.id.in_([row.id for row in found]))
    locked = again.with_for_update(key_share=True).execution_options(populate_existing=True)
    rows = (await db.scalars(locked)).all()
    for row in rows:
        await records.change(db, row, RELEASED, "released")
        await events.publish(db, EnrolmentCancelled(enrolment_id=str(row.id)))
    return len(rows)
