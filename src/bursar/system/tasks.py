"""What system does at night."""

from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs
from bursar.core.idempotency import IdempotencyKey
from bursar.system import queries
from bursar.system.catalogue import IDEMPOTENCY_KEYS_DAYS


@jobs.cron("37 2 * * *", "system.prune_idempotency_keys")
async def prune_idempotency_keys(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets answers to Idempotency-Keys that are older than the setting says."""
    days = await queries.value(db, IDEMPOTENCY_KEYS_DAYS)
    oldest = func.now() - timedelta(days=days)
    await db.execute(delete(IdempotencyKey).where(IdempotencyKey.created_at < oldest))
