"""Whoever has a key is told the truth of a database that is away, and served when it is back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from sqlalchemy.engine import make_url

from bursar.keys import secret
from tests.conftest import Live
from tests.databases import administer
from tests.keys.keyholders import USAGE, key_of
from tests.wallets.purses import move_in
from tests.world import CARL


@asynccontextmanager
async def closed_to_all(live: Live) -> AsyncIterator[None]:
    """As while PostgreSQL starts: it answers, and lets nobody in."""
    name = make_url(live.url).database
    ended = f"select pg_terminate_backend(pid) from pg_stat_activity where datname = '{name}'"
    await administer(f"alter database {name} connection limit 0", ended)
    yield
    await administer(f"alter database {name} connection limit -1")


@pytest.mark.parametrize("path", [USAGE, f"{USAGE}/quota", f"/api/v1/balance/{CARL.id}"])
async def test_a_key_that_cannot_be_looked_up(live_db: Live, path: str) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:read", "balance:read"])
    callers = [carl.headers, {"X-API-Key": secret.new()}]
    assert await statuses(live_db, path, callers) == [200, 401]
    async with closed_to_all(live_db), live_db.api() as api:
        for headers in (*callers, *callers):
            told(await api.get(path, headers=headers))
            assert (await api.get("/health", headers=headers)).status_code == 200
    async with asyncio.timeout(20):  # a connection that has ended is told of once more
        while (found := await statuses(live_db, path, callers)) != [200, 401]:
            assert found in ([503, 401], [200, 503], [503, 503])


async def statuses(live: Live, path: str, callers: list[dict[str, str]]) -> list[int]:
    async with live.api() as api:
        return [(await api.get(path, headers=headers)).status_code for headers in callers]


def told(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "database.unavailable")
    assert int(answer.headers["retry-after"]) > 0
