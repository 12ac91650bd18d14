"""What staff see and do: providers and their hours, and the services they give."""

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.booking import offer, queries
from bursar.booking.api import AvailabilityQuery, ServicesQuery, availability
from bursar.booking.models import Provider, Service
from bursar.booking.pricing import NegativePrice
from bursar.booking.refusals import HoursOverlap, UnknownProvider, UnknownTimeZone
from bursar.booking.staff_schemas import (
    AvailabilityForStaff,
    ExceptionForStaff,
    ExceptionIn,
    ExceptionList,
    ProviderForStaff,
    ProviderIn,
    ProviderList,
    ServiceForStaff,
    ServiceIn,
    ServiceListForStaff,
    Week,
    WeekIn,
    on_clock,
)
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.money import TooManyDigits
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.payments.currencies import UnknownCurrency

router = APIRouter(tags=["booking"], route_class=Route)

READ = staff(Permission.BOOKING_READ)
WRITE = staff(Permission.BOOKING_WRITE)
READ_SERVICES = staff(Permission.SERVICES_READ)
BAD_PRICE = (NegativePrice, TooManyDigits, UnknownCurrency)


class ProvidersQuery(PageQuery):
    """A page of providers."""

    active: bool | None = None
    search: str | None = Field(None, min_length=1, max_length=100)
    sort: str | None = sort_field(queries.PROVIDERS)


class ExceptionsQuery(PageQuery):
    """A page of exceptions."""

    past: bool = Field(False, description="Whether to show those that are over as well.")
    sort: str | None = sort_field(queries.EXCEPTIONS)


class ServicesForStaffQuery(ServicesQuery):
    """A page of services, also of those that are not offered."""

    active: bool | None = None


@router.get("/providers", dependencies=[READ], responses=documented(InvalidInput))
async def list_providers(db: Db, ask: Annotated[ProvidersQuery, Query()]) -> ProviderList:
    """Who gives services and trainings, by name."""
    page = await queries.providers(db, ask, active=ask.active, search=ask.search)
    found = [ProviderForStaff.model_validate(row) for row in page.items]
    return ProviderList.of(page, providers=found)


@router.post(
    "/providers", status_code=201, dependencies=[WRITE], responses=documented(UnknownTimeZone)
)
async def create_provider(db: Db, response: Response, body: ProviderIn) -> ProviderForStaff:
    """Somebody of the staff or not; without working hours nothing of theirs is offered yet."""
    return provider(response, await offer.add_provider(db, body.model_dump(by_alias=False)))


@router.get("/providers/{provider_id}", dependencies=[READ], responses=documented(NotFound))
async def read_provider(db: Db, response: Response, provider_id: UUID) -> ProviderForStaff:
    """One provider; the ETag is the version."""
    return provider(response, await queries.provider(db, provider_id))


@router.put(
    "/providers/{provider_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, UnknownTimeZone, PreconditionFailed),
)
async def change_provider(
    db: Db, response: Response, provider_id: UUID, body: ProviderIn, if_match: IfMatch = None
) -> ProviderForStaff:
    """Replaces it as a whole. Another time zone moves the working hours, and nothing that is
    booked; who is not active is offered no more."""
    facts = body.model_dump(by_alias=False)
    return provider(
        response, await offer.change_provider(db, provider_id, facts, if_match=if_match)
    )


def provider(response: Response, row: Provider) -> ProviderForStaff:
    response.headers["ETag"] = etag.of(row.version)
    return ProviderForStaff.model_validate(row)


@router.get(
    "/providers/{provider_id}/working-hours", dependencies=[READ], responses=documented(NotFound)
)
async def read_hours(db: Db, response: Response, provider_id: UUID) -> Week:
    """When they work in every week, by their own clock; the ETag is the provider's."""
    return await week(db, response, await queries.provider(db, provider_id))


@router.put(
    "/providers/{provider_id}/working-hours",
    dependencies=[WRITE],
    responses=documented(NotFound, HoursOverlap, PreconditionFailed),
)
async def change_hours(
    db: Db, response: Response, provider_id: UUID, body: WeekIn, if_match: IfMatch = None
) -> Week:
    """Replaces the whole week. What is booked stays, also outside of it."""
    hours = [stretch.facts() for stretch in body.hours]
    return await week(
        db, response, await offer.set_hours(db, provider_id, hours, if_match=if_match)
    )


