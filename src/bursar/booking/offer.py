"""The verbs of what is offered: providers, their hours, and the services they give."""

from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID
from zoneinfo import available_timezones

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.booking import queries, records
from bursar.booking.models import (
    AvailabilityException,
    ExceptionKind,
    Provider,
    Service,
    ServiceProvider,
    WorkingHours,
)
from bursar.booking.pricing import in_currency
from bursar.booking.refusals import (
    UnknownProvider,
    UnknownTimeZone,
    because,
    ends_before_start,
    missing,
    refusable,
)
from bursar.core import events
from bursar.core.errors import InvalidInput


class ServicesChanged(events.Event, name="booking.services_changed"):
    """A service was added or changed."""

    service_id: str


class AvailabilityChanged(events.Event, name="booking.availability_changed"):
    """A provider has other hours than before."""

    provider_id: str


async def add_provider(db: AsyncSession, facts: Mapping[str, Any]) -> Provider:
    refuse_bad_zone(facts["time_zone"])
    return await records.add(db, Provider(**facts))


async def change_provider(
    db: AsyncSession, provider_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> Provider:
    """As a whole. Whoever is not active is offered no more; what is booked stays."""
    refuse_bad_zone(facts["time_zone"])
    provider = await records.held(db, Provider, provider_id, if_match)
    await records.change(db, provider, facts, "changed")
    return provider


def refuse_bad_zone(zone: str) -> None:
    if zone not in available_timezones():
        raise because(UnknownTimeZone)


async def set_hours(
    db: AsyncSession,
    provider_id: UUID,
    hours: Sequence[Mapping[str, int]],
    *,
    if_match: str | None = None,
) -> Provider:
    """The whole week; what is booked outside of it stays."""
    provider = await records.held(db, Provider, provider_id, if_match)
    before = await week(db, provider_id)
    await db.execute(delete(WorkingHours).where(WorkingHours.provider_id == provider_id))
    if hours:
        rows = [{**each, "provider_id": provider_id} for each in hours]
        with refusable():
            await db.execute(insert(WorkingHours), rows)
    after = await week(db, provider_id)
    if before == after:
        audit.nothing_changed(db)
        return provider
    await touch(db, provider)
    await audit.record(
        db,
        "booking.hours_changed",
        "provider",
        provider_id,
        before={"hours": before},
        after={"hours": after},
    )
    await events.publish(db, AvailabilityChanged(provider_id=str(provider_id)))
    return provider


async def week(db: AsyncSession, provider_id: UUID) -> list[list[int]]:
    rows = await queries.working_hours(db, provider_id)
    return [[row.weekday, row.starts_minute, row.ends_minute] for row in rows]


async def touch(db: AsyncSession, provider: Provider) -> None:
    """Their hours have no version of their own: the provider's is the ETag of both."""
    nothing = update(Provider).where(Provider.id == provider.id).values(active=Provider.active)
    await db.execute(nothing, execution_options={"synchronize_session": False})
    await db.refresh(provider)


LONGEST = {ExceptionKind.CLOSED: timedelta(days=366), ExceptionKind.EXTRA: timedelta(days=31)}


async def add_exception(
    db: AsyncSession, provider_id: UUID, facts: Mapping[str, Any]
) -> AvailabilityException:
    """A time, or a whole day by the provider's clock. What is booked then stays."""
    provider = await queries.provider(db, provider_id)
    starts_at, ends_at = facts["starts_at"], facts["ends_at"]
    if facts["day"]:
        starts_at, ends_at = await whole_day(db, facts["day"], provider.time_zone)
    if ends_at <= starts_at:
        raise ends_before_start("/endsAt")
    if ends_at - starts_at > LONGEST[facts["kind"]]:
        detail = f"This lasts {LONGEST[facts['kind']].days} days at most."
        raise InvalidInput.at("/endsAt", detail, "too_long")
    exception = AvailabilityException(
        provider_id=provider_id,
        kind=facts["kind"],
        starts_at=starts_at,
        ends_at=ends_at,
        reason=facts["reason"],
    )
    db.add(exception)
    await db.flush()
    await db.refresh(exception)
    await record_exception(db, exception, "added")
    return exception


async def whole_day(db: AsyncSession, day: date, zone: str) -> tuple[datetime, datetime]:
    first = datetime(day.year, day.month, day.day)
    begins = func.moment_of(first, zone, False)
    ends = func.moment_of(first + timedelta(days=1), zone, True)
    row = (await db.execute(select(begins, ends))).one()
    return row[0], row[1]


async def remove_exception(db: AsyncSession, provider_id: UUID, exception_id: UUID) -> None:
    exception = await db.get(AvailabilityException, exception_id)
    if exception is None or exception.provider_id != provider_id:
        raise missing(AvailabilityException)
    await db.delete(exception)
    await db.flush()
    await record_exception(db, exception, "removed")


async def record_exception(db: AsyncSession, row: AvailabilityException, deed: str) -> None:
    said = {"kind": row.kind, "starts_at": row.starts_at, "ends_at": row.ends_at}
    before, after = (None, said) if deed == "added" else (said, None)
    await audit.record(
        db, f"booking.exception_{deed}", "provider", row.provider_id, before=before, after=after
    )
    await events.publish(db, AvailabilityChanged(provider_id=str(row.provider_id)))


async def add_service(
    db: AsyncSession, facts: Mapping[str, Any], provider_ids: Sequence[UUID]
) -> Service:
    price = await in_currency(db, facts["price"], facts["currency"])
    service = Service(**{**facts, "price": price})
    await records.add(db, service)
    await set_providers(db, service, provider_ids)
    await events.publish(db, ServicesChanged(service_id=str(service.id)))
    return service


async def change_service(
    db: AsyncSession,
    service_id: UUID,
    facts: Mapping[str, Any],
    provider_ids: Sequence[UUID],
    *,
    if_match: str | None = None,
) -> Service:
    """As a whole; what is booked keeps the price and the length that it was booked with."""
    service = await records.held(db, Service, service_id, if_match)
    price = await in_currency(db, facts["price"], facts["currency"])
    changed = await records.change(db, service, {**facts, "price": price}, "changed")
    if await set_providers(db, service, provider_ids) or changed:
        await events.publish(db, ServicesChanged(service_id=str(service_id)))
    return service


async def set_providers(db: AsyncSession, service: Service, provider_ids: Sequence[UUID]) -> bool:
    """Whether others give it than before."""
    before, after = {each.id for each in service.providers}, set(provider_ids)
    if before == after:
        return False
    known = await db.scalar(select(func.count(Provider.id)).where(Provider.id.in_(after)))
    if known != len(after):
        raise because(UnknownProvider)
    gone = ServiceProvider.provider_id.in_(before - after)
    await db.execute(
        delete(ServiceProvider).where(ServiceProvider.service_id == service.id, gone),
        execution_options={"synchronize_session": False},
    )
    if new := after - before:
        rows = [{"service_id": service.id, "provider_id": each} for each in new]
        await db.execute(insert(ServiceProvider), rows)
    nothing = update(Service).where(Service.id == service.id).values(active=Service.active)
    await db.execute(nothing, execution_options={"synchronize_session": False})
    await db.refresh(service)
    await audit.record(
        db,
        "booking.service_providers_changed",
        "service",
        service.id,
        before={"providers": sorted(map(str, before))},
        after={"providers": sorted(map(str, after))},
    )
    return True
