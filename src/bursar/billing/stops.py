"""Calls of who has not paid are refused by keys/verify, and go on within a minute of paying."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing.rules import STOP_UNPAID
from bursar.system import queries as system

OWING = """
  select user_id from usage_periods where unpaid_since is not null and user_id is not null
  union
  select user_id from invoices
  where status = 'open' and due_at < now() and user_id is not null
"""
STOP = text(f"insert into usage_stops (user_id) {OWING} order by 1 on conflict do nothing")
LET_GO = text(f"delete from usage_stops where not :stopping or user_id not in ({OWING})")  # noqa: S608


async def sweep(db: AsyncSession) -> None:
    """All of them at once: whatever somebody owes by, and whatever has ended it."""
    stopping = await system.value(db, STOP_UNPAID)
    if stopping:
        await db.execute(STOP)
    await db.execute(LET_GO, {"stopping": stopping})
