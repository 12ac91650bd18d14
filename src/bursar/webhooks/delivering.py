"""Every delivery is sent until it has arrived, failed for three days, or its endpoint is off.

One turn at a time works for an endpoint: it claims what is due and commits, sends all of that at
once outside of any transaction, and writes each outcome down as it comes. Whatever makes something
due adds a turn for that moment, and a turn that has sent looks for more at its end; so a turn that
finds another one at work may go. A slow endpoint holds one of TURNS places, for the time of one
request.

A worker that dies after an endpoint has taken something, and before that is written down, has it
sent again: with the same webhook-id, by which the receiver knows a repeat.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from random import uniform
from uuid import UUID

from sqlalchemy import Select, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.jobs import Run
from bursar.core.mail_outbox import settings_of
from bursar.webhooks import letters, signing
from bursar.webhooks.models import (
    DeliveryStatus,
    OffReason,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)
from bursar.webhooks.sending import AT_ONCE, Client, Outcome, Reason

TURNS = 5  # endpoints that are being sent to, in the whole system
CLAIM_GOOD_FOR = timedelta(minutes=2)  # a turn takes far less
MINUTE, HOUR = 60, 3600
DELAYS_SECONDS = (
    *(5, 5 * MINUTE, 30 * MINUTE),
    *(2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR),
)  # of Standard Webhooks: a little more than three days
PATIENCE = timedelta(days=7)


@jobs.steps("webhooks.turn", at_once=TURNS, timeout_seconds=90, added_by={Role.STAFF, Role.WORKER})
async def turn(run: Run) -> None:
    """Sends some of what is due at one endpoint."""
    endpoint_id = UUID(run.payload["endpoint"])
    async with run.transaction() as db:
        batch = await claim(db, endpoint_id, run.key)
        allow_private = settings_of(db).webhooks_allow_private
    if not batch:
        return
    async with Client(allow_private=allow_private) as client:
        sending = [asyncio.create_task(send(client, parcel)) for parcel in batch]
        try:
            for next_sent in asyncio.as_completed(sending):
                parcel, outcome = await next_sent
                async with run.transaction() as db:
                    await record(db, parcel, run.key, outcome)
        finally:
            for task in sending:
                task.cancel()
    async with run.transaction(last=True) as db:
        if await db.scalar(select(due(endpoint_id).exists())):
            await wake(db, endpoint_id)


async def wake(db: AsyncSession, endpoint_id: UUID, at: datetime | None = None) -> None:
    """Adds a turn for when something is due."""
    await jobs.enqueue(db, turn, {"endpoint": str(endpoint_id)}, run_at=at)


@dataclass(frozen=True, slots=True)
class Parcel:
    """What is sent at one attempt, and where."""

    id: UUID
    endpoint_id: UUID
    url: str
    body: str
    secrets: Sequence[str]


def due(endpoint_id: UUID) -> Select[WebhookDelivery]:
    return select(WebhookDelivery).where(
        WebhookDelivery.endpoint_id == endpoint_id,
        WebhookDelivery.status == DeliveryStatus.PENDING,
        WebhookDelivery.next_attempt_at <= func.now(),
    )


async def claim(db: AsyncSession, endpoint_id: UUID, key: str) -> list[Parcel]:
    """Takes what is due, unless another turn is at work; what this very turn had claimed before its
    worker died is its own."""
    endpoint = await locked(db, endpoint_id)
    if endpoint is None or await another_turn(db, endpoint_id, key):
        return []
    if not endpoint.enabled:  # somebody has switched it off after this was put on its way
        await fail_waiting(db, endpoint_id, key)
        return []
    oldest = due(endpoint_id).order_by(WebhookDelivery.next_attempt_at, WebhookDelivery.id)
    batch = (await db.scalars(oldest.limit(AT_ONCE).with_for_update())).all()
    for delivery in batch:
        delivery.attempts += 1
        delivery.claimed_by = key
        delivery.claimed_until = func.now() + CLAIM_GOOD_FOR
    secrets = signing.opened(db, endpoint)
    return [
        Parcel(delivery.id, endpoint_id, endpoint.url, delivery.body, secrets) for delivery in batch
    ]


async def locked(db: AsyncSession, endpoint_id: UUID) -> WebhookEndpoint | None:
    """First the endpoint, then what belongs to it: so nobody waits in a circle."""
    weakly = {"key_share": True}  # new deliveries may come meanwhile
    return await db.get(
        WebhookEndpoint, endpoint_id, with_for_update=weakly, populate_existing=True
    )


async def another_turn(db: AsyncSession, endpoint_id: UUID, key: str) -> bool:
    claimed = select(WebhookDelivery.id).where(
        WebhookDelivery.endpoint_id == endpoint_id,
        WebhookDelivery.claimed_until > func.now(),
        WebhookDelivery.claimed_by != key,
    )
    return await db.scalar(claimed.limit(1)) is not None


async def send(client: Client, parcel: Parcel) -> tuple[Parcel, Outcome]:
    if not parcel.secrets:
        return parcel, Outcome.not_sent(Reason.SECRET_LOST)
    headers = signing.headers(parcel.secrets, str(parcel.id), parcel.body)
    return parcel, await client.post(parcel.url, headers, parcel.body.encode())


async def record(db: AsyncSession, parcel: Parcel, key: str, outcome: Outcome) -> None:
    """Writes down how an attempt ended, and what follows; not if the delivery is gone meanwhile, or
    somebody else's."""
    endpoint = await locked(db, parcel.endpoint_id)
    delivery = await db.get(
        WebhookDelivery, parcel.id, with_for_update=True, populate_existing=True
    )
    if endpoint is None or delivery is None or delivery.claimed_by != key:
        return
    db.add(
        WebhookAttempt(
            delivery_id=delivery.id,
            started_at=outcome.started_at,
            duration_ms=outcome.duration_ms,
            status_code=outcome.status_code,
            reason=outcome.reason,
            detail=outcome.detail,
            answer=outcome.answer,
        )
    )
    delivery.claimed_by = delivery.claimed_until = None
    delivery.reason = outcome.reason
    if outcome.reason is None:
        settle(delivery, DeliveryStatus.DELIVERED)
        endpoint.failing_since = None
    elif delivery.event_id is None:
        settle(delivery, DeliveryStatus.FAILED)  # a test is one attempt, and says nothing of time
    else:
        await follow_failure(db, endpoint, delivery, outcome)


