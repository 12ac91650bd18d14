"""Booking in the scene of the matrix: what is offered and booked, and what is sent where."""

from datetime import UTC, datetime, time, timedelta
from typing import Any
from uuid import UUID

from tests.world import CARL, DORA

PROVIDER = UUID("00000000-0000-7000-8000-0000000000b1")
SERVICE = UUID("00000000-0000-7000-8000-0000000000b2")
TRAINING = UUID("00000000-0000-7000-8000-0000000000b3")
FULL_OF_THEM = UUID("00000000-0000-7000-8000-0000000000b4")


def day(number: int, hour: int) -> datetime:
    date = datetime.now(UTC).date() + timedelta(days=number)
    return datetime.combine(date, time(hour), tzinfo=UTC)


WHEN = day(3, 10).isoformat()
SERVICE_BODY = {
    "name": "Service {n}",
    "price": "20.00",
    "durationMinutes": 30,
    "providerIds": [str(PROVIDER)],
}
TRAINING_BODY = {
    "title": "Training {n}",
    "providerId": str(PROVIDER),
    "startsAt": day(9, 10).isoformat(),
    "endsAt": day(9, 12).isoformat(),
    "capacity": 5,
    "price": "20.00",
}
ILL = {"reason": "Ill"}

# What a caller would send; {n} is another number each time (tests/scene.py).
BOOKING_BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/appointments": {"service_id": str(SERVICE), "starts_at": WHEN},
    "PUT /api/v1/appointments/{appointment_id}": {"starts_at": WHEN},
    "POST /api/v1/appointments/{appointment_id}/cancellation": ILL,
    "POST /api/v1/trainings/{training_id}/enrolments": {"wait": True},
    "POST /api/v1/enrolments/{enrolment_id}/cancellation": ILL,
    "POST /api/v1/admin/providers": {"name": "Provider {n}"},
    "PUT /api/v1/admin/providers/{provider_id}": {"name": "Provider {n}"},
    "PUT /api/v1/admin/providers/{provider_id}/working-hours": {
        "hours": [{"weekday": 1, "starts": "09:00", "ends": "17:00"}]
    },
    "POST /api/v1/admin/providers/{provider_id}/exceptions": {
        "kind": "closed",
        "day": str(day(20, 0).date()),
    },
    "POST /api/v1/admin/services": SERVICE_BODY,
    "PUT /api/v1/admin/services/{service_id}": SERVICE_BODY,
    "POST /api/v1/admin/appointments": {
        "userId": str(DORA.id),
        "serviceId": str(SERVICE),
        "startsAt": WHEN,
    },
    "PUT /api/v1/admin/appointments/{appointment_id}": {"startsAt": WHEN},
    "PUT /api/v1/admin/appointments/{appointment_id}/status": {"status": "confirmed"},
    "POST /api/v1/admin/appointments/{appointment_id}/cancellation": ILL,
    "POST /api/v1/admin/trainings": TRAINING_BODY,
    "PUT /api/v1/admin/trainings/{training_id}": TRAINING_BODY,
    "PUT /api/v1/admin/trainings/{training_id}/status": {"status": "cancelled"},
    "POST /api/v1/admin/trainings/{training_id}/enrolments": {"userId": str(DORA.id)},
    "POST /api/v1/admin/enrolments/{enrolment_id}/cancellation": ILL,
}

CLEAR = """
delete from training_enrolments;
delete from trainings;
delete from appointments;
delete from services;
delete from providers;
"""
PROVIDERS = "insert into providers (id, name) values ($1, 'Ana')"
HOURS = """
insert into working_hours (provider_id, weekday, starts_minute, ends_minute)
select $1, weekday, 0, 1440 from generate_series(1, 7) weekday
"""
SERVICES = """
insert into services (id, name, price, duration_minutes) values ($1, 'Haircut', 20, 30)
"""
GIVES = "insert into service_providers values ($1, $2)"
TRAININGS = """
insert into trainings (id, title, provider_id, starts_at, ends_at, enrol_until, capacity, price)
values ($1, 'First aid', $2, $3, $3::timestamptz + interval '1 hour', $3, 5, 50)
"""
APPOINTMENT = """
insert into appointments (service_id, provider_id, user_id, starts_at)
values ($1, $2, $3, $4) returning id
"""
ENROLMENT = """
insert into training_enrolments (training_id, user_id) values ($1, $2) returning id
"""
CLOSED = """
insert into availability_exceptions (provider_id, kind, starts_at, ends_at)
values ($1, 'closed', $2, $2::timestamptz + interval '1 hour') returning id
"""


async def set_out_booking(database: Any) -> dict[str, Any]:
    """A provider with a service and two trainings; Carl and Dora have one booking of each kind."""
    await database.execute(CLEAR)
    await database.execute(PROVIDERS, PROVIDER)
    await database.execute(HOURS, PROVIDER)
    await database.execute(SERVICES, SERVICE)
    await database.execute(GIVES, SERVICE, PROVIDER)
    await database.execute(TRAININGS, TRAINING, PROVIDER, day(5, 10))
    await database.execute(TRAININGS, FULL_OF_THEM, PROVIDER, day(6, 10))
    appointments, enrolments = {}, {}
    for hour, who in ((8, CARL), (9, DORA)):
        appointments[who.id] = await database.fetchval(
            APPOINTMENT, SERVICE, PROVIDER, who.id, day(4, hour)
        )
        enrolments[who.id] = await database.fetchval(ENROLMENT, FULL_OF_THEM, who.id)
    return {
        "provider_id": PROVIDER,
        "service_id": SERVICE,
        "training_id": TRAINING,
        "appointment_id": appointments,
        "enrolment_id": enrolments,
        "exception_id": await database.fetchval(CLOSED, PROVIDER, day(30, 10)),
    }
