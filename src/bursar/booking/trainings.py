"""The verbs of trainings: schedule, change, cancel; enrol, wait, and leave again.

How many there are, who gets a free place and in which order, the database decides (trainings.sql).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.booking import queries, records
from bursar.booking.models import Enrolment, EnrolmentStatus, Provider, Training, TrainingStatus
from bursar.booking.pricing import in_currency
from bursar.booking.refusals import (
    BookingClosed,
    PastStart,
    UnknownProvider,
    because,
    ends_before_start,
    refusable,
)
from bursar.booking.service import refuse_gone
from bursar.core import events
from bursar.core.database import Role
from bursar.core.errors import InvalidInput

LONGEST = timedelta(days=31)


class TrainingChanged(events.Event, name="booking.training_changed", public=True):
    """A training was scheduled, changed, completed or cancelled."""

    training_id: UUID


class Enrolled(events.Event, name="booking.enrolled", public=True):
    """A customer has enrolled in a training, or waits for a place in it."""

    enrolment_id: UUID


class EnrolmentCancelled(events.Event, name="booking.enrolment_cancelled", public=True):
    """A customer has left a training or its waiting list; who waits first has got the place."""

    enrolment_id: UUID


class MovedUp(events.Event, name="booking.moved_up", published_by={Role.WORKER}, public=True):
    """Somebody who waited for a place in a training has got one; the database has given it."""

    enrolment_id: UUID


async def schedule(db: AsyncSession, facts: Mapping[str, Any]) -> Training:
    await refuse_bad(db, facts)
    if facts["starts_at"] <= datetime.now(UTC):
        raise because(PastStart)
    training = await records.add(db, Training(**await complete(db, facts)))
    await events.publish(db, TrainingChanged(training_id=training.id))
    return training


async def change(
    db: AsyncSession, training_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> Training:
    """As a whole. More places go to who waits; a new time is told to who is enrolled."""
    await refuse_bad(db, facts)
    training = await records.held(db, Training, training_id, if_match)
    if facts["starts_at"] <= datetime.now(UTC) and facts["starts_at"] != training.starts_at:
        raise because(PastStart)
    if await records.change(db, training, await complete(db, facts), "changed"):
        await events.publish(db, TrainingChanged(training_id=training_id))
    return training


async def complete(db: AsyncSession, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **facts,
        "enrol_until": facts["enrol_until"] or facts["starts_at"],
        "price": await in_currency(db, facts["price"], facts["currency"]),
    }


async def refuse_bad(db: AsyncSession, facts: Mapping[str, Any]) -> None:
    if facts["ends_at"] <= facts["starts_at"]:
        raise ends_before_start("/endsAt")
    if facts["ends_at"] - facts["starts_at"] > LONGEST:
        raise InvalidInput.at(
            "/endsAt", f"A training lasts {LONGEST.days} days at most.", "too_long"
        )
    if facts["enrol_until"] and facts["enrol_until"] > facts["starts_at"]:
        detail = "Enrolment ends when the training begins, at the latest."
        raise InvalidInput.at("/enrolUntil", detail, "ends_before_start")
    known = select(Provider.id).where(Provider.id == facts["provider_id"], Provider.active)
    if await db.scalar(known) is None:
        raise because(UnknownProvider)


async def change_status(
    db: AsyncSession,
    training_id: UUID,
    status: TrainingStatus,
    reason: str | None = None,
    *,
    if_match: str | None = None,
) -> Training:
    """Cancelled, it is over for everybody in it, and all of them get all of their money back."""
    training = await records.held(db, Training, training_id, if_match)
    if training.status == status:
        raise because(BookingClosed)
    await records.change(db, training, {"status": status, "cancel_reason": reason}, status)
    await events.publish(db, TrainingChanged(training_id=training_id))
    return training


async def enrol(db: AsyncSession, training_id: UUID, user_id: UUID, *, wait: bool) -> Enrolment:
    """A place, or else one in the waiting list where the customer would wait."""
    row = insert(Enrolment).values(training_id=training_id, user_id=user_id, may_wait=wait)
    with refusable():
        enrolment_id = (await db.execute(row.returning(Enrolment.id))).scalar_one()
    enrolment = await queries.enrolment(db, enrolment_id)
    await records.record(db, enrolment, "created")
    await events.publish(db, Enrolled(enrolment_id=enrolment_id))
    return enrolment


async def enrol_another(
    db: AsyncSession, training_id: UUID, user_id: UUID, *, wait: bool
) -> Enrolment:
    """The same for another: by staff, also after the last day to enrol."""
    await refuse_gone(db, user_id)
    return await enrol(db, training_id, user_id, wait=wait)


async def leave(
    db: AsyncSession,
    enrolment_id: UUID,
    reason: str | None,
    *,
    refund_percent: int | None = None,
    if_match: str | None = None,
) -> Enrolment:
    """The place goes to who waits first. Who locks an enrolment to change where it stands has
    locked its training before, so that two never wait for each other."""
    found = await queries.enrolment(db, enrolment_id)
    await db.execute(select(func.hold_training(found.training_id)))
    enrolment = await records.held(db, Enrolment, enrolment_id, if_match)
    if enrolment.status == EnrolmentStatus.CANCELLED:
        raise because(BookingClosed)
    facts: dict[str, Any] = {"status": EnrolmentStatus.CANCELLED, "cancel_reason": reason}
    if refund_percent is not None:
        facts["refund_percent"] = refund_percent
    await records.change(db, enrolment, facts, "cancelled")
    await events.publish(db, EnrolmentCancelled(enrolment_id=enrolment_id))
    return enrolment
