"""What staff see and do: trainings, and who is enrolled in them."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from bursar.booking import queries, trainings
from bursar.booking.admin import BAD_PRICE, READ, READ_SERVICES, WRITE
from bursar.booking.models import Enrolment, Training
from bursar.booking.refusals import (
    AlreadyEnrolled,
    BelowEnrolled,
    BookingClosed,
    PastStart,
    SlotTaken,
    TooEarly,
    TrainingFull,
    UnknownProvider,
)
from bursar.booking.schemas import with_position
from bursar.booking.staff_schemas import (
    CancellationByStaff,
    EnrolmentForAnother,
    EnrolmentForStaff,
    EnrolmentListForStaff,
    TrainingForStaff,
    TrainingIn,
    TrainingListForStaff,
    TrainingStatusIn,
)
from bursar.booking.training_api import EnrolmentsQuery, TrainingsQuery
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(tags=["booking"], route_class=Route)


@router.get("/trainings", dependencies=[READ_SERVICES], responses=documented(InvalidInput))
async def list_trainings(db: Db, ask: Annotated[TrainingsQuery, Query()]) -> TrainingListForStaff:
    """Trainings ahead, the earliest first; also those that are over with when=any."""
    page = await queries.trainings(
        db,
        ask,
        status=ask.status,
        upcoming=ask.when == "upcoming",
        provider_id=ask.provider_id,
        search=ask.search,
    )
    found = [TrainingForStaff.model_validate(row) for row in page.items]
    return TrainingListForStaff.of(page, trainings=found)


@router.post(
    "/trainings",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(PastStart, SlotTaken, UnknownProvider, *BAD_PRICE),
)
async def schedule_training(db: Db, response: Response, body: TrainingIn) -> TrainingForStaff:
    """At a time at which its provider has no appointment and no other training."""
    return training(response, await trainings.schedule(db, body.model_dump(by_alias=False)))


@router.get(
    "/trainings/{training_id}", dependencies=[READ_SERVICES], responses=documented(NotFound)
)
async def read_training(db: Db, response: Response, training_id: UUID) -> TrainingForStaff:
    """One training; the ETag is the version."""
    return training(response, await queries.training(db, training_id))


@router.put(
    "/trainings/{training_id}",
    dependencies=[WRITE],
    responses=documented(
        NotFound,
        PastStart,
        SlotTaken,
        UnknownProvider,
        *BAD_PRICE,
        BelowEnrolled,
        BookingClosed,
        PreconditionFailed,
    ),
)
async def change_training(
    db: Db, response: Response, training_id: UUID, body: TrainingIn, if_match: IfMatch = None
) -> TrainingForStaff:
    """Replaces it as a whole. Who is enrolled keeps their price and hears of a new time; new
    places are for those who wait."""
    facts = body.model_dump(by_alias=False)
    return training(response, await trainings.change(db, training_id, facts, if_match=if_match))


@router.put(
    "/trainings/{training_id}/status",
    dependencies=[WRITE],
    responses=documented(NotFound, TooEarly, BookingClosed, PreconditionFailed),
)
async def change_training_status(
    db: Db, response: Response, training_id: UUID, body: TrainingStatusIn, if_match: IfMatch = None
) -> TrainingForStaff:
    """Completed once it has begun; cancelled for everybody, who all get their money back."""
    changed = await trainings.change_status(
        db, training_id, body.status, body.reason, if_match=if_match
    )
    return training(response, changed)


def training(response: Response, row: Training) -> TrainingForStaff:
    response.headers["ETag"] = etag.of(row.version)
    return TrainingForStaff.model_validate(row)


@router.get(
    "/trainings/{training_id}/enrolments",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_enrolments(
    db: Db, training_id: UUID, ask: Annotated[EnrolmentsQuery, Query()]
) -> EnrolmentListForStaff:
    """Who is enrolled, who waits, and who has left again."""
    await queries.training(db, training_id)
    page = await queries.enrolments(db, ask, training_id=training_id, status=ask.status)
    positions = await queries.positions(db, page.items)
    found = [with_position(row, EnrolmentForStaff, positions) for row in page.items]
    return EnrolmentListForStaff.of(page, enrolments=found)


@router.post(
    "/trainings/{training_id}/enrolments",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, TrainingFull, AlreadyEnrolled, BookingClosed),
)
async def enrol(
    db: Db, response: Response, training_id: UUID, body: EnrolmentForAnother
) -> EnrolmentForStaff:
    """A customer, also after the last day to enrol; never beyond the capacity."""
    made = await trainings.enrol_another(db, training_id, body.user_id, wait=body.wait)
    return await enrolment(db, response, made)


@router.post(
    "/enrolments/{enrolment_id}/cancellation",
    dependencies=[WRITE],
    responses=documented(NotFound, BookingClosed, PreconditionFailed),
)
async def cancel_enrolment(
    db: Db,
    response: Response,
    enrolment_id: UUID,
    body: CancellationByStaff,
    if_match: IfMatch = None,
) -> EnrolmentForStaff:
    """The place is for who waits first; what goes back the policy says, or you."""
    left = await trainings.leave(
        db, enrolment_id, body.reason, refund_percent=body.refund_percent, if_match=if_match
    )
    return await enrolment(db, response, left)


async def enrolment(db: Db, response: Response, row: Enrolment) -> EnrolmentForStaff:
    response.headers["ETag"] = etag.of(row.version)
    positions = await queries.positions(db, [row])
    found: EnrolmentForStaff = with_position(row, EnrolmentForStaff, positions)
    return found
