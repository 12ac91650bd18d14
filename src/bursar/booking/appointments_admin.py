"""What staff see and do: everybody's appointments."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from bursar.booking import queries, service
from bursar.booking.admin import READ, WRITE
from bursar.booking.api import AppointmentsQuery
from bursar.booking.models import Appointment
from bursar.booking.queries import Wanted
from bursar.booking.refusals import (
    BookingClosed,
    PastStart,
    SlotTaken,
    TooEarly,
    UnknownProvider,
    UnknownService,
)
from bursar.booking.staff_schemas import (
    AppointmentForAnother,
    AppointmentForStaff,
    AppointmentListForStaff,
    AppointmentMoveByStaff,
    AppointmentStatusIn,
    CancellationByStaff,
)
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(prefix="/appointments", tags=["booking"], route_class=Route)


class AppointmentsForStaffQuery(AppointmentsQuery):
    """A page of appointments."""

    user_id: UUID | None = None
    provider_id: UUID | None = None
    service_id: UUID | None = None


@router.get("", dependencies=[READ], responses=documented(InvalidInput))
async def list_appointments(
    db: Db, ask: Annotated[AppointmentsForStaffQuery, Query()]
) -> AppointmentListForStaff:
    """Appointments of all customers, the earliest first."""
    wanted = Wanted(
        user_id=ask.user_id,
        provider_id=ask.provider_id,
        service_id=ask.service_id,
        status=ask.status,
        since=ask.from_,
        until=ask.to,
    )
    page = await queries.appointments(db, ask, wanted)
    found = [AppointmentForStaff.model_validate(row) for row in page.items]
    return AppointmentListForStaff.of(page, appointments=found)


@router.post(
    "",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, PastStart, SlotTaken, UnknownProvider, UnknownService),
)
async def book_appointment(
    db: Db, response: Response, body: AppointmentForAnother
) -> AppointmentForStaff:
    """For a customer, also outside the working hours; never where the provider is taken."""
    facts = body.model_dump(by_alias=False, exclude={"user_id"})
    return appointment(response, await service.book_for(db, body.user_id, facts))


@router.get("/{appointment_id}", dependencies=[READ], responses=documented(NotFound))
async def read_appointment(db: Db, response: Response, appointment_id: UUID) -> AppointmentForStaff:
    """One appointment; the ETag is the version."""
    return appointment(response, await queries.appointment(db, appointment_id))


@router.put(
    "/{appointment_id}",
    dependencies=[WRITE],
    responses=documented(
        NotFound, PastStart, SlotTaken, UnknownProvider, BookingClosed, PreconditionFailed
    ),
)
async def move_appointment(
    db: Db,
    response: Response,
    appointment_id: UUID,
    body: AppointmentMoveByStaff,
    if_match: IfMatch = None,
) -> AppointmentForStaff:
    """Another time or provider; the customer gets a mail."""
    moved = await service.move(
        db, appointment_id, body.starts_at, body.provider_id, if_match=if_match
    )
    return appointment(response, moved)


@router.put(
    "/{appointment_id}/status",
    dependencies=[WRITE],
    responses=documented(NotFound, TooEarly, BookingClosed, PreconditionFailed),
)
async def change_appointment_status(
    db: Db,
    response: Response,
    appointment_id: UUID,
    body: AppointmentStatusIn,
    if_match: IfMatch = None,
) -> AppointmentForStaff:
    """Confirmed, or, once it has begun, completed or missed."""
    share = {} if body.refund_percent is None else {"refund_percent": body.refund_percent}
    changed = await service.change_status(db, appointment_id, body.status, share, if_match=if_match)
    return appointment(response, changed)


@router.post(
    "/{appointment_id}/cancellation",
    dependencies=[WRITE],
    responses=documented(NotFound, BookingClosed, PreconditionFailed),
)
async def cancel_appointment(
    db: Db,
    response: Response,
    appointment_id: UUID,
    body: CancellationByStaff,
    if_match: IfMatch = None,
) -> AppointmentForStaff:
    """What goes back is what the policy says, or what you say."""
    cancelled = await service.cancel(
        db, appointment_id, body.reason, refund_percent=body.refund_percent, if_match=if_match
    )
    return appointment(response, cancelled)


def appointment(response: Response, row: Appointment) -> AppointmentForStaff:
    response.headers["ETag"] = etag.of(row.version)
    return AppointmentForStaff.model_validate(row)
