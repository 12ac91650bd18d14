"""The queue's table: a job is held by one worker at a time, and only its holder may end it.

The table and taking from it are PgQueuer's, adding is enqueue_job (jobs.sql). What else stands here
is what PgQueuer's own worker was measured not to do (docs/decisions/0002-job-queue.md): every start
is counted, also one that ends with the process, and every ending asks whether the job is still held
by whoever ends it.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID, uuid4

from pgqueuer.adapters.persistence.qb import (
    QueryBuilderEnvironment,
    QueryQueueBuilder,
    QuerySchedulerBuilder,
)
from pgqueuer.core.tm import TaskManager
from pgqueuer.domain.settings import DBSettings
from pgqueuer.domain.types import QueueEntrypoint, QueueManagerId
from pgqueuer.ports.driver import NotifyCallback
from pgqueuer.queries import EntrypointExecutionParameter, Queries
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession


class Names(DBSettings):
    """PgQueuer's names and durability as they come: never from variables such as CHANNEL."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


NAMES = Names()
ENVIRONMENT = QueryBuilderEnvironment(NAMES)
BUILDER = QueryQueueBuilder(NAMES)
SCHEDULES = QuerySchedulerBuilder(NAMES)
CHANNEL = str(NAMES.channel)
LEASE_SECONDS = 30.0  # silence after which a worker's jobs are taken by another one


def library(db: AsyncSession) -> Queries:
    """PgQueuer's statements, sent in this transaction."""
    return Queries(InTransaction(db), qbe=ENVIRONMENT, qbq=BUILDER, qbs=SCHEDULES)


class InTransaction:
    """PgQueuer's door to a database: here a transaction that somebody else begins and ends.

    Not the asyncpg connection underneath: before SQLAlchemy's first statement no transaction has
    begun there, and a job would be added for good even if the caller rolled back.
    """

    def __init__(self, db: AsyncSession) -> None:
        self._db = db
        self._shutdown = asyncio.Event()

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, object]]:
        connection = await self._db.connection()
        try:
            result = await connection.exec_driver_sql(query, arguments)
        except DBAPIError as error:
            cause = getattr(error.orig, "__cause__", None)
            raise cause or error from None  # PgQueuer knows the driver's own errors
        return [dict(row) for row in result.mappings()] if result.returns_rows else []

    async def execute(self, query: str, *arguments: object) -> str:
        await self.fetch(query, *arguments)
        return ""

    async def notify(self, channel: str, payload: str) -> None:
        await self.fetch("select pg_notify($1, $2)", channel, payload)

    async def add_listener(self, channel: str, callback: NotifyCallback) -> None:
        raise NotImplementedError("the worker listens on a connection of its own")

    @property
    def shutdown(self) -> asyncio.Event:
        return self._shutdown

    @property
    def tm(self) -> TaskManager:
        return TaskManager()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None: ...


ADD = text("""
  select enqueue_job(:name, cast(:payload as json), :unique_key, cast(:run_at as timestamptz))
""")


async def add(
    db: AsyncSession, name: str, payload: str, *, unique_key: str | None, run_at: datetime | None
) -> int | None:
    """The job's id, or None where one with its key is on the queue already."""
    key = {"name": name, "payload": payload, "unique_key": unique_key, "run_at": run_at}
    added: int | None = await db.scalar(ADD, key)
    return added


@dataclass(frozen=True, slots=True)
class Held:
    """A job in the hands of one worker; `holder` is new each time that jobs are taken."""

    id: int
    name: str
    payload: bytes  # read when it is this job's turn: what cannot be read harms no other job
    added_by: str
    attempt: int
    holder: UUID

    @property
    def key(self) -> dict[str, Any]:
        return {"id": self.id, "holder": self.holder}


class HoldLost(Exception):
    """Another worker has the job by now; what this one did since must not count."""


COUNT_STARTS = text("""
  update pgqueuer set attempts = attempts + 1
  where id = any(:ids) and queue_manager_id = :holder
  returning id, attempts
""")


async def take(
    db: AsyncSession, at_once: Mapping[str, int], *, limit: int, lease: timedelta
) -> list[Held]:
    """Up to so many due jobs of these names; also those whose holder was silent for the lease."""
    holder = uuid4()
    found = await library(db).dequeue(
        batch_size=limit,
        entrypoints={
            QueueEntrypoint(name): EntrypointExecutionParameter(concurrency_limit=most)
            for name, most in at_once.items()
        },
        queue_manager_id=QueueManagerId(holder),
        global_concurrency_limit=None,
        heartbeat_timeout=lease,
    )
    if not found:
        return []
    ids = [job.id for job in found]
    counted = await db.execute(COUNT_STARTS, {"ids": ids, "holder": holder})
    attempts: dict[int, int] = {row.id: row.attempts for row in counted}
    return [
        Held(
            id=job.id,
            name=job.entrypoint,
            payload=job.payload or b"",
            added_by=str((job.headers or {}).get("added_by", "")),
            attempt=attempts[job.id],
            holder=holder,
        )
        for job in found
    ]


