"""The verbs of appointments: book, move, cancel, confirm, complete, missed.

What may not be is refused by the database (guards.sql), whoever asks; here it is said in words,
recorded and told to whoever listens.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.accounts.models import Status
from bursar.booking import queries, records
from bursar.booking.models import (
    Appointment,
    AppointmentStatus,
    Provider,
    ServiceProvider,
)
from bursar.booking.refusals import BookingClosed, UnknownService, because, refusable
from bursar.core import events
from bursar.core.errors import NotFound


class AppointmentBooked(events.Event, name="booking.appointment_booked", public=True):
    """A customer has a new appointment, by themselves or by staff."""

    appointment_id: UUID


class AppointmentMoved(events.Event, name="booking.appointment_moved", public=True):
    """An appointment has another time or another provider."""

    appointment_id: UUID


class AppointmentChanged(events.Event, name="booking.appointment_changed", public=True):
    """An appointment was confirmed, completed, cancelled or missed."""

    appointment_id: UUID
    status: str


async def book(db: AsyncSession, user_id: UUID, facts: Mapping[str, Any]) -> Appointment:
    """At one time; without a provider with one who is free then.

    As a customer only what is offered, as staff also outside the hours.
    """
    provider_id = facts["provider_id"] or await some_provider(
        db, facts["service_id"], facts["starts_at"]
    )
    row = insert(Appointment).values(**{**facts, "provider_id": provider_id, "user_id": user_id})
    with refusable():
        appointment_id = (await db.execute(row.returning(Appointment.id))).scalar_one()
    appointment = await queries.appointment(db, appointment_id)
    await records.record(db, appointment, "booked")
    await events.publish(db, AppointmentBooked(appointment_id=appointment_id))
    return appointment


async def book_for(db: AsyncSession, user_id: UUID, facts: Mapping[str, Any]) -> Appointment:
    """The same for another: by staff."""
    await refuse_gone(db, user_id)
    return await book(db, user_id, facts)


async def refuse_gone(db: AsyncSession, user_id: UUID) -> None:
    if (await accounts.user(db, user_id)).status == Status.DELETED:
        raise NotFound("There is no such customer.")


async def some_provider(db: AsyncSession, service_id: UUID, starts_at: datetime) -> UUID:
    """One who is free; where nobody is, any, of whom the database then says why not."""
    free = await queries.slots(
        db, service_id, starts_at, starts_at + timedelta(microseconds=1), most=1
    )
    if free:
        return free[0].provider_id
    gives = select(Provider.id).join(ServiceProvider, ServiceProvider.provider_id == Provider.id)
    gives = gives.where(ServiceProvider.service_id == service_id, Provider.active)
    found = await db.scalar(gives.order_by(Provider.name, Provider.id).limit(1))
    if found is None:
        raise because(UnknownService)
    return found


async def move(
    db: AsyncSession,
    appointment_id: UUID,
    starts_at: datetime,
    provider_id: UUID | None,
    *,
    if_match: str | None = None,
) -> Appointment:
    """Another time, and perhaps another provider; the row, the price and the length stay."""
    appointment = await records.held(db, Appointment, appointment_id, if_match)
    wanted = {"starts_at": starts_at, "provider_id": provider_id or appointment.provider_id}
    if await records.change(db, appointment, wanted, "moved"):
        await events.publish(db, AppointmentMoved(appointment_id=appointment_id))
    return appointment


async def cancel(
    db: AsyncSession,
    appointment_id: UUID,
    reason: str | None,
    *,
    refund_percent: int | None = None,
    if_match: str | None = None,
) -> Appointment:
    """The share that goes back is the policy's, unless staff say another."""
    facts: dict[str, Any] = {"cancel_reason": reason}
    if refund_percent is not None:
        facts["refund_percent"] = refund_percent
    return await change_status(
        db, appointment_id, AppointmentStatus.CANCELLED, facts, if_match=if_match
    )


async def change_status(
    db: AsyncSession,
    appointment_id: UUID,
    status: AppointmentStatus,
    facts: Mapping[str, Any] | None = None,
    *,
    if_match: str | None = None,
) -> Appointment:
    appointment = await records.held(db, Appointment, appointment_id, if_match)
    if appointment.status == status:
        raise because(BookingClosed)
    await records.change(db, appointment, {"status": status, **(facts or {})}, status)
    changed = AppointmentChanged(appointment_id=appointment_id, status=status)
    await events.publish(db, changed)
    return appointment
