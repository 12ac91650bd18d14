"""A cron job is added once for each of its times, however many workers look at the clock."""

from datetime import datetime, timedelta
from typing import Any

from croniter import croniter  # type: ignore[import-untyped]
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs

# A time that was due before anybody knew of this schedule is not made up for.
KNOW = text("""
  insert into pgqueuer_schedules (entrypoint, expression, next_run, last_run)
  values (:name, :expression, :next_run, :last_run)
  on conflict (expression, entrypoint) do nothing
""")
FORGET = text("""
  delete from pgqueuer_schedules where entrypoint = :name and expression <> :expression
""")
PASS = text("""
  update pgqueuer_schedules
  set last_run = :last_run, next_run = :next_run, updated = now()
  where entrypoint = :name and expression = :expression and last_run < :last_run
  returning entrypoint
""")


async def register(db: AsyncSession) -> None:
    """Makes each schedule known, in a fixed order: two workers starting at once do not deadlock."""
    now = await clock(db)
    for definition in sorted(jobs.scheduled(), key=lambda one: one.name):
        key = times(definition, now)
        await db.execute(FORGET, {"name": key["name"], "expression": key["expression"]})
        await db.execute(KNOW, key)


async def add_due(db: AsyncSession) -> float:
    """Adds what is due by the database's clock; answers the seconds until the next time."""
    now = await clock(db)
    wait = float("inf")
    for definition in sorted(jobs.scheduled(), key=lambda one: one.name):
        key = times(definition, now)
        if await db.scalar(PASS, key) is not None:
            due = key["last_run"].isoformat()
            at = {"scheduled_for": due}
            await jobs.enqueue(db, definition.function, at, unique_key=f"cron {due}")
        wait = min(wait, (key["next_run"] - now).total_seconds())
    return wait


async def clock(db: AsyncSession) -> datetime:
    moment: datetime = (await db.scalars(select(func.clock_timestamp()))).one()
    return moment


def times(definition: jobs.Definition, now: datetime) -> dict[str, Any]:
    """The time that was due last and the next one. Whole seconds: two workers must agree."""
    moment = now.replace(microsecond=0)
    after = croniter(definition.schedule, moment)
    upto = croniter(definition.schedule, moment + timedelta(seconds=1))  # `match` is for a minute
    return {
        "name": definition.name,
        "expression": definition.schedule,
        "next_run": after.get_next(datetime),
        "last_run": upto.get_prev(datetime),
    }
