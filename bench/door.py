"""A server with customers who can sign in, and what its processes have cost so far."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import psutil

from bench import ground
from bench.knock import PASSWORD
from bench.programs import Program
from bursar.auth import hashes
from bursar.core.embedded import Embedded

PEOPLE = 3_000  # so many that nobody comes more often than the limits of sign-in allow
PROXY = {"BURSAR_TRUSTED_PROXIES": "127.0.0.1"}  # so that each of them has an address of their own
IDLE_SHARE = 0.1  # of a core: what a server uses that has nothing to do, and some more
LOOK_SECONDS, SETTLE_SECONDS = 0.2, 10.0

# All have one hash: Argon2 takes as long for it as for any other.
FILL = """
  insert into users (email, name, email_verified, password_hash)
  select 'customer' || lpad(i::text, 6, '0') || '@example.com', 'Customer ' || i, true, $2
  from generate_series(0, $1::int - 1) as i
"""


def prepare(data: Path, people: int = PEOPLE) -> None:
    ground.prepare(data)
    with Embedded(data, say=lambda _: None) as server:
        asyncio.run(fill(server.url("postgres"), people))


async def fill(url: str, people: int) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(FILL, people, hashes.new(PASSWORD.encode()))
        await connection.execute("analyze users")
    finally:
        await connection.close()


@contextmanager
def serving(folder: Path, data: Path, *options: str) -> Iterator[Program]:
    environment = ground.ENVIRONMENT | PROXY
    with Program(ground.serve(data, *options), folder=folder, environment=environment) as server:
        yield server


def database_cpu_seconds(pid: int) -> float:
    """Of all PostgreSQL processes under this one that are still there."""
    total = 0.0
    for process in psutil.Process(pid).children(recursive=True):
        try:
            if process.name().startswith("postgres"):
                used = process.cpu_times()
                total += used.user + used.system
        except psutil.NoSuchProcess:
            continue
    return total


def settle(server: Program) -> None:
    """Waits for what was begun when the load ended: it is nobody else's time."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = server.cpu_seconds()
        time.sleep(LOOK_SECONDS)
        if server.cpu_seconds() - before < IDLE_SHARE * LOOK_SECONDS:
            return