async def week(db: Db, response: Response, row: Provider) -> Week:
    response.headers["ETag"] = etag.of(row.version)
    hours = [
        {
            "weekday": each.weekday,
            "starts": on_clock(each.starts_minute),
            "ends": on_clock(each.ends_minute),
        }
        for each in await queries.working_hours(db, row.id)
    ]
    return Week.model_validate({"provider_id": row.id, "time_zone": row.time_zone, "hours": hours})


@router.get(
    "/providers/{provider_id}/exceptions",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_exceptions(
    db: Db, provider_id: UUID, ask: Annotated[ExceptionsQuery, Query()]
) -> ExceptionList:
    """When they do not work although the week says so, or the other way round."""
    await queries.provider(db, provider_id)
    since = None if ask.past else datetime.now(UTC)
    page = await queries.exceptions(db, provider_id, ask, since=since)
    found = [ExceptionForStaff.model_validate(row) for row in page.items]
    return ExceptionList.of(page, exceptions=found)


@router.post(
    "/providers/{provider_id}/exceptions",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, InvalidInput),
)
async def add_exception(db: Db, provider_id: UUID, body: ExceptionIn) -> ExceptionForStaff:
    """Where both say something of a time, closed wins. What is booked then stays."""
    facts = body.model_dump(by_alias=False)
    return ExceptionForStaff.model_validate(await offer.add_exception(db, provider_id, facts))


@router.delete(
    "/providers/{provider_id}/exceptions/{exception_id}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound),
)
async def remove_exception(db: Db, provider_id: UUID, exception_id: UUID) -> None:
    """The week counts again."""
    await offer.remove_exception(db, provider_id, exception_id)


@router.get("/services", dependencies=[READ_SERVICES], responses=documented(InvalidInput))
async def list_services(
    db: Db, ask: Annotated[ServicesForStaffQuery, Query()]
) -> ServiceListForStaff:
    """Services by name, also those that are not offered."""
    page = await queries.services(
        db, ask, active=ask.active, provider_id=ask.provider_id, search=ask.search
    )
    found = [ServiceForStaff.model_validate(row) for row in page.items]
    return ServiceListForStaff.of(page, services=found)


@router.post(
    "/services",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(UnknownProvider, *BAD_PRICE),
)
async def create_service(db: Db, response: Response, body: ServiceIn) -> ServiceForStaff:
    """Offered from now on by the providers named, in their working hours."""
    facts = body.model_dump(by_alias=False, exclude={"provider_ids"})
    return of_service(response, await offer.add_service(db, facts, body.provider_ids))


@router.get("/services/{service_id}", dependencies=[READ_SERVICES], responses=documented(NotFound))
async def read_service(db: Db, response: Response, service_id: UUID) -> ServiceForStaff:
    """One service; the ETag is the version."""
    return of_service(response, await queries.service(db, service_id))


@router.put(
    "/services/{service_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, UnknownProvider, *BAD_PRICE, PreconditionFailed),
)
async def change_service(
    db: Db, response: Response, service_id: UUID, body: ServiceIn, if_match: IfMatch = None
) -> ServiceForStaff:
    """Replaces it as a whole; what is booked keeps its price and length."""
    facts = body.model_dump(by_alias=False, exclude={"provider_ids"})
    changed = await offer.change_service(
        db, service_id, facts, body.provider_ids, if_match=if_match
    )
    return of_service(response, changed)


def of_service(response: Response, row: Service) -> ServiceForStaff:
    response.headers["ETag"] = etag.of(row.version)
    return ServiceForStaff.model_validate(row)


@router.get(
    "/services/{service_id}/availability",
    dependencies=[READ_SERVICES],
    responses=documented(NotFound, InvalidInput),
)
async def read_availability(
    db: Db, service_id: UUID, ask: Annotated[AvailabilityQuery, Query()]
) -> AvailabilityForStaff:
    """What customers are offered; staff may book other times as well."""
    return AvailabilityForStaff.model_validate(await availability(db, service_id, ask))
