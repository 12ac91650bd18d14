"""The mails about bookings: what has become of one, once for each change, and a reminder.

What is to be told stands in the row (`letter`), where the change itself has put it; so nothing is
told that was rolled back, and nothing twice, also after a crash.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import Status, User
from bursar.booking.models import (
    Appointment,
    AppointmentStatus,
    Enrolment,
    EnrolmentStatus,
    PaymentStatus,
    ProviderName,
    Training,
)
from bursar.booking.rules import REMINDER_HOURS
from bursar.booking.trainings import MovedUp
from bursar.core import events
from bursar.system import queries as system

AT_ONCE = 200  # of each kind in one transaction; what is left has its turn a minute later
Booked = TypeVar("Booked", Appointment, Enrolment)

NEWS = {
    "booked": ("Booked", "Your appointment is booked."),
    "enrolled": ("Enrolled", "You have a place in this training."),
    "waiting": ("On the waiting list", "All places are taken; you are on the waiting list."),
    "moved_up": ("You have a place", "A place has become free, and it is yours."),
    "moved": ("New time", "What you have booked has a new time."),
    "cancelled": ("Cancelled", "This booking is cancelled."),
    "reminder": ("Reminder", "You have booked this; we look forward to seeing you."),
}


async def write_all(db: AsyncSession) -> int:
    """Tells what is to be told, the oldest first; answers how much that was."""
    rows: list[Appointment | Enrolment] = [
        *await due(db, Appointment, Appointment.letter.is_not(None)),
        *await due(db, Enrolment, Enrolment.letter.is_not(None)),
    ]
    for row in rows:
        await write(db, row, row.letter or "")
        if row.letter == "moved_up":
            await events.publish(db, MovedUp(enrolment_id=row.id))
        row.letter = None
    return len(rows)


async def remind_all(db: AsyncSession) -> int:
    """Once for each booking and time; who has booked shortly before has just had a letter."""
    hours = await system.value(db, REMINDER_HOURS)
    ahead = timedelta(hours=hours)
    live = (AppointmentStatus.BOOKED, AppointmentStatus.CONFIRMED)
    appointments = await due(
        db,
        Appointment,
        Appointment.reminded_at.is_(None),
        Appointment.status.in_(live),
        *soon(Appointment.starts_at, Appointment.created_at, ahead),
    )
    training = select(Training.starts_at).where(Training.id == Enrolment.training_id)
    starts_at = training.scalar_subquery()
    enrolments = await due(
        db,
        Enrolment,
        Enrolment.reminded_at.is_(None),
        Enrolment.status == EnrolmentStatus.ENROLLED,
        *soon(starts_at, Enrolment.created_at, ahead),
    )
    rows: list[Appointment | Enrolment] = [*appointments, *enrolments]
    for row in rows:
        await write(db, row, "reminder")
        row.reminded_at = func.now()
    return len(rows)


def soon(starts_at: Any, created_at: Any, ahead: timedelta) -> tuple[ColumnElement[bool], ...]:
    return (
        starts_at > func.now(),
        starts_at <= func.now() + ahead,
        created_at < starts_at - ahead,
    )


async def due(
    db: AsyncSession, model: type[Booked], *conditions: ColumnElement[bool]
) -> Sequence[Booked]:
    """Locked, so that two workers never write the same letter."""
    query = select(model).where(*conditions).order_by(model.updated_at).limit(AT_ONCE)
    return (await db.scalars(query.with_for_update(skip_locked=True, key_share=True))).all()


async def write(db: AsyncSession, row: Appointment | Enrolment, news: str) -> None:
    """Whoever has left gets no letter any more."""
    user = await db.get(User, row.user_id) if row.user_id else None
    if user is None or user.status == Status.DELETED:
        return
    headline, sentence = NEWS[news]
    await letters.tell(
        db,
        "booking",
        user,
        headline=headline,
        sentence=sentence,
        notes=notes(row, news),
        **what_and_when(row),
    )


def what_and_when(row: Appointment | Enrolment) -> dict[str, Any]:
    provider = provider_of(row)
    if isinstance(row, Appointment):
        what, starts_at = row.service_name, row.starts_at
    else:
        what, starts_at = row.training.title, row.training.starts_at
    return {"what": what, "when": on_clock(starts_at, provider), "provider": provider.name}


def provider_of(row: Appointment | Enrolment) -> ProviderName:
    return row.provider if isinstance(row, Appointment) else row.training.provider


def notes(row: Appointment | Enrolment, news: str) -> list[str]:
    found = []
    if news == "cancelled":
        if row.cancel_reason:
            found.append(row.cancel_reason)
        if row.payment_status == PaymentStatus.PAID:
            found.append(f"{row.refund_percent} % of what you have paid goes back to you.")
    elif row.pay_by and row.payment_status == PaymentStatus.UNPAID:
        by = on_clock(row.pay_by, provider_of(row))
        found.append(
            f"Please pay {row.price:f} {row.currency} by {by}; after that it is free for others."
        )
    return found


def on_clock(moment: datetime, provider: ProviderName) -> str:
    """As it stands on the provider's wall."""
    local = moment.astimezone(ZoneInfo(provider.time_zone))
    return f"{local:%A, %-d %B %Y, %H:%M} ({provider.time_zone})"