def settle(delivery: WebhookDelivery, status: DeliveryStatus) -> None:
    delivery.status = status
    delivery.next_attempt_at = None
    delivery.settled_at = func.now()


async def follow_failure(
    db: AsyncSession, endpoint: WebhookEndpoint, delivery: WebhookDelivery, outcome: Outcome
) -> None:
    """Another attempt after a while, unless there were enough, or the endpoint is off by now."""
    now: datetime = (await db.scalars(select(func.now()))).one()
    endpoint.failing_since = endpoint.failing_since or now
    why = reason_to_switch_off(endpoint, outcome, now)
    if why or not endpoint.enabled or delivery.attempts > len(DELAYS_SECONDS):
        settle(delivery, DeliveryStatus.FAILED)
    else:
        wait = max(delay_after(delivery.attempts), outcome.retry_after_seconds)
        delivery.next_attempt_at = now + timedelta(seconds=wait)
        await wake(db, endpoint.id, delivery.next_attempt_at)
    if why:
        await switch_off(db, endpoint, why)


def reason_to_switch_off(
    endpoint: WebhookEndpoint, outcome: Outcome, now: datetime
) -> OffReason | None:
    if not endpoint.enabled or endpoint.failing_since is None:
        return None
    if outcome.reason is Reason.GONE:
        return OffReason.GONE
    return OffReason.FAILING if endpoint.failing_since <= now - PATIENCE else None


def delay_after(attempt: int) -> float:
    """Spread, so that what failed together does not come again together."""
    return DELAYS_SECONDS[attempt - 1] * uniform(0.9, 1.1)  # noqa: S311 - not a secret


async def switch_off(db: AsyncSession, endpoint: WebhookEndpoint, why: OffReason) -> None:
    """Nothing is sent to it any more until staff switch it on again; its owner gets a mail."""
    endpoint.enabled, endpoint.off_reason, endpoint.off_at = False, why, func.now()
    await db.flush()
    await fail_waiting(db, endpoint.id)
    await audit.record(
        db,
        "webhooks.endpoint_switched_off",
        "webhook_endpoint",
        endpoint.id,
        before={"enabled": True},
        after={"enabled": False, "off_reason": why},
    )
    await letters.send_switched_off(db, endpoint, why)


async def fail_waiting(db: AsyncSession, endpoint_id: UUID, key: str | None = None) -> None:
    """What waits for an endpoint that is off has failed, and can be replayed. What another turn is
    sending at this moment ends as it ends."""
    waiting = or_(
        WebhookDelivery.claimed_until.is_(None),
        WebhookDelivery.claimed_until <= func.now(),
        WebhookDelivery.claimed_by == key,
    )
    await db.execute(
        update(WebhookDelivery)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.status == DeliveryStatus.PENDING,
            waiting,
        )
        .values(
            status=DeliveryStatus.FAILED,
            reason=Reason.SWITCHED_OFF,
            next_attempt_at=None,
            settled_at=func.now(),
        )
        .execution_options(synchronize_session=False)
    )
