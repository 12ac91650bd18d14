"""Reads of endpoints, of what they were sent, and of the events that there are to be told of."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events
from bursar.core.errors import NotFound
from bursar.core.paging import Order, Page, PageQuery, fetch, only
from bursar.webhooks.models import (
    DeliveryStatus,
    EndpointStatus,
    WebhookAttempt,
    WebhookDelivery,
    WebhookEndpoint,
)

ENDPOINTS = Order(
    {"created_at": WebhookEndpoint.created_at, "url": WebhookEndpoint.url},
    key=WebhookEndpoint.id,
    default="-created_at",
)
DELIVERIES = Order(
    {"created_at": WebhookDelivery.created_at}, key=WebhookDelivery.id, default="-created_at"
)
COUNTED_TO = 10_000  # deliveries; beyond that a list says that there are more
MOST_ATTEMPTS = 100  # that are shown of one delivery
EVERYTHING = "*"

STATUS = {
    EndpointStatus.OFF: WebhookEndpoint.enabled.is_(False),
    EndpointStatus.FAILING: WebhookEndpoint.enabled & WebhookEndpoint.failing_since.is_not(None),
    EndpointStatus.ACTIVE: WebhookEndpoint.enabled & WebhookEndpoint.failing_since.is_(None),
}


async def endpoints(
    db: AsyncSession,
    ask: PageQuery,
    *,
    search: str | None = None,
    status: EndpointStatus | None = None,
) -> Page[WebhookEndpoint]:
    query = select(WebhookEndpoint)
    if status:
        query = query.where(STATUS[status])
    if search:
        columns = (WebhookEndpoint.url, WebhookEndpoint.description)
        query = query.where(or_(*(c.icontains(search, autoescape=True) for c in columns)))
    return await fetch(db, query, ask, ENDPOINTS)


async def endpoint(db: AsyncSession, endpoint_id: UUID) -> WebhookEndpoint:
    row = await db.get(WebhookEndpoint, endpoint_id, populate_existing=True)
    if row is None:
        raise NotFound("There is no such webhook endpoint.")
    return row


async def deliveries(
    db: AsyncSession,
    ask: PageQuery,
    *,
    endpoint_id: UUID | None = None,
    status: DeliveryStatus | None = None,
    event_type: str | None = None,
) -> Page[WebhookDelivery]:
    wanted = {
        WebhookDelivery.endpoint_id: endpoint_id,
        WebhookDelivery.status: status,
        WebhookDelivery.event_type: event_type or None,
    }
    query = only(select(WebhookDelivery), wanted)
    return await fetch(db, query, ask, DELIVERIES, count_to=COUNTED_TO)


async def delivery(db: AsyncSession, delivery_id: UUID) -> WebhookDelivery:
    row = await db.get(WebhookDelivery, delivery_id, populate_existing=True)
    if row is None:
        raise NotFound("There is no such delivery; those that are old are forgotten.")
    return row


async def attempts(db: AsyncSession, delivery_id: UUID) -> Sequence[WebhookAttempt]:
    """The newest first."""
    query = select(WebhookAttempt).where(WebhookAttempt.delivery_id == delivery_id)
    query = query.order_by(WebhookAttempt.id.desc()).limit(MOST_ATTEMPTS)
    return (await db.scalars(query)).all()


def filters_for(name: str) -> list[str]:
    """Every filter that lets this event through: its name, what it begins with, everything."""
    parts = name.split(".")
    beginnings = [f"{'.'.join(parts[:n])}.{EVERYTHING}" for n in range(1, len(parts))]
    return [EVERYTHING, *beginnings, name]


def known_filters() -> set[str]:
    """Every filter that lets some event through."""
    return {each for name in events.public() for each in filters_for(name)}
