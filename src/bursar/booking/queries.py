"""Reads of booking: what is offered, when it is free, and what is booked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Select, func, select, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from bursar.accounts.queries import fits, keeps_personal_data, words_of
from bursar.booking.models import (
    Appointment,
    AvailabilityException,
    Enrolment,
    EnrolmentStatus,
    Provider,
    Service,
    ServiceProvider,
    Training,
    TrainingStatus,
    WorkingHours,
)
from bursar.booking.refusals import ends_before_start, missing
from bursar.booking.rules import LONGEST_LOOK, MOST_SLOTS
from bursar.core.errors import InvalidInput
from bursar.core.paging import Order, Page, PageQuery, fetch, only

PROVIDERS = Order(
    {"name": Provider.name, "created_at": Provider.created_at}, key=Provider.id, default="name"
)
SERVICES = Order(
    {"name": Service.name, "price": Service.price, "created_at": Service.created_at},
    key=Service.id,
    default="name",
)
APPOINTMENTS = Order(
    {"starts_at": Appointment.starts_at, "created_at": Appointment.created_at},
    key=Appointment.id,
    default="starts_at",
)
TRAININGS = Order(
    {
        "starts_at": Training.starts_at,
        "title": Training.title,
        "created_at": Training.created_at,
    },
    key=Training.id,
    default="starts_at",
)
ENROLMENTS = Order({"created_at": Enrolment.created_at}, key=Enrolment.id, default="created_at")
EXCEPTIONS = Order(
    {"starts_at": AvailabilityException.starts_at},
    key=AvailabilityException.id,
    default="starts_at",
)
COUNTED = 10_000
TAKEN_AWAY = 10_000  # of each kind stand in the export of personal data, the newest


def searched(
    query: Select[Any], column: InstrumentedAttribute[str], search: str | None
) -> Select[Any]:
    return query.where(fits(column, words_of(search))) if search else query


async def providers(
    db: AsyncSession, ask: PageQuery, *, active: bool | None = None, search: str | None = None
) -> Page[Provider]:
    query = searched(select(Provider), Provider.searched, search)
    if active is not None:
        query = query.where(Provider.active == active)
    return await fetch(db, query, ask, PROVIDERS)


async def provider(db: AsyncSession, provider_id: UUID) -> Provider:
    row = await db.get(Provider, provider_id)
    if row is None:
        raise missing(Provider)
    return row


async def working_hours(db: AsyncSession, provider_id: UUID) -> Sequence[WorkingHours]:
    query = select(WorkingHours).where(WorkingHours.provider_id == provider_id)
    return (
        await db.scalars(query.order_by(WorkingHours.weekday, WorkingHours.starts_minute))
    ).all()


async def exceptions(
    db: AsyncSession, provider_id: UUID, ask: PageQuery, *, since: datetime | None = None
) -> Page[AvailabilityException]:
    query = select(AvailabilityException).where(AvailabilityException.provider_id == provider_id)
    if since:
        query = query.where(AvailabilityException.ends_at > since)
    return await fetch(db, query, ask, EXCEPTIONS)


async def services(
    db: AsyncSession,
    ask: PageQuery,
    *,
    active: bool | None = None,
    provider_id: UUID | None = None,
    search: str | None = None,
) -> Page[Service]:
    query = searched(select(Service), Service.searched, search)
    if active is not None:
        query = query.where(Service.active == active)
    if provider_id:
        gives = select(ServiceProvider.service_id).where(ServiceProvider.provider_id == provider_id)
        query = query.where(Service.id.in_(gives))
    return await fetch(db, query, ask, SERVICES)


async def service(db: AsyncSession, service_id: UUID) -> Service:
    row = await db.get(Service, service_id)
    if row is None:
        raise missing(Service)
    return row


@dataclass(frozen=True, slots=True)
class Slot:
    """A time at which one provider is free for one service."""

    provider_id: UUID
    starts_at: datetime
    ends_at: datetime


FREE = text("""
  select provider_id, starts_at, ends_at
  from free_slots(:service, :from_at, :to_at, cast(:provider as uuid), :most)
