"""What the database refuses of booking, in the words of the API: each refusal has one code.

The rules stand in guards.sql, where nobody gets past them; here is only what is said about it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError

from bursar.core.errors import BursarError, InvalidInput, NotFound

REFUSED = "BK000"  # the SQLSTATE of refuse_booking(); its message is the code


class SlotTaken(BursarError, status=409, code="booking.slot_taken"):
    """The provider has an appointment or a training at this time; nothing was written."""


class PastStart(BursarError, status=422, code="booking.past"):
    """The time has begun or is over."""


class TooSoon(BursarError, status=422, code="booking.too_soon"):
    """The start is nearer than customers may book; see `booking_lead_minutes`."""


class TooFar(BursarError, status=422, code="booking.too_far"):
    """The start is farther ahead than customers may book; see `booking_horizon_days`."""


class OutsideHours(BursarError, status=422, code="booking.outside_hours"):
    """This is not one of the times that are offered: GET services/{id}/availability lists them."""


class UnknownService(BursarError, status=422, code="booking.unknown_service"):
    """There is no such service, or it is not offered any more."""


class UnknownProvider(BursarError, status=422, code="booking.unknown_provider"):
    """There is no such provider, or not one who gives this service."""


class UnknownTimeZone(BursarError, status=422, code="booking.unknown_time_zone"):
    """A time zone is one of the IANA names, such as Europe/Berlin."""


class BookingClosed(BursarError, status=409, code="booking.closed"):
    """It is cancelled, over or has begun, so this cannot be done with it any more."""


class TooEarly(BursarError, status=409, code="booking.too_early"):
    """It has not begun yet, so nobody can have completed or missed it."""


class TooLate(BursarError, status=409, code="booking.too_late"):
    """So shortly before it begins customers cannot move it; see `cancel_free_hours`."""


class TooManyOpen(BursarError, status=409, code="booking.too_many_open"):
    """The customer has as many unpaid appointments ahead as one may have; see
    `booking_open_unpaid_at_most`."""


class TrainingFull(BursarError, status=409, code="booking.full"):
    """The training has no free place, and its waiting list is full or was not asked for."""


class EnrolmentOver(BursarError, status=409, code="booking.enrolment_over"):
    """The last day to enrol for this training has passed."""


class AlreadyEnrolled(BursarError, status=409, code="booking.already_enrolled"):
    """The customer is enrolled in this training, or waits for a place in it."""


class BelowEnrolled(BursarError, status=409, code="booking.below_enrolled"):
    """More customers are enrolled than the new capacity; cancel enrolments first."""


class HoursOverlap(BursarError, status=422, code="booking.hours_overlap"):
    """Two stretches of one weekday overlap."""


BY_CODE: dict[str, BursarError] = {
    each.code: each
    for each in (
        PastStart("This time has begun or is over; choose a later one."),
        TooSoon("This begins too soon to be booked; choose a later time."),
        TooFar("This is too far ahead to be booked yet; choose an earlier time."),
        OutsideHours("This is not one of the times that are offered; ask for those that are."),
        UnknownService("There is no such service, or it is not offered any more."),
        UnknownProvider("There is no such provider, or not one who gives this service."),
        UnknownTimeZone("There is no such time zone; take an IANA name such as Europe/Berlin."),
        BookingClosed("This is over, cancelled or has begun: it cannot be changed any more."),
        TooEarly("This has not begun yet."),
        TooLate("It begins so soon that it cannot be moved any more; you can still cancel it."),
        TooManyOpen("You have as many unpaid appointments ahead as one may have; pay first."),
        TrainingFull("There is no free place in this training."),
        EnrolmentOver("The last day to enrol for this training has passed."),
    )
}
BY_CONSTRAINT: dict[str, BursarError] = {
    "ex_provider_times_during": SlotTaken("The provider is not free at this time any more."),
    "uq_training_enrolments_user_id": AlreadyEnrolled("There is an enrolment in it already."),
    "ck_trainings_enrolled": BelowEnrolled("More customers are enrolled than that."),
    "ex_working_hours_overlap": HoursOverlap("Two stretches of one weekday overlap."),
}
BY_CODE["booking.unknown_training"] = NotFound("There is no such training.")


@contextmanager
def refusable() -> Iterator[None]:
    """Around what writes: raises what the database has refused as the error of the API."""
    try:
        yield
    except DBAPIError as error:
        if known := refusal(error):
            raise type(known)(known.detail) from None
        raise


def refusal(error: DBAPIError) -> BursarError | None:
    cause = getattr(error.orig, "__cause__", None)  # asyncpg's own, behind SQLAlchemy's
    if getattr(cause, "sqlstate", None) == REFUSED:
        return BY_CODE[str(cause)]
    return BY_CONSTRAINT.get(getattr(cause, "constraint_name", None) or "")


def because(kind: type[BursarError]) -> BursarError:
    """The same refusal, where Python sees it first."""
    return kind(BY_CODE[kind.code].detail)


def missing(model: type) -> NotFound:
    return NotFound(f"There is no such {model.__name__.lower()}.")


def ends_before_start(pointer: str) -> InvalidInput:
    return InvalidInput.at(pointer, "It ends after it has begun.", "ends_before_start")
