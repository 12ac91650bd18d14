"""PgQueuer beside Procrastinate: what docs/decisions/0002-job-queue.md is based on.

    pip install procrastinate 'psycopg[binary]'        # PgQueuer is there already
    python bench/queue_libraries.py postgresql://postgres@127.0.0.1:5432/postgres

The role must be able to create databases: two are made, named queue_lab_*, and dropped at the end.
Rounds are interleaved; what is printed are medians, and the smallest and the largest round.
"""

import argparse
import asyncio
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import Any

import asyncpg
from pgqueuer import PgQueuer
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

LIBRARIES = ("pgqueuer", "procrastinate")
JOBS = 4000
DEFER = """
  select unnest(procrastinate_defer_jobs_v1((
    select array_agg(row('default', $1, 0, null, null, args::jsonb, null)
      ::procrastinate_job_to_defer_v1)
    from unnest($2::text[]) as args)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--places", type=int, default=10, help=argparse.SUPPRESS)
    parser.add_argument("--lease", type=float, default=30, help=argparse.SUPPRESS)
    parser.add_argument("--drain", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        asyncio.run({"pgqueuer": pgqueuer, "procrastinate": procrastinate}[given.worker](given))
    else:
        asyncio.run(compare(given.url, given.rounds))


async def compare(url: str, rounds: int) -> None:
    async with databases(url) as urls:
        await enqueueing(urls, rounds)
        await throughput(urls, rounds)
        await latency(urls, rounds)
        for library in LIBRARIES:
            await killing(library, urls[library])


@asynccontextmanager
async def databases(url: str) -> AsyncIterator[dict[str, str]]:
    admin = await asyncpg.connect(url)
    try:
        for library in LIBRARIES:
            await admin.execute(f"create database queue_lab_{library}")
        urls = {library: with_database(url, f"queue_lab_{library}") for library in LIBRARIES}
        await install(urls)
        yield urls
    finally:
        for library in LIBRARIES:
            await admin.execute(f"drop database if exists queue_lab_{library} with (force)")
        await admin.close()


def with_database(url: str, name: str) -> str:
    return make_url(url).set(database=name).render_as_string(hide_password=False)


async def install(urls: dict[str, str]) -> None:
    from procrastinate.schema import SchemaManager

    for library, url in urls.items():
        connection = await asyncpg.connect(url)
        if library == "pgqueuer":
            await Queries.from_asyncpg_connection(connection).install()
        else:
            await connection.execute(SchemaManager.get_schema())
        await connection.execute("create table thing (n text)")
        await connection.close()


async def add(library: str, connection: Any, task: str, *payloads: dict[str, Any]) -> None:
    encoded = [json.dumps(payload) for payload in payloads]
    if library == "pgqueuer":
        count = len(encoded)
        queries = Queries.from_asyncpg_connection(connection)
        await queries.enqueue([task] * count, [one.encode() for one in encoded], [0] * count)
    else:
        await connection.fetch(DEFER, task, encoded)


async def enqueueing(urls: dict[str, str], rounds: int) -> None:
    engines = {
        library: create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
        for library, url in urls.items()
    }
    seconds: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for library, engine in engines.items():
            for count, repeats in ((0, 300), (1, 300), (100, 40)):
                took = [await one_transaction(library, engine, count) for _ in range(repeats)]
                seconds.setdefault((library, count), []).append(statistics.median(took))
    for (library, count), took in seconds.items():
        show(f"{library}: a transaction that adds {count} jobs", [one * 1000 for one in took], "ms")
    for engine in engines.values():
        await engine.dispose()


async def one_transaction(library: str, engine: Any, count: int) -> float:
    begun = time.perf_counter()
    async with AsyncSession(engine) as session, session.begin():
        await session.execute(text("insert into thing values ('x')"))
        if count:
            connection = await session.connection()
            raw = (await connection.get_raw_connection()).driver_connection
            await add(library, raw, "empty", *[{}] * count)
    return time.perf_counter() - begun


async def throughput(urls: dict[str, str], rounds: int) -> None:
    rates: dict[tuple[str, int], list[float]] = {}
    for _ in range(rounds):
        for library, places in (("pgqueuer", 10), ("procrastinate", 10), ("pgqueuer", 100)):
            await fill(library, urls[library])
            done = result(worker(library, urls[library], places=places, drain=True))
            assert done["jobs"] == JOBS, done
            rates.setdefault((library, places), []).append(JOBS / done["seconds"])
    for (library, places), rate in rates.items():
        show(f"{library}: empty jobs, {places} at a time", rate, "jobs/s")


async def fill(library: str, url: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(f"truncate {TABLES[library]} cascade")
    for _ in range(JOBS // 1000):
        await add(library, connection, "empty", *[{}] * 1000)
    await connection.execute(f"analyze {TABLES[library]}")
    await connection.close()


TABLES = {"pgqueuer": "pgqueuer", "procrastinate": "procrastinate_jobs"}


async def latency(urls: dict[str, str], rounds: int) -> None:
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for library, url in urls.items():
            process = worker(library, url)
            await asyncio.sleep(1.5)
            connection = await asyncpg.connect(url)
            for _ in range(150):
                await asyncio.sleep(random.uniform(0.02, 0.06))
                await add(library, connection, "latency", {"at": time.time()})
            await asyncio.sleep(0.5)
            await connection.close()
            process.terminate()
            late = sorted(result(process)["late"])
            found.setdefault((library, "p50"), []).append(late[len(late) // 2] * 1000)
            found.setdefault((library, "p99"), []).append(late[int(len(late) * 0.99)] * 1000)
    for (library, part), late in found.items():
        show(f"{library}: added to started, {part}", late, "ms")


async def killing(library: str, url: str) -> None:
    """A worker dies in the middle of a job, with a lease of 6 s, beside one that lives."""
    connection = await asyncpg.connect(url)
    await connection.execute(f"truncate {TABLES[library]} cascade")
    victim = worker(library, url, lease=6)
    await add(library, connection, "sleep", {"seconds": 3})
    assert victim.stdout
    assert "start" in victim.stdout.readline()
    other = worker(library, url, lease=6)
    victim.kill()
    begun = time.monotonic()
    assert other.stdout
    told = asyncio.create_task(asyncio.to_thread(other.stdout.readline))
    done, _ = await asyncio.wait([told], timeout=25)
    took = f"after {time.monotonic() - begun:.1f} s" if done else "not within 25 s"
    sys.stdout.write(f"{library}: the job of a killed worker is taken again {took}\n")
    for process in (victim, other):
        process.kill()
        process.wait()
    await told
    await connection.close()


def worker(
    library: str, url: str, *, places: int = 10, lease: float = 30, drain: bool = False
) -> "subprocess.Popen[str]":
    words = [url, "--worker", library, "--places", str(places), "--lease", str(lease)]
    process = subprocess.Popen(
        [sys.executable, __file__, *words, *(["--drain"] if drain else [])],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def result(process: "subprocess.Popen[str]") -> dict[str, Any]:
    lines = process.communicate(timeout=120)[0].splitlines()
    answer: dict[str, Any] = json.loads(lines[-1])
    return answer


class Tasks:
    """What both libraries run, and what they saw."""

    def __init__(self) -> None:
        self.moments: list[float] = []
        self.late: list[float] = []

    async def empty(self, _: dict[str, Any]) -> None:
        self.moments.append(time.perf_counter())

    async def latency(self, payload: dict[str, Any]) -> None:
        self.late.append(time.time() - payload["at"])

    async def sleep(self, payload: dict[str, Any]) -> None:
        print("start", os.getpid(), flush=True)
        await asyncio.sleep(payload["seconds"])

    def tell(self) -> None:
        seconds = self.moments[-1] - self.moments[0] if self.moments else 0
        seen = {"jobs": len(self.moments), "seconds": seconds, "late": self.late}
        print(json.dumps(seen), flush=True)


async def pgqueuer(given: argparse.Namespace) -> None:
    tasks, pool = Tasks(), await asyncpg.create_pool(given.url, min_size=2, max_size=5)
    queuer = PgQueuer.from_asyncpg_pool(pool)

    def register(name: str) -> None:
        @queuer.entrypoint(name)
        async def run(job: Any) -> None:
            await getattr(tasks, name)(json.loads(job.payload))

    for name in ("empty", "latency", "sleep"):
        register(name)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, queuer.shutdown.set)
    print("ready", flush=True)
    await queuer.run(
        batch_size=given.places,
        heartbeat_timeout=timedelta(seconds=given.lease),
        dequeue_timeout=timedelta(seconds=5),
        mode=QueueExecutionMode.drain if given.drain else QueueExecutionMode.continuous,
    )
    tasks.tell()


async def procrastinate(given: argparse.Namespace) -> None:
    from procrastinate import App, PsycopgConnector

    app = App(connector=PsycopgConnector(conninfo=given.url, min_size=2, max_size=5))
    tasks = Tasks()

    def register(name: str) -> None:
        @app.task(name=name)
        async def run(**payload: Any) -> None:
            await getattr(tasks, name)(payload)

    for name in ("empty", "latency", "sleep"):
        register(name)
    async with app.open_async():
        running = asyncio.ensure_future(
            app.run_worker_async(
                concurrency=given.places,
                wait=not given.drain,
                install_signal_handlers=False,
                update_heartbeat_interval=given.lease / 3,
                stalled_worker_timeout=given.lease,
            )
        )
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        print("ready", flush=True)
        with suppress(asyncio.CancelledError):
            await running
    tasks.tell()


def show(what: str, values: list[float], unit: str) -> None:
    middle, least, most = statistics.median(values), min(values), max(values)
    sys.stdout.write(f"{what}: {middle:.4g} {unit} ({least:.4g} to {most:.4g})\n")


if __name__ == "__main__":
    main()
