"""What customers see and do: services, when they are free, and their appointments."""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from bursar.accounts.sign_in import owner
from bursar.auth.actor import Actor
from bursar.auth.guard import customer
from bursar.booking import queries, service
from bursar.booking.models import Appointment, AppointmentStatus
from bursar.booking.queries import Wanted
from bursar.booking.refusals import (
    BookingClosed,
    OutsideHours,
    PastStart,
    SlotTaken,
    TooFar,
    TooLate,
    TooManyOpen,
    TooSoon,
    UnknownProvider,
    UnknownService,
)
from bursar.booking.rules import MOST_SLOTS
from bursar.booking.schemas import (
    AppointmentIn,
    AppointmentList,
    AppointmentMove,
    AppointmentOut,
    Availability,
    Cancellation,
    Near,
    ServiceList,
    ServiceOut,
)
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(tags=["booking"], route_class=Route)

Me = Annotated[Actor, customer]
BAD_TIME = (PastStart, TooSoon, TooFar, OutsideHours, SlotTaken, UnknownProvider)


class ServicesQuery(PageQuery):
    """A page of services."""

    search: str | None = Field(None, min_length=1, max_length=100)
    provider_id: UUID | None = None
    sort: str | None = sort_field(queries.SERVICES)


class AvailabilityQuery(BaseModel):
    """From when to when, and with whom."""

    from_: Near | None = Field(None, alias="from", description="Left out: from now on.")
    to: Near | None = Field(None, description="Left out: a week later. At most 31 days.")
    provider_id: UUID | None = None

    def span(self) -> tuple[datetime, datetime]:
        begins = self.from_ or datetime.now(UTC)
        return begins, self.to or begins + timedelta(days=7)


class AppointmentsQuery(PageQuery):
    """A page of your appointments."""

    status: AppointmentStatus | None = None
    from_: Near | None = Field(None, alias="from", description="Beginning then or later.")
    to: Near | None = Field(None, description="Beginning before.")
    sort: str | None = sort_field(queries.APPOINTMENTS)


@router.get("/services", dependencies=[customer], responses=documented(InvalidInput))
async def list_services(db: Db, ask: Annotated[ServicesQuery, Query()]) -> ServiceList:
    """What can be booked, and with whom."""
    page = await queries.services(
        db, ask, active=True, provider_id=ask.provider_id, search=ask.search
    )
    return ServiceList.of(page, services=[ServiceOut.model_validate(row) for row in page.items])


@router.get("/services/{service_id}", dependencies=[customer], responses=documented(NotFound))
async def read_service(db: Db, response: Response, service_id: UUID) -> ServiceOut:
    """One service."""
    found = await queries.service(db, service_id)
    response.headers["ETag"] = etag.of(found.version)
    return ServiceOut.model_validate(found)


@router.get(
    "/services/{service_id}/availability",
    dependencies=[customer],
    responses=documented(NotFound, InvalidInput),
)
async def read_availability(
    db: Db, service_id: UUID, ask: Annotated[AvailabilityQuery, Query()]
) -> Availability:
    """When it can be booked, by the hours of its providers and what is booked already."""
    return Availability(**await availability(db, service_id, ask))


async def availability(db: Db, service_id: UUID, ask: AvailabilityQuery) -> dict[str, Any]:
    """What both customers and staff are told."""
    begins, ends = ask.span()
    queries.refuse_bad_look(begins, ends)
    found = await queries.service(db, service_id)
    free = await queries.slots(db, service_id, begins, ends, provider_id=ask.provider_id)
    complete = len(free) <= MOST_SLOTS
    return {"slots": free[:MOST_SLOTS], "providers": found.providers, "complete": complete}


@router.get("/appointments", responses=documented(InvalidInput))
async def list_appointments(
    db: Db, me: Me, ask: Annotated[AppointmentsQuery, Query()]
) -> AppointmentList:
    """Your appointments, the earliest first."""
    wanted = Wanted(user_id=owner(me), status=ask.status, since=ask.from_, until=ask.to)
    page = await queries.appointments(db, ask, wanted)
    found = [AppointmentOut.model_validate(row) for row in page.items]
    return AppointmentList.of(page, appointments=found)


@router.post(
    "/appointments",
    status_code=201,
    responses=documented(*BAD_TIME, UnknownService, TooManyOpen),
)
async def book_appointment(
    db: Db, response: Response, me: Me, body: AppointmentIn
) -> AppointmentOut:
    """One of the times that services/{id}/availability offers, for you."""
    facts = body.model_dump(by_alias=False)
    return appointment(response, await service.book(db, owner(me), facts))


@router.get(
    "/appointments/{appointment_id}", dependencies=[customer], responses=documented(NotFound)
)
async def read_appointment(db: Db, response: Response, appointment_id: UUID) -> AppointmentOut:
    """One of your appointments; the ETag is its version."""
    return appointment(response, await queries.appointment(db, appointment_id))


@router.put(
    "/appointments/{appointment_id}",
    dependencies=[customer],
    responses=documented(NotFound, *BAD_TIME, TooLate, BookingClosed, PreconditionFailed),
)
async def move_appointment(
    db: Db,
    response: Response,
    appointment_id: UUID,
    body: AppointmentMove,
    if_match: IfMatch = None,
) -> AppointmentOut:
    """Another time that is offered; possible for as long as cancelling costs nothing."""
    moved = await service.move(
        db, appointment_id, body.starts_at, body.provider_id, if_match=if_match
    )
    return appointment(response, moved)


@router.post(
    "/appointments/{appointment_id}/cancellation",
    dependencies=[customer],
    responses=documented(NotFound, BookingClosed, PreconditionFailed),
)
async def cancel_appointment(
    db: Db,
    response: Response,
    appointment_id: UUID,
    body: Cancellation,
    if_match: IfMatch = None,
) -> AppointmentOut:
    """Early enough you get back all that you have paid, later a share: `refund_percent` of it."""
    cancelled = await service.cancel(db, appointment_id, body.reason, if_match=if_match)
    return appointment(response, cancelled)


def appointment(response: Response, row: Appointment) -> AppointmentOut:
    response.headers["ETag"] = etag.of(row.version)
    return AppointmentOut.model_validate(row)
