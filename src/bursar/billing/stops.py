"""Calls of who has not paid are refused by keys/verify, and go on once it is paid."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing.rules import STOP_UNPAID
from bursar.system import queries as system

OWING = """
  select user_id from usage_periods
  where unpaid_since is not null and user_id = any (cast(:people as uuid[]))
  union
  select user_id from invoices
  where status = 'open' and due_at < now() and user_id = any (cast(:people as uuid[]))
"""
STOP = text(f"insert into usage_stops (user_id) {OWING} order by 1 on conflict do nothing")
LET_GO = text(f"""
  delete from usage_stops where user_id = any (cast(:people as uuid[]))
    and (not :stopping or user_id not in ({OWING}))
""")  # noqa: S608 - our own words


async def look(db: AsyncSession, people: Sequence[UUID]) -> None:
    """Stops those of them who owe something, and lets the others go on."""
    stopping = await system.value(db, STOP_UNPAID)
    if stopping:
        await db.execute(STOP, {"people": people})
    await db.execute(LET_GO, {"people": people, "stopping": stopping})
