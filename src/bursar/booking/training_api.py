"""What customers see and do: trainings, their places in them, and waiting lists."""

from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.accounts.sign_in import owner
from bursar.auth.guard import customer
from bursar.booking import queries, trainings
from bursar.booking.api import Me
from bursar.booking.models import Enrolment, EnrolmentStatus, TrainingStatus
from bursar.booking.refusals import AlreadyEnrolled, BookingClosed, EnrolmentOver, TrainingFull
from bursar.booking.schemas import (
    Cancellation,
    EnrolmentIn,
    EnrolmentList,
    EnrolmentOut,
    TrainingList,
    TrainingOut,
    with_position,
)
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(tags=["booking"], route_class=Route)


class TrainingsQuery(PageQuery):
    """A page of trainings."""

    status: TrainingStatus | None = None
    search: str | None = Field(None, min_length=1, max_length=100)
    provider_id: UUID | None = None
    when: Literal["upcoming", "any"] = "upcoming"
    sort: str | None = sort_field(queries.TRAININGS)


class EnrolmentsQuery(PageQuery):
    """A page of your enrolments."""

    status: EnrolmentStatus | None = None
    sort: str | None = sort_field(queries.ENROLMENTS)


@router.get("/trainings", dependencies=[customer], responses=documented(InvalidInput))
async def list_trainings(db: Db, ask: Annotated[TrainingsQuery, Query()]) -> TrainingList:
    """Trainings ahead, the earliest first; also those that are over with when=any."""
    page = await queries.trainings(
        db,
        ask,
        status=ask.status,
        upcoming=ask.when == "upcoming",
        provider_id=ask.provider_id,
        search=ask.search,
    )
    return TrainingList.of(page, trainings=[TrainingOut.model_validate(row) for row in page.items])


@router.get("/trainings/{training_id}", dependencies=[customer], responses=documented(NotFound))
async def read_training(db: Db, training_id: UUID) -> TrainingOut:
    """One training, and how many places are taken."""
    return TrainingOut.model_validate(await queries.training(db, training_id))


@router.post(
    "/trainings/{training_id}/enrolments",
    status_code=201,
    responses=documented(NotFound, TrainingFull, AlreadyEnrolled, EnrolmentOver, BookingClosed),
)
async def enrol(
    db: Db, response: Response, me: Me, training_id: UUID, body: EnrolmentIn
) -> EnrolmentOut:
    """A place for you; where there is none, one in the waiting list if you would wait."""
    enrolled = await trainings.enrol(db, training_id, owner(me), wait=body.wait)
    return await enrolment(db, response, enrolled)


@router.get("/enrolments", responses=documented(InvalidInput))
async def list_enrolments(
    db: Db, me: Me, ask: Annotated[EnrolmentsQuery, Query()]
) -> EnrolmentList:
    """What you have enrolled for, and where you stand in waiting lists."""
    page = await queries.enrolments(db, ask, user_id=owner(me), status=ask.status)
    positions = await queries.positions(db, page.items)
    found = [with_position(row, EnrolmentOut, positions) for row in page.items]
    return EnrolmentList.of(page, enrolments=found)


@router.get("/enrolments/{enrolment_id}", dependencies=[customer], responses=documented(NotFound))
async def read_enrolment(db: Db, response: Response, enrolment_id: UUID) -> EnrolmentOut:
    """One of your enrolments; the ETag is its version."""
    return await enrolment(db, response, await queries.enrolment(db, enrolment_id))


@router.post(
    "/enrolments/{enrolment_id}/cancellation",
    dependencies=[customer],
    responses=documented(NotFound, BookingClosed, PreconditionFailed),
)
async def cancel_enrolment(
    db: Db, response: Response, enrolment_id: UUID, body: Cancellation, if_match: IfMatch = None
) -> EnrolmentOut:
    """Your place is for who waits first; what goes back to you says refund_percent."""
    left = await trainings.leave(db, enrolment_id, body.reason, if_match=if_match)
    return await enrolment(db, response, left)


async def enrolment(db: Db, response: Response, row: Enrolment) -> EnrolmentOut:
    response.headers["ETag"] = etag.of(row.version)
    found: EnrolmentOut = with_position(row, EnrolmentOut, await queries.positions(db, [row]))
    return found
