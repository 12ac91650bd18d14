"""What an operator sees of the queue and may do to it: a running job is never touched."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

import asyncpg
import orjson
from pgqueuer.domain.types import JobId
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import queue
from bursar.core.errors import BursarError

MAX_LISTED = 1000


class State(StrEnum):
    """Where a job is; one that ended well is no longer on the queue."""

    WAITING = "waiting"
    RUNNING = "running"
    DEAD = "dead"


STATUS = {State.WAITING: "queued", State.RUNNING: "picked", State.DEAD: "failed"}


@dataclass(frozen=True, slots=True)
class Listed:
    """One job as a list shows it; the payload is left out, it may be somebody's data."""

    id: int
    name: str
    state: State
    attempts: int
    created_at: datetime
    run_at: datetime
    error: str | None


@dataclass(frozen=True, slots=True)
class Shown(Listed):
    """One job whole, with what happened to it so far."""

    payload: Any  # an object; the text of it where it cannot be read
    unique_key: str | None
    history: list[dict[str, Any]]


COLUMNS = """
  select job.id, job.entrypoint, job.status::text, job.attempts, job.created, job.execute_after,
    job.payload, job.dedupe_key, failure.error
  from pgqueuer as job
  left join lateral (
    select concat_ws(': ', traceback ->> 'exception_type', traceback ->> 'exception_message')
      as error
    from pgqueuer_log as log
    where log.job_id = job.id and log.traceback is not null
    order by log.created desc, log.id desc limit 1
  ) as failure on true
"""
LIST = text(f"""{COLUMNS}
  where job.status::text = any(:statuses) and job.id < :before
  order by job.id desc limit :limit
""")
ONE = text(f"{COLUMNS} where job.id = :id")
HISTORY = text("""
  select created as at, status::text as what, traceback ->> 'exception_message' as error,
    traceback ->> 'traceback' as "where"
  from pgqueuer_log
  where job_id = :id order by created desc, id desc limit 50
""")


async def listing(
    db: AsyncSession, states: list[State], *, limit: int = 100, before: int = 2**63 - 1
) -> list[Listed]:
    """The newest first; `before` is the last id of the page before."""
    statuses = [STATUS[state] for state in states]
    key = {"statuses": statuses, "before": before, "limit": min(limit, MAX_LISTED)}
    return [Listed(**listed(row)) for row in (await db.execute(LIST, key)).mappings()]


def listed(row: Any) -> dict[str, Any]:
    return {
        "id": row["id"],
        "name": row["entrypoint"],
        "state": next(state for state, status in STATUS.items() if status == row["status"]),
        "attempts": row["attempts"],
        "created_at": row["created"],
        "run_at": row["execute_after"],
        "error": row["error"],
    }


class JobNotFound(BursarError, status=404, code="jobs.not_found"):
    """No job with this id is on the queue: it never was, or it ended well, or was discarded."""


async def show(db: AsyncSession, job_id: int) -> Shown:
    row = (await db.execute(ONE, {"id": job_id})).mappings().one_or_none()
    if row is None:
        raise JobNotFound(f"There is no job {job_id} on the queue.")
    history = await db.execute(HISTORY, {"id": job_id})
    return Shown(
        **listed(row),
        payload=readable(row["payload"] or b""),
        unique_key=row["dedupe_key"] and row["dedupe_key"].partition(":")[2],
        history=[dict(past) for past in history.mappings()],
    )


def readable(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return payload.decode(errors="replace")


class JobNotDead(BursarError, status=409, code="jobs.not_dead"):
    """Only a dead letter can be retried; the queue itself looks after the others."""


class JobReplaced(BursarError, status=409, code="jobs.replaced"):
    """A job with the same unique key is on the queue again, so this one is not needed."""


WAKE = text(f"notify {queue.CHANNEL}")
LOCK = text("select status::text from pgqueuer where id = :id for no key update")


async def retry(db: AsyncSession, job_id: int) -> None:
    """A dead letter goes back to the queue and has all its attempts again."""
    status = await db.scalar(LOCK, {"id": job_id})
    if status is None:
        raise JobNotFound(f"There is no job {job_id} on the queue.")
    if status != "failed":
        raise JobNotDead(f"Job {job_id} is not a dead letter; it is still on its way.")
    try:
        async with db.begin_nested():
            await queue.library(db).requeue_jobs([JobId(job_id)])
    except asyncpg.UniqueViolationError:
        raise JobReplaced(
            f"Job {job_id} was replaced: one with the same key is on the queue again."
        ) from None
    await db.execute(WAKE)  # the library's trigger is silent on an update


class JobRunning(BursarError, status=409, code="jobs.running"):
    """A job that runs cannot be discarded; stop its worker first."""


DISCARD = text("""
  with gone as (
    delete from pgqueuer where id = :id returning id, entrypoint, priority
  )
  insert into pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'deleted', entrypoint, priority from gone
""")


async def discard(db: AsyncSession, job_id: int) -> None:
    """Takes a job that waits or is dead off the queue for good."""
    status = await db.scalar(LOCK, {"id": job_id})
    if status is None:
        raise JobNotFound(f"There is no job {job_id} on the queue.")
    if status == "picked":
        raise JobRunning(f"Job {job_id} is running; it cannot be discarded now.")
    await db.execute(DISCARD, {"id": job_id})


COUNT = text("select count(*) from pgqueuer where status = 'failed'")


async def count(db: AsyncSession) -> int:
    """How many jobs gave up and wait for an operator."""
    return int(await db.scalar(COUNT) or 0)
