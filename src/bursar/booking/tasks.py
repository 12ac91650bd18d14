"""What booking does by itself: letters, reminders, and the end of what nobody pays for."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.models import Status, User
from bursar.booking import letters, paying, releasing
from bursar.booking.models import Training, TrainingStatus
from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.payments import refunds
from bursar.payments.refunds import TOLD_WITHIN
from bursar.payments.tasks import go_on

AT_ONCE = 500


@jobs.cron("* * * * *", "booking.write_letters")
async def write_letters(db: AsyncSession, _: dict[str, Any]) -> None:
    """Tells customers what has become of their bookings, once a minute."""
    await letters.write_all(db)


@jobs.cron("*/5 * * * *", "booking.remind")
async def remind(db: AsyncSession, _: dict[str, Any]) -> None:
    """Reminds customers of what they have booked, once of each."""
    await letters.remind_all(db)


@jobs.cron("* * * * *", "booking.release_unpaid")
async def release_unpaid(db: AsyncSession, _: dict[str, Any]) -> None:
    """Frees what was to be paid for in advance and was not, once a minute."""
    await releasing.release_unpaid(db)


@jobs.cron("*/15 * * * *", "booking.complete_trainings")
async def complete_trainings(db: AsyncSession, _: dict[str, Any]) -> None:
    """Trainings that are over are completed."""
    over = select(Training).where(
        Training.status == TrainingStatus.SCHEDULED, Training.ends_at < func.now()
    )
    locked = over.limit(AT_ONCE).with_for_update(skip_locked=True, key_share=True)
    for training in await db.scalars(locked):
        training.status = TrainingStatus.COMPLETED


@jobs.cron("* * * * *", "booking.give_back")
async def give_back(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has refunds asked for that cancellations have left to be asked for, once a minute."""
    for each in await paying.owed(db):
        payload = {"payment_id": str(each.payment_id), "booking_id": str(each.booking_id)}
        await jobs.enqueue(db, give_one_back, payload, unique_key=str(each.booking_id))


@jobs.job("booking.give_one_back", added_by={Role.WORKER})
async def give_one_back(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Asks for one refund: of a booking, or of a payment that no booking needs. A provider that has
    refused just now may tell a moment later that it is contested."""
    payment_id, booking = UUID(payload["payment_id"]), payload.get("booking_id")
    if await refunds.was_refused_just_now(db, payment_id):
        await jobs.enqueue(db, give_one_back, payload, run_at=datetime.now(UTC) + TOLD_WITHIN)
        return
    owing = paying.Owed(payment_id, UUID(booking) if booking else None)
    await go_on(db, await paying.give_back(db, owing))


@events.on(
    "payments.completed",
    "payments.refunded",
    "payments.refund_failed",
    "payments.disputed",
    subscriber="booking.mark_paid",
)
async def mark_paid(db: AsyncSession, event: Published) -> None:
    """A booking says of its payment what is so, and what nobody needs goes back."""
    payment_id = UUID(event.payload["payment_id"])
    if not await paying.settle(db, payment_id) and await paying.unneeded(db, payment_id):
        key = f"{payment_id}:{event.id}"  # a job that runs already may have looked before it
        await jobs.enqueue(db, give_one_back, {"payment_id": str(payment_id)}, unique_key=key)


CANCEL_ALL = text("select cancel_bookings_of(:user)")
FORGET = (
    text("update appointments set note = null, cancel_reason = null where user_id = :user"),
    text("update training_enrolments set cancel_reason = null where user_id = :user"),
)


@events.on("users.status_changed", subscriber="booking.free_what_was_booked")
async def free_what_was_booked(db: AsyncSession, event: Published) -> None:
    """A customer who has left has no appointments ahead any more."""
    user = await db.get(User, UUID(event.payload["user_id"]))
    if user is not None and user.status == Status.DELETED:
        await db.execute(CANCEL_ALL, {"user": user.id})


@events.on("users.erased", subscriber="booking.forget_words")
async def forget_words(db: AsyncSession, event: Published) -> None:
    """What was written about their bookings goes; that there were some, is a business record."""
    for statement in FORGET:
        await db.execute(statement, {"user": UUID(event.payload["user_id"])})