async def seconds_to_next(db: AsyncSession, names: list[str]) -> float | None:
    """How long until the next job that waits for its time."""
    entrypoints = [QueueEntrypoint(name) for name in names]
    wait = await library(db).next_deferred_eta(entrypoints)
    return None if wait is None else wait.total_seconds()


HOLD = text("""
  select id from pgqueuer where id = :id and queue_manager_id = :holder for no key update
""")


async def hold(db: AsyncSession, job: Held) -> None:
    """Until this transaction ends nobody else can take the job: the taker skips locked rows."""
    if await db.scalar(HOLD, job.key) is None:
        raise HoldLost


# Rows that a running job has locked in its own transaction are safe meanwhile, and are skipped.
BEAT = text("""
  with held as (
    select job.id from pgqueuer as job
    join unnest(cast(:ids as bigint[]), cast(:holders as uuid[])) as mine (id, holder)
      on job.id = mine.id and job.queue_manager_id = mine.holder
    for no key update of job skip locked
  )
  update pgqueuer set heartbeat = clock_timestamp() from held where pgqueuer.id = held.id
""")
STILL_HELD = text("""
  select job.id from pgqueuer as job
  join unnest(cast(:ids as bigint[]), cast(:holders as uuid[])) as mine (id, holder)
    on job.id = mine.id and job.queue_manager_id = mine.holder
""")


async def beat(db: AsyncSession, jobs: list[Held]) -> set[int]:
    """Tells that their holder lives; answers the ids of those that it still holds."""
    key = {"ids": [job.id for job in jobs], "holders": [job.holder for job in jobs]}
    await db.execute(BEAT, key)
    return set(await db.scalars(STILL_HELD, key))


REFRESH = text("""
  update pgqueuer set heartbeat = clock_timestamp() where id = :id and queue_manager_id = :holder
""")


async def refresh(db: AsyncSession, job: Held) -> None:
    """At the end of a transaction that locked the row for so long that beats may have passed it."""
    await db.execute(REFRESH, job.key)


FINISH = text("""
  with ended as (
    delete from pgqueuer where id = :id and queue_manager_id = :holder
    returning id, entrypoint, priority
  )
  insert into pgqueuer_log (job_id, status, entrypoint, priority)
  select id, 'successful', entrypoint, priority from ended returning job_id
""")


async def finish(db: AsyncSession, job: Held) -> None:
    """Takes the job off the queue; in the transaction of its effect both happen or neither."""
    if await db.scalar(FINISH, job.key) is None:
        raise HoldLost


END = """
  with ended as (
    update pgqueuer set status = '{status}', queue_manager_id = null, slot = null, updated = now(),
      execute_after = now() + cast(:delay as interval), attempts = attempts - :uncounted
    where id = :id and queue_manager_id = :holder
    returning id, entrypoint, priority
  )
  insert into pgqueuer_log (job_id, status, entrypoint, priority, traceback)
  select id, '{status}', entrypoint, priority, cast(:report as jsonb) from ended
"""
TRY_AGAIN = text(END.format(status="queued"))
GIVE_UP = text(END.format(status="failed"))


async def try_again(db: AsyncSession, job: Held, delay: timedelta, report: str) -> None:
    """Back to the queue, to be taken after the delay."""
    await db.execute(TRY_AGAIN, {**job.key, "delay": delay, "report": report, "uncounted": 0})


async def give_up(db: AsyncSession, job: Held, report: str) -> None:
    """A dead letter: it stays where it is until an operator retries or discards it."""
    key = {**job.key, "delay": timedelta(0), "report": report, "uncounted": 0}
    await db.execute(GIVE_UP, key)


async def hand_back(db: AsyncSession, job: Held) -> None:
    """Not the job's fault, so this start does not count."""
    key = {**job.key, "delay": timedelta(0), "report": None, "uncounted": 1}
    await db.execute(TRY_AGAIN, key)


SEEN = text("""
  insert into workers (id, running) values (:id, :running)
  on conflict (id) do update set seen_at = now(), running = excluded.running
""")
LEFT = text("delete from workers where id = :id")
ALIVE = text("""
  select exists (select from workers where seen_at > now() - :lease * interval '1 second')
""")


async def seen(db: AsyncSession, worker: UUID, running: int) -> None:
    """This worker lives and runs so many jobs."""
    await db.execute(SEEN, {"id": worker, "running": running})


async def left(db: AsyncSession, worker: UUID) -> None:
    """This worker has stopped in good order."""
    await db.execute(LEFT, {"id": worker})


async def worker_alive(db: AsyncSession) -> bool:
    """Whether any worker was heard of within a lease: what /ready asks."""
    return bool(await db.scalar(ALIVE, {"lease": LEASE_SECONDS}))
