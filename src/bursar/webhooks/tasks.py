"""What webhooks do by themselves: a delivery for each event and endpoint, and what is forgotten."""

import logging
from datetime import timedelta
from typing import Any

from pydantic import ValidationError
from sqlalchemy import delete, func, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, jobs
from bursar.core.events import EVERY_PUBLIC, Published
from bursar.system import queries as system
from bursar.system.catalogue import setting
from bursar.webhooks import delivering, service
from bursar.webhooks.models import DeliveryStatus, WebhookDelivery
from bursar.webhooks.queries import filters_for

log = logging.getLogger(__name__)

DELIVERIES_DAYS = setting(
    "webhook_deliveries_days",
    int,
    30,
    "How long it is kept what webhooks were sent.",
    ge=1,
    le=365,
)

# What happened before an endpoint was made is none of its business.
DELIVER = text("""
  insert into webhook_deliveries (endpoint_id, event_id, event_type, body)
  select id, :event_id, :event_type, :body from webhook_endpoints
  where enabled and created_at <= :occurred_at and events && cast(:filters as varchar[])
  order by id
  on conflict (event_id, endpoint_id) do nothing
  returning endpoint_id
""")


@events.on(EVERY_PUBLIC, subscriber="webhooks.deliver")
async def deliver(db: AsyncSession, event: Published) -> None:
    """Only what the event's declaration names leaves the house, whatever somebody has published."""
    try:
        data = events.registry[event.name].model_validate(event.payload).model_dump(mode="json")
    except ValidationError:
        log.warning("event %d is told to nobody: it is no %s", event.id, event.name)
        return
    key = {
        "event_id": event.id,
        "event_type": event.name,
        "occurred_at": event.occurred_at,
        "filters": filters_for(event.name),
        "body": service.body(event.name, event.occurred_at, data),
    }
    for endpoint_id in (await db.scalars(DELIVER, key)).all():
        await delivering.wake(db, endpoint_id)


FORGOTTEN = text("""
  select distinct endpoint_id from webhook_deliveries
  where status = 'pending' and next_attempt_at < now() - interval '2 minutes'
    and (claimed_until is null or claimed_until < now())
""")


@jobs.cron("*/5 * * * *", "webhooks.catch_up")
async def catch_up(db: AsyncSession, _: dict[str, Any]) -> None:
    """Adds a turn where something is due and its own turn was lost: discarded, or given up."""
    for endpoint_id in (await db.scalars(FORGOTTEN)).all():
        await delivering.wake(db, endpoint_id)


@jobs.cron("47 2 * * *", "webhooks.prune")
async def prune(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets deliveries that are older than the setting says and not on their way."""
    days = await system.value(db, DELIVERIES_DAYS)
    oldest = func.now() - timedelta(days=days)
    await db.execute(
        delete(WebhookDelivery).where(
            WebhookDelivery.status != DeliveryStatus.PENDING, WebhookDelivery.created_at < oldest
        )
    )
