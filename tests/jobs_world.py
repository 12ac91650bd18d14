"""Jobs, events and subscribers that tests are about; what they do shows in the table `notes`."""

import asyncio
import os
import signal
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.core.jobs import Run
from tests.databases import raw

NOTES = """
  create table notes (
    id bigint generated always as identity primary key, who text not null, word text not null
  );
  grant select, insert on notes to worker_user;
"""
WRITE = text("insert into notes (who, word) values (:who, :word)")
READ = "select word from notes where who = $1 order by id"


async def make_notes(url: str) -> None:
    connection = await asyncpg.connect(raw(url))
    try:
        await connection.execute(NOTES)
    finally:
        await connection.close()


async def note(db: AsyncSession, who: str, word: object) -> None:
    await db.execute(WRITE, {"who": who, "word": str(word)})


async def noted(db: AsyncSession, who: str, word: str) -> bool:
    found = text("select exists (select from notes where who = :who and word = :word)")
    return bool(await db.scalar(found, {"who": who, "word": word}))


@jobs.job("test.write")
async def write(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Writes down its word."""
    await note(db, "write", payload["word"])


@jobs.job("test.write_alone", at_once=1)
async def write_alone(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Writes down its word, one job at a time."""
    await note(db, "write_alone", payload["word"])


@jobs.job("test.fail", retries=1, retry_seconds=0.1)
async def fail(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Fails until somebody has noted that all is well; its own note must not stay."""
    await note(db, "fail", "tried")
    if not await noted(db, "operator", "all is well"):
        raise ConnectionRefusedError("postgresql://me:hunter2@example refuses, token=abcdef123456")


@jobs.job("test.promote", added_by={Role.WORKER})
async def promote(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Writes down its word; only the worker itself may ask for it."""
    await note(db, "promote", payload["word"])


@jobs.job("test.hang", retries=0, timeout_seconds=0.3)
async def hang(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Never ends by itself."""
    await note(db, "hang", "begun")
    await asyncio.Event().wait()


@jobs.steps("test.wait", timeout_seconds=60)
async def wait(run: Run) -> None:
    """Says that it has begun, then waits until it is told to go on."""
    word = run.payload["word"]
    async with run.transaction() as db:
        await note(db, "begun", f"{word} {run.attempt}")
    while True:
        async with run.transaction() as db:
            if await noted(db, "operator", f"go {word}"):
                await note(db, "done", word)
                return
        await asyncio.sleep(0.02)


@jobs.job("test.hold", timeout_seconds=60)
async def hold(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Stays in its one transaction for as long as it was told to."""
    await note(db, "hold", payload["word"])
    await db.execute(text("select pg_sleep(:seconds)"), {"seconds": payload["seconds"]})


@jobs.job("test.die_once")
async def die_once(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Takes its worker with it between its effect and the commit, but only while it is told to."""
    await note(db, "die_once", payload["word"])
    if not await noted(db, "operator", "live"):
        os.kill(os.getpid(), signal.SIGKILL)


@jobs.job("test.die", retries=1)
async def die(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Takes its worker with it, always."""
    os.kill(os.getpid(), signal.SIGKILL)


@jobs.cron("* * * * * *", "test.every_second")
async def every_second(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Writes down for when it was."""
    await note(db, "every_second", payload["scheduled_for"])


class Happened(events.Event, name="test.happened"):
    """Something happened in a test."""

    word: str


class Quiet(events.Event, name="test.quiet"):
    """Nobody listens to this one."""


class Decided(events.Event, name="test.decided", published_by={Role.WORKER}):
    """Something was decided that only the worker decides."""

    word: str


@events.on("test.happened", "test.decided", subscriber="test.scribe")
async def scribe(db: AsyncSession, event: Published) -> None:
    await note(db, "scribe", event.payload["word"])


@events.on("test.happened", subscriber="test.grump")
async def grump(db: AsyncSession, event: Published) -> None:
    """Fails on a word that it does not like until it is told to bear it."""
    await note(db, "grump", event.payload["word"])
    if event.payload["word"] == "bad" and not await noted(db, "operator", "bear it"):
        raise ValueError("I do not like this word")


@events.on("test.happened", subscriber="test.mortal")
async def mortal(db: AsyncSession, event: Published) -> None:
    """Takes its worker with it between its effect and the commit, while it is told to."""
    await note(db, "mortal", event.payload["word"])
    if event.payload["word"] == "deadly" and not await noted(db, "operator", "live"):
        os.kill(os.getpid(), signal.SIGKILL)
