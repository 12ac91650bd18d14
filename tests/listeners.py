"""Who listens on a database, and waiting for what they hear."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from bursar.core.database import NOBODY
from bursar.core.notices import Pace
from tests import databases
from tests.conftest import Live

WAIT_SECONDS = 60
NEVER = 3600.0
TOLD = Pace(look_seconds=NEVER)  # what is heard is heard by a notice, or by a look after connecting
BRISK = Pace(look_seconds=NEVER, beat_seconds=0.2, retry_seconds=0.01, rest_seconds=0.01)


async def until(check: Callable[[], Any], what: str) -> float:
    """How long it took until it was true; it may be a coroutine's word."""
    begun = time.monotonic()
    while time.monotonic() < begun + WAIT_SECONDS:
        found = check()
        if await found if asyncio.iscoroutine(found) else found:
            return time.monotonic() - begun
        await asyncio.sleep(0.005)
    pytest.fail(f"waited {WAIT_SECONDS} s in vain: {what}")


def lock_waits(live: Live, role: str = "worker_user") -> str:
    """Its connections that wait for somebody else's transaction."""
    about = f"datname = '{make_url(live.url).database}' and usename = '{role}'"
    return f"from pg_stat_activity where {about} and wait_event_type = 'Lock'"


def listeners(live: Live) -> str:
    """They say who they are by their role: no request has come that would use it otherwise."""
    name = make_url(live.url).database
    return f"from pg_stat_activity where datname = '{name}' and usename = 'app_user'"


async def count(sql: str) -> int:
    admin = await asyncpg.connect(databases.raw(os.environ[databases.ADMIN]))
    try:
        return int(await admin.fetchval(f"select count(*) {sql}"))
    finally:
        await admin.close()


async def announce(live: Live, channel: str, payload: str) -> None:
    async with live.database.transaction(NOBODY) as db:
        await db.execute(text("select pg_notify(:c, :p)"), {"c": channel, "p": payload})
