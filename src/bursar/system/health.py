"""Looks at every part that can fail: what /ready and the staff's health page say."""

import asyncio
from collections.abc import Awaitable, Callable
from time import monotonic, perf_counter
from typing import Any

from sqlalchemy import text

import bursar
from bursar.audit import checkpoints
from bursar.audit import queries as audit
from bursar.core import dead_letters, migrate, queue, relay
from bursar.core.database import NOBODY, WORKER, Database
from bursar.core.errors import BursarError
from bursar.core.problems import recognise
from bursar.system.schemas import Health, Part, Ready

LOOK_SECONDS = 3
REMEMBERED_SECONDS = 1
STARTED = monotonic()

Look = Callable[[Database], Awaitable[str]]


async def ready(state: Any) -> Ready:
    """Not ready also means: going down; a balancer sends no new traffic then.

    Anybody may ask, so a good answer is remembered for a second: asking more often costs nothing.
    """
    seen_at, parts = getattr(state, "last_look", (-1.0, {}))
    if monotonic() - seen_at > REMEMBERED_SECONDS:
        parts = await look(state.database)
        if all_well(parts):  # while something is missing, each look may be the first good one
            state.last_look = monotonic(), parts
    parts = dict(parts)
    if state.stopping.is_set():
        parts["process"] = Part(status="failing", detail="stopping")
    return Ready(status="ready" if all_well(parts) else "not_ready", parts=parts)


async def examine(state: Any) -> Health:
    """For staff: also what keeps no traffic away, but wants somebody to look after it."""
    parts = await look(state.database, LOOKS | CARES)
    return Health(
        status="healthy" if all_well(parts) else "failing",
        version=bursar.__version__,
        uptime_seconds=round(monotonic() - STARTED, 1),
        parts=parts,
    )


def all_well(parts: dict[str, Part]) -> bool:
    return all(part.status == "healthy" for part in parts.values())


async def look(database: Database, at: dict[str, Look] | None = None) -> dict[str, Part]:
    names, looks = zip(*(at or LOOKS).items(), strict=True)
    return dict(zip(names, await asyncio.gather(*(one(database, f) for f in looks)), strict=True))


async def one(database: Database, look: Look) -> Part:
    try:
        async with asyncio.timeout(LOOK_SECONDS):
            return Part(status="healthy", detail=await look(database))
    except TimeoutError:
        return Part(status="failing", detail=f"no answer within {LOOK_SECONDS} s")
    except Exception as error:
        known: BursarError | None = recognise(error)
        if known is None:
            raise
        return Part(status="failing", detail=known.detail)


async def database_answers(database: Database) -> str:
    """As a customer: what answers the worker alone is no use to them."""
    started = perf_counter()
    async with database.transaction(NOBODY) as db:
        version = await db.scalar(text("show server_version"))
    return f"PostgreSQL {str(version).split()[0]}, {(perf_counter() - started) * 1000:.1f} ms"


async def migrations_done(database: Database) -> str:
    async with database.transaction(WORKER) as db:
        state = await migrate.state(await db.connection())
    state.check(database.settings)
    return f"at {state.revision}"


class NoWorker(BursarError, status=503, code="system.no_worker"):
    """No worker was heard of for a while: jobs wait; start `bursar worker`."""


async def worker_lives(database: Database) -> str:
    async with database.transaction(WORKER) as db:
        if not await queue.worker_alive(db):
            raise NoWorker("No worker was heard of for a while: start `bursar worker`.")
    return f"heard of within {queue.LEASE_SECONDS:.0f} s"


LOOKS: dict[str, Look] = {
    "database": database_answers,
    "migrations": migrations_done,
    "worker": worker_lives,
}


class DeadLetters(BursarError, status=503, code="system.dead_letters"):
    """Jobs have given up and wait for an operator: `bursar jobs list`."""


async def no_dead_letters(database: Database) -> str:
    async with database.transaction(WORKER) as db:
        dead = await dead_letters.count(db)
    if dead:
        raise DeadLetters(f"{dead} gave up: see `bursar jobs list`.")
    return "none gave up"


class StuckSubscriber(BursarError, status=503, code="system.stuck_subscriber"):
    """A subscriber fails at one event again and again: `bursar events list`."""


async def events_flow(database: Database) -> str:
    async with database.transaction(WORKER) as db:
        stuck = await relay.stuck(db)
    if stuck:
        raise StuckSubscriber(f"Stuck: {', '.join(stuck)}; see `bursar events list`.")
    return "nobody is stuck"


class AuditBehind(BursarError, status=503, code="system.audit_behind"):
    """Rows of the audit trail wait for their seal, or checkpoints for their shipment."""


BEHIND_SECONDS = 600


async def audit_flows(database: Database) -> str:
    place = checkpoints.place_of(database.settings)
    async with database.transaction(WORKER) as db:
        lag = await audit.lag(db, place)
    if lag.seal_seconds > BEHIND_SECONDS:
        raise AuditBehind(
            f"The oldest row without a seal waits for {lag.seal_seconds:.0f} s: the worker does "
            "not come to it, or a transaction stays open."
        )
    if lag.shipment_seconds > BEHIND_SECONDS:
        raise AuditBehind(
            f"The oldest checkpoint that is not shipped waits for {lag.shipment_seconds:.0f} s: "
            "see `bursar jobs list`."
        )
    return "sealed and shipped" if place else "sealed; checkpoints are not shipped"


CARES: dict[str, Look] = {
    "jobs": no_dead_letters,
    "events": events_flow,
    "audit": audit_flows,
}