""")


async def slots(
    db: AsyncSession,
    service_id: UUID,
    from_at: datetime,
    to_at: datetime,
    *,
    provider_id: UUID | None = None,
    most: int = MOST_SLOTS + 1,
) -> list[Slot]:
    """What is free in this time, the earliest first: one statement, however many there are."""
    asked = {
        "service": service_id,
        "from_at": from_at,
        "to_at": to_at,
        "provider": provider_id,
        "most": most,
    }
    return [Slot(*row) for row in await db.execute(FREE, asked)]


def refuse_bad_look(from_at: datetime, to_at: datetime) -> None:
    if to_at <= from_at:
        raise ends_before_start("?to")
    if to_at - from_at > LONGEST_LOOK:
        detail = f"Ask for at most {LONGEST_LOOK.days} days at once."
        raise InvalidInput.at("?to", detail, "too_long")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which appointments a list is to show; what is not said, is not asked for."""

    user_id: UUID | None = None
    provider_id: UUID | None = None
    service_id: UUID | None = None
    status: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def appointments(db: AsyncSession, ask: PageQuery, wanted: Wanted) -> Page[Appointment]:
    names = ("user_id", "provider_id", "service_id", "status")
    query = only(
        select(Appointment), {getattr(Appointment, name): getattr(wanted, name) for name in names}
    )
    if wanted.since:
        query = query.where(Appointment.starts_at >= wanted.since)
    if wanted.until:
        query = query.where(Appointment.starts_at < wanted.until)
    return await fetch(db, query, ask, APPOINTMENTS, count_to=COUNTED)


async def appointment(db: AsyncSession, appointment_id: UUID) -> Appointment:
    row = await db.get(Appointment, appointment_id)
    if row is None:
        raise missing(Appointment)
    return row


async def trainings(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: TrainingStatus | None = None,
    upcoming: bool = False,
    provider_id: UUID | None = None,
    search: str | None = None,
) -> Page[Training]:
    query = searched(select(Training), Training.searched, search)
    query = only(query, {Training.status: status, Training.provider_id: provider_id})
    if upcoming:
        query = query.where(Training.starts_at > func.now())
    return await fetch(db, query, ask, TRAININGS)


async def training(db: AsyncSession, training_id: UUID) -> Training:
    row = await db.get(Training, training_id)
    if row is None:
        raise missing(Training)
    return row


async def enrolments(
    db: AsyncSession,
    ask: PageQuery,
    *,
    user_id: UUID | None = None,
    training_id: UUID | None = None,
    status: EnrolmentStatus | None = None,
) -> Page[Enrolment]:
    wanted = {
        Enrolment.user_id: user_id,
        Enrolment.training_id: training_id,
        Enrolment.status: status,
    }
    query = only(select(Enrolment), wanted)
    return await fetch(db, query, ask, ENROLMENTS)


async def enrolment(db: AsyncSession, enrolment_id: UUID) -> Enrolment:
    row = await db.get(Enrolment, enrolment_id)
    if row is None:
        raise missing(Enrolment)
    return row


async def positions(db: AsyncSession, rows: Sequence[Enrolment]) -> dict[UUID, int]:
    """Where those who wait stand in their lists; 1 is the next to get a place."""
    waiting = [row.id for row in rows if row.status == EnrolmentStatus.WAITING]
    if not waiting:
        return {}
    position = func.waiting_position(Enrolment.training_id, Enrolment.number)
    query = select(Enrolment.id, position).where(Enrolment.id.in_(waiting))
    return {row[0]: row[1] for row in await db.execute(query)}


@keeps_personal_data("bookings")
async def personal_data(db: AsyncSession, user_id: UUID) -> dict[str, Any]:
    """A customer's appointments and enrolments, the newest first."""
    appointments = select(Appointment).where(Appointment.user_id == user_id)
    newest = appointments.order_by(Appointment.starts_at.desc(), Appointment.id.desc())
    enrolments = select(Enrolment).where(Enrolment.user_id == user_id)
    latest = enrolments.order_by(Enrolment.created_at.desc(), Enrolment.id.desc())
    return {
        "appointments": [
            {
                "service": row.service_name,
                "provider": row.provider.name,
                "starts_at": row.starts_at,
                "note": row.note,
                **paid(row),
            }
            for row in await db.scalars(newest.limit(TAKEN_AWAY))
        ],
        "enrolments": [
            {"training": row.training.title, "starts_at": row.training.starts_at, **paid(row)}
            for row in await db.scalars(latest.limit(TAKEN_AWAY))
        ],
    }


def paid(row: Appointment | Enrolment) -> dict[str, Any]:
    return {
        "status": row.status,
        "price": row.price,
        "currency": row.currency,
        "payment_status": row.payment_status,
        "cancel_reason": row.cancel_reason,
        "created_at": row.created_at,
    }
