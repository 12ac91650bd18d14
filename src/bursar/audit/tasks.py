"""What the audit trail does by itself: each minute it seals, signs a checkpoint and ships it."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import checkpoints, queries, service
from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.jobs import Run

MOST_SHIPPED = 100  # of one job; the next one has its turn a minute later
SHIPPED = text("""
  insert into audit_shipments (seq, place) values (:seq, :place) on conflict do nothing
""")


@jobs.cron("* * * * *", "audit.seal")
async def seal(db: AsyncSession, _: dict[str, Any]) -> None:
    """Seals new rows of the audit trail and signs a checkpoint, once a minute."""
    await service.seal(db)
    await service.make_checkpoint(db)
    place = checkpoints.place_of(db.info["settings"])
    if place and await queries.unshipped(db, place, limit=1):
        await jobs.enqueue(db, ship_checkpoints, unique_key="one at a time")


@jobs.steps("audit.ship_checkpoints", added_by={Role.WORKER}, retries=5)
async def ship_checkpoints(run: Run) -> None:
    """Copies new checkpoints to BURSAR_AUDIT_CHECKPOINTS, one file each, never written twice."""
    async with run.transaction() as db:
        place = checkpoints.place_of(db.info["settings"])
        waiting = await queries.unshipped(db, place, limit=MOST_SHIPPED) if place else []
    for seq, document in waiting:
        checkpoint, _, _ = checkpoints.parse(document)
        await checkpoints.ship(str(place), checkpoint.name, document)
        async with run.transaction() as db:
            await db.execute(SHIPPED, {"seq": seq, "place": place})
