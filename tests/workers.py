"""Worker processes for tests, what they wrote, and waiting for it with a deadline."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import jobs, queue
from bursar.core.database import WORKER, Claim, Database, Role
from bursar.core.queue import Held
from tests import databases, jobs_world
from tests.databases import SECRET, raw
from tests.programs import Ended, bursar

CUSTOMER = Claim(Role.CUSTOMER, "00000000-0000-7000-8000-0000000000c1")
STAFF = Claim(Role.STAFF, "00000000-0000-7000-8000-0000000000a1")
LEASE = timedelta(seconds=30)
ROOT = Path(__file__).parent.parent
# A worker that is held for a moment loses nothing; who waits for a lease to end makes it BRIEF.
QUICK = {"lease_seconds": 15, "poll_seconds": 0.3, "schedule_seconds": 0.3, "retry_seconds": 0.05}
BRIEF = {"lease_seconds": 1.5}


class Bench:
    """A database with notes, and workers on it."""

    def __init__(self, url: str, database: Database) -> None:
        self.url = url
        self.database = database
        self._stack = ExitStack()

    def worker(self, **options: Any) -> "subprocess.Popen[bytes]":
        return self._stack.enter_context(worker_process(self.url, **options))

    async def enqueue(
        self, function: jobs.Function, payload: dict[str, Any] | None = None, **how: Any
    ) -> int:
        async with self.database.transaction(CUSTOMER) as db:
            job = await jobs.enqueue(db, function, payload, **how)
        assert job is not None
        return job

    async def take(self, *names: str, lease: timedelta = LEASE) -> list[Held]:
        async with self.database.transaction(WORKER) as db:
            return await queue.take(db, dict.fromkeys(names, 0), limit=10, lease=lease)

    def bursar(self, *words: str) -> Ended:
        """The command on this database."""
        folder = str(databases.new_folder())
        given = {"DATABASE_URL": self.url, "BURSAR_SECRET_KEY": SECRET, "BURSAR_DATA": folder}
        return bursar(*words, **given)

    @asynccontextmanager
    async def rolled_back(self, claim: Claim = CUSTOMER) -> AsyncIterator[AsyncSession]:
        """A transaction that fails at its very end."""
        with suppress(ZeroDivisionError):
            async with self.database.transaction(claim) as db:
                yield db
                raise ZeroDivisionError

    async def say(self, who: str, word: str) -> None:
        async with self.database.transaction(WORKER) as db:
            await jobs_world.note(db, who, word)

    async def notes(self, who: str) -> list[str]:
        return [row["word"] for row in await self.fetch(jobs_world.READ, who)]

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """As the owner: what is really there."""
        connection = await asyncpg.connect(raw(self.url))
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def until_noted(self, who: str, *words: str) -> None:
        await until(lambda: self._has(who, words))

    async def _has(self, who: str, words: tuple[str, ...]) -> bool:
        return set(words) <= set(await self.notes(who))

    async def queue(self) -> list[tuple[int, str, int]]:
        found = await self.fetch("select id, status::text, attempts from pgqueuer order by id")
        return [tuple(row) for row in found]

    async def until_queue(self, *jobs: tuple[int, str, int]) -> None:
        async def as_expected() -> bool:
            return await self.queue() == list(jobs)

        await until(as_expected, lambda: self.queue())

    def close(self) -> None:
        self._stack.close()


@contextmanager
def worker_process(url: str, **options: Any) -> "Iterator[subprocess.Popen[bytes]]":
    given = {
        "url": url,
        "cron": options.pop("cron", False),
        "pace": {**QUICK, **options.pop("pace", {})},
        "settings": {"secret_key": SECRET, "data": str(databases.new_folder()), **options},
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.worker_program", json.dumps(given)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    url = await databases.clone()
    await jobs_world.make_notes(url)
    database = Database(url, databases.test_settings())
    opened = Bench(url, database)
    try:
        yield opened
    finally:
        opened.close()
        await database.close()
        await databases.discard(url)


async def until(
    check: Callable[[], Awaitable[bool]],
    shown: Callable[[], Awaitable[Any]] | None = None,
    *,
    within_seconds: float = 150,
) -> None:
    """Asks again and again until the answer is yes; fails after the deadline."""
    deadline = time.monotonic() + within_seconds
    while not await check():
        seen = await shown() if shown else ""
        assert time.monotonic() < deadline, f"did not happen within {within_seconds} s {seen}"
        await asyncio.sleep(0.03)


async def stopping(process: "subprocess.Popen[bytes]") -> None:
    """What is told from now on finds it stopping."""
    process.terminate()
    assert process.stdout
    assert await asyncio.to_thread(process.stdout.readline) == b"stopping\n"


async def ended(process: "subprocess.Popen[bytes]", *, within_seconds: float = 150) -> int:
    async def gone() -> bool:
        return process.poll() is not None

    await until(gone, within_seconds=within_seconds)
    assert process.returncode is not None
    return process.returncode
