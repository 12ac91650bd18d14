"""Demo data of booking: who teaches and repairs at a roaster's, and who has booked them."""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.auth.actor import Kind
from bursar.booking import offer, service, trainings
from bursar.booking.models import Provider, Service

PROVIDERS = (  # name, address, time zone, and the hours of Monday to Friday
    ("Bea Barista", "bea@ternandtide.example", "Europe/Berlin", "09:00", "17:00"),
    ("Tomás Técnico", "tomas@ternandtide.example", "America/New_York", "08:00", "16:00"),
)
SERVICES = (  # name, description, price, minutes, buffer after, paid in advance, by which of them
    ("Tasting for two", "Five coffees, side by side.", "35.00", 60, 15, True, (0,)),
    ("Private barista lesson", "Milk, grind and patience.", "60.00", 90, 15, True, (0, 1)),
    ("Machine check-up", "We clean and adjust your machine.", "45.00", 45, 15, False, (1,)),
    ("Short call", "Which beans for which brew?", "0.00", 15, 0, False, (0, 1)),
)
TRAININGS = (  # title, by whom, in how many days, hour, length, capacity, price
    ("Latte art for beginners", 0, 9, 17, 2, 8, "49.00"),
    ("Cupping like a roaster", 0, 16, 17, 3, 2, "75.00"),
    ("Look after your grinder", 1, 23, 20, 2, 10, "25.00"),
)
APPOINTMENTS = (  # whose, which service, with whom, in how many days, hour
    ("carl@example.com", 0, 0, 3, 10),
    ("carl@example.com", 2, 1, 6, 15),
    ("dora@example.com", 1, 0, 3, 13),
    ("jun@example.com", 1, 1, 4, 17),
    ("lena@example.com", 3, 0, 2, 12),
    ("orders@nightowl.example", 2, 1, 5, 14),
)
ENROLMENTS = (  # who, in which
    ("carl@example.com", 0),
    ("dora@example.com", 0),
    ("carl@example.com", 1),
    ("ines@example.com", 1),
    ("omar@example.com", 1),  # waits: it is full
    ("rosa@example.com", 2),
)
NUMBER = len(APPOINTMENTS) + len(ENROLMENTS)


async def add(db: AsyncSession) -> int:
    """All of it or none, so that a second time finds it there."""
    known = select(Provider.id).where(Provider.email == PROVIDERS[0][1])
    if await db.scalar(known) is None:
        providers = [await add_provider(db, *each) for each in PROVIDERS]
        services = [await add_service(db, providers, *each) for each in SERVICES]
        for email, which, by, days, hour in APPOINTMENTS:
            facts = {
                "service_id": services[which].id,
                "provider_id": providers[by],
                "starts_at": moment(days, hour),
                "note": None,
            }
            await service.book_for(db, await customer(db, email), facts)
        scheduled = [await schedule(db, providers, *each) for each in TRAININGS]
        for email, which in ENROLMENTS:
            await trainings.enrol(db, scheduled[which], await customer(db, email), wait=True)
    return NUMBER


async def customer(db: AsyncSession, email: str) -> UUID:
    found = await accounts.by_email(db, Kind.CUSTOMER, email)
    if found is None:
        raise LookupError(f"the demo data has no customer {email}")
    return found.id


def moment(days: int, hour: int) -> datetime:
    """In UTC; nobody minds if it is a Sunday, for these were booked by staff."""
    day = datetime.now(UTC).date() + timedelta(days=days)
    return datetime.combine(day, time(hour), tzinfo=UTC)


async def add_provider(
    db: AsyncSession, name: str, email: str, zone: str, starts: str, ends: str
) -> UUID:
    facts = {"name": name, "email": email, "time_zone": zone, "active": True}
    provider = await offer.add_provider(db, facts)
    hours = [
        {
            "weekday": weekday,
            "starts_minute": 60 * int(starts[:2]),
            "ends_minute": 60 * int(ends[:2]),
        }
        for weekday in range(1, 6)
    ]
    await offer.set_hours(db, provider.id, hours)
    return provider.id


async def add_service(
    db: AsyncSession,
    providers: list[UUID],
    name: str,
    description: str,
    price: str,
    minutes: int,
    buffer: int,
    in_advance: bool,
    by: tuple[int, ...],
) -> Service:
    facts: dict[str, Any] = {
        "name": name,
        "description": description,
        "price": Decimal(price),
        "currency": "USD",
        "duration_minutes": minutes,
        "buffer_after_minutes": buffer,
        "payment_in_advance": in_advance,
    }
    return await offer.add_service(db, facts, [providers[each] for each in by])


async def schedule(
    db: AsyncSession,
    providers: list[UUID],
    title: str,
    by: int,
    days: int,
    hour: int,
    hours: int,
    capacity: int,
    price: str,
) -> UUID:
    starts_at = moment(days, hour)
    facts: dict[str, Any] = {
        "title": title,
        "provider_id": providers[by],
        "starts_at": starts_at,
        "ends_at": starts_at + timedelta(hours=hours),
        "enrol_until": None,
        "capacity": capacity,
        "price": Decimal(price),
        "currency": "USD",
    }
    return (await trainings.schedule(db, facts)).id
