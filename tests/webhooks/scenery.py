"""An endpoint and a delivery in the scene of the matrix, and what is sent to their routes."""

from typing import Any

WEBHOOK_BODIES: dict[str, dict[str, Any]] = {
    "POST /api/v1/admin/webhook-endpoints": {"url": "https://example.com/{n}"},
    "PUT /api/v1/admin/webhook-endpoints/{endpoint_id}": {"description": "number {n}"},
    "POST /api/v1/admin/webhook-endpoints/{endpoint_id}/secret": {"graceHours": 1},
    "POST /api/v1/admin/webhook-endpoints/{endpoint_id}/replays": {"since": "2026-11-01"},
}

ENDPOINT = """
insert into webhook_endpoints (url, events, secret)
values ('https://example.com/scene', '{*}', 'sealed') returning id
"""
DELIVERY = """
insert into webhook_deliveries (endpoint_id, event_id, event_type, body, status, next_attempt_at,
  settled_at)
values ($1, 1, 'users.erased', '{}', 'failed', null, now()) returning id
"""


async def set_out_webhooks(database: Any) -> dict[str, Any]:
    """One endpoint that was sent something once, in vain."""
    await database.execute("delete from webhook_endpoints")
    endpoint_id = await database.fetchval(ENDPOINT)
    return {
        "endpoint_id": endpoint_id,
        "delivery_id": await database.fetchval(DELIVERY, endpoint_id),
    }
