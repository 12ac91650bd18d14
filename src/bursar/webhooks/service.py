"""The verbs of staff: make, change and remove endpoints, rotate secrets, test, replay."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import staff
from bursar.audit import service as audit
from bursar.auth.actor import Actor
from bursar.core import etag, events
from bursar.core.errors import BursarError, NotFound
from bursar.core.mail_outbox import settings_of
from bursar.core.wire import zulu
from bursar.webhooks import addresses, delivering, queries, signing
from bursar.webhooks.models import DeliveryStatus, OffReason, WebhookDelivery, WebhookEndpoint

MOST_ENDPOINTS = 50
MOST_REPLAYED = 10_000  # at once
TEST_EVENT = "webhooks.test"


class TooManyEndpoints(BursarError, status=409, code="webhooks.too_many"):
    """There are as many endpoints as there may be; remove one that is not needed."""


class UnknownEvent(BursarError, status=422, code="webhooks.unknown_event"):
    """A filter fits no event that leaves the house; GET webhook-event-types lists those that do."""


class SwitchedOff(BursarError, status=409, code="webhooks.switched_off"):
    """The endpoint is off: switch it on first (`enabled`), then send it something."""


class StillPending(BursarError, status=409, code="webhooks.still_pending"):
    """The delivery is on its way or waits for its next attempt; replay it when that is over."""


async def create(
    db: AsyncSession, actor: Actor, facts: Mapping[str, Any]
) -> tuple[WebhookEndpoint, str]:
    """The endpoint and its secret, which nobody sees again."""
    lock = func.pg_advisory_xact_lock(func.hashtextextended("webhook endpoints", 0))
    await db.execute(select(lock))
    number = await db.scalar(select(func.count()).select_from(WebhookEndpoint)) or 0
    if number >= MOST_ENDPOINTS:
        raise TooManyEndpoints(f"There are {number} already; remove one that is not needed.")
    secret = signing.new_secret()
    endpoint = WebhookEndpoint(secret=signing.sealed(db, secret), created_by=staff.known(actor))
    put(db, endpoint, facts)
    db.add(endpoint)
    await written(db, "created", endpoint, None)
    return endpoint, secret


def put(db: AsyncSession, endpoint: WebhookEndpoint, facts: Mapping[str, Any]) -> None:
    """Sets what is given, once it is known to be good."""
    facts = dict(facts)
    if "url" in facts:
        private = settings_of(db).webhooks_allow_private
        facts["url"] = str(addresses.checked(facts["url"], allow_private=private))
    if "events" in facts:
        check_filters(facts["events"])
    if "enabled" in facts and facts["enabled"] != endpoint.enabled:
        off = not facts["enabled"]
        facts["off_reason"] = OffReason.STAFF if off else None
        facts["off_at"] = datetime.now(UTC) if off else None
        facts["failing_since"] = None  # a week is counted anew
    for name, value in facts.items():
        if getattr(endpoint, name) != value:
            setattr(endpoint, name, value)


def check_filters(filters: Sequence[str]) -> None:
    known = queries.known_filters()
    errors = [
        {"pointer": f"/events/{place}", "detail": "No event fits.", "code": "unknown_event"}
        for place, name in enumerate(filters)
        if name not in known
    ]
    if errors:
        raise UnknownEvent(
            f"A filter is one of these names, what one begins with (users.*), or *: "
            f"{', '.join(events.public())}.",
            errors=errors,
        )


async def written(
    db: AsyncSession, deed: str, endpoint: WebhookEndpoint, before: dict[str, Any] | None
) -> None:
    await db.flush()
    await db.refresh(endpoint)
    await audit.record(
        db,
        f"webhooks.endpoint_{deed}",
        "webhook_endpoint",
        endpoint.id,
        before=before,
        after=seen(endpoint),
    )


def seen(endpoint: WebhookEndpoint) -> dict[str, Any]:
    """What an audit row says about it."""
    names = ("url", "description", "events", "enabled", "off_reason")
    return {name: getattr(endpoint, name) for name in names}


async def change(
    db: AsyncSession, endpoint_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> WebhookEndpoint:
    """What is given, nothing else. Switched off, what waits for it has failed; switched on, it is
    told of what happens from then on, and what has failed can be replayed."""
    endpoint = await held(db, endpoint_id, if_match)
    before = seen(endpoint)
    put(db, endpoint, facts)
    if not db.is_modified(endpoint):
        audit.nothing_changed(db)
        return endpoint
    await written(db, "changed", endpoint, before)
    if not endpoint.enabled:
        await delivering.fail_waiting(db, endpoint.id)
    return endpoint


async def held(db: AsyncSession, endpoint_id: UUID, if_match: str | None = None) -> WebhookEndpoint:
    """The endpoint, locked until the transaction ends."""
    endpoint = await delivering.locked(db, endpoint_id)
    if endpoint is None:
        raise NotFound("There is no such webhook endpoint.")
    etag.check(if_match, endpoint.version)
    return endpoint


async def remove(db: AsyncSession, endpoint_id: UUID, *, if_match: str | None = None) -> None:
    """With all that it was ever sent."""
    endpoint = await held(db, endpoint_id, if_match)
    await db.delete(endpoint)
    await db.flush()
    await audit.record(
        db, "webhooks.endpoint_removed", "webhook_endpoint", endpoint_id, before=seen(endpoint)
    )


async def rotate_secret(
    db: AsyncSession, endpoint_id: UUID, grace: timedelta, *, if_match: str | None = None
) -> tuple[WebhookEndpoint, str]:
    """A new secret; the one before signs beside it until the grace is over."""
    endpoint = await held(db, endpoint_id, if_match)
    secret = signing.new_secret()
    endpoint.old_secret, endpoint.secret = endpoint.secret, signing.sealed(db, secret)
    endpoint.old_secret_until = datetime.now(UTC) + grace
    await db.flush()
    await db.refresh(endpoint)
    after = {"old_secret_good_for_hours": grace.total_seconds() / 3600}
    await audit.record(db, "webhooks.secret_rotated", "webhook_endpoint", endpoint_id, after=after)
    return endpoint, secret


def body(event_type: str, occurred_at: datetime, data: Mapping[str, Any]) -> str:
    """As Standard Webhooks has it; these very bytes are signed and sent, at every attempt."""
    content = {"type": event_type, "timestamp": zulu(occurred_at), "data": data}
    return orjson.dumps(content).decode()


async def send_test(db: AsyncSession, endpoint_id: UUID) -> WebhookDelivery:
    """One attempt of an event that says nothing; it passes every filter."""
    endpoint = await switched_on(db, endpoint_id)
    content = body(TEST_EVENT, datetime.now(UTC), {"endpoint_id": str(endpoint.id)})
    row = insert(WebhookDelivery).values(
        endpoint_id=endpoint.id, event_type=TEST_EVENT, body=content
    )
    delivery_id = (await db.scalars(row.returning(WebhookDelivery.id))).one()
    delivery = await queries.delivery(db, delivery_id)
    await delivering.wake(db, endpoint.id)
    await audit.record(
        db, "webhooks.test_sent", "webhook_endpoint", endpoint.id, after={"delivery": delivery.id}
    )
    return delivery


async def switched_on(db: AsyncSession, endpoint_id: UUID) -> WebhookEndpoint:
    endpoint = await held(db, endpoint_id)
    if not endpoint.enabled:
        raise SwitchedOff("The endpoint is off: switch it on first.")
    return endpoint


AGAIN = {
    "status": DeliveryStatus.PENDING,
    "attempts": 0,
    "next_attempt_at": func.now(),
    "settled_at": None,
}


async def replay(db: AsyncSession, delivery_id: UUID) -> WebhookDelivery:
    """Sends one again, whether it had arrived or not, with the same webhook-id."""
    endpoint_id = (await queries.delivery(db, delivery_id)).endpoint_id
    await switched_on(db, endpoint_id)
    delivery = await queries.delivery(db, delivery_id)
    if delivery.status == DeliveryStatus.PENDING:
        raise StillPending("It is on its way, or waits for its next attempt.")
    for name, value in AGAIN.items():
        setattr(delivery, name, value)
    await db.flush()
    await db.refresh(delivery)
    await delivering.wake(db, endpoint_id)
    await audit.record(db, "webhooks.replayed", "webhook_delivery", delivery_id)
    return delivery


async def replay_failed(db: AsyncSession, endpoint_id: UUID, since: datetime) -> tuple[int, bool]:
    """Sends again what was made since then and has failed, the oldest first; how many those are,
    and whether there are more than are taken at once."""
    await switched_on(db, endpoint_id)
    failed = (
        select(WebhookDelivery.id)
        .where(
            WebhookDelivery.endpoint_id == endpoint_id,
            WebhookDelivery.status == DeliveryStatus.FAILED,
            WebhookDelivery.created_at >= since,
        )
        .order_by(WebhookDelivery.created_at, WebhookDelivery.id)
        .limit(MOST_REPLAYED + 1)
    )
    found = (await db.scalars(failed)).all()
    taken = found[:MOST_REPLAYED]
    if not taken:
        audit.nothing_changed(db)
        return 0, False
    again = update(WebhookDelivery).where(WebhookDelivery.id.in_(taken)).values(**AGAIN)
    await db.execute(again.execution_options(synchronize_session=False))
    await delivering.wake(db, endpoint_id)
    after = {"since": since.isoformat(), "replayed": len(taken)}
    await audit.record(db, "webhooks.failed_replayed", "webhook_endpoint", endpoint_id, after=after)
    return len(taken), len(found) > len(taken)
