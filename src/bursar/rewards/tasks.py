"""What rewards do by themselves: points for charges every minute, and their end after a time."""

from datetime import date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs
from bursar.core.database import Role
from bursar.core.jobs import Run
from bursar.rewards import earning, service

MOST_TURNS = 200  # of one job; what is left has its turn a minute later


@jobs.cron("* * * * *", "rewards.give_points")
async def give_points(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has points given for the charges since the last time."""
    await jobs.enqueue(db, give_next_points, unique_key="next")


@jobs.steps("rewards.give_next_points", at_once=1, added_by={Role.WORKER})
async def give_next_points(run: Run) -> None:
    """Gives points for the entries of wallets that have none yet, some in each transaction."""
    for _ in range(MOST_TURNS):
        async with run.transaction() as db:
            found = await earning.give(db)
        if found < earning.MOST:
            return


@jobs.cron("23 0 * * *", "rewards.expire_points")
async def expire_points(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Has points taken whose time has passed."""
    day = datetime.fromisoformat(payload["scheduled_for"]).date()
    await jobs.enqueue(db, expire_next_points, {"day": str(day), "after": str(service.FIRST)})


@jobs.job("rewards.expire_next_points", timeout_seconds=300, added_by={Role.WORKER})
async def expire_next_points(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Takes what is due that day from the next customers, and leaves the rest to another job."""
    day, after = payload["day"], UUID(payload["after"])
    last = await service.expire(db, date.fromisoformat(day), after=after)
    if last:
        await jobs.enqueue(db, expire_next_points, {"day": day, "after": str(last)})
