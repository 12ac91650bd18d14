"""Signing up with an Idempotency-Key: one account, and no connection held while it hashes."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from sqlalchemy.pool import QueuePool

from bursar.auth import passwords
from bursar.core.database import Role
from tests.accounts.people import AUTH, PASSWORD, rows
from tests.conftest import Live

MANY = 8  # more than the door has connections


async def keyed(api: httpx2.AsyncClient, key: str, email: str) -> httpx2.Response:
    body = {"email": email, "password": PASSWORD}
    return await api.post(f"{AUTH}/signup", json=body, headers={"Idempotency-Key": key})


@asynccontextmanager
async def hashing_stopped() -> AsyncIterator[None]:
    """Every thread that hashes waits, as under a flood of sign-ins."""
    go_on = threading.Event()
    threads = min(passwords.processors(), passwords.MOST_AT_ONCE)
    stops = [asyncio.create_task(stop(go_on)) for _ in range(threads)]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        go_on.set()
        await asyncio.gather(*stops)


async def stop(go_on: threading.Event) -> None:
    await passwords.ordinary.run(go_on.wait, 60)


def waiting() -> int:
    """How many passwords are to be hashed, which nothing outside can see."""
    return passwords.ordinary._threads._work_queue.qsize()


async def attempts(live: Live) -> int:
    [row] = await rows(live, "select coalesce(max(count), 0) as n from attempts")
    return int(row["n"])


async def test_no_connection_waits_for_a_hash(live_db: Live) -> None:
    """Or a few who sign up would keep everybody else from signing in."""
    async with live_db.api() as api:
        async with hashing_stopped():
            asked = [
                asyncio.create_task(keyed(api, f"k{n}", f"carl{n}@example.com"))
                for n in range(MANY)
            ]
            async with asyncio.timeout(30):
                while waiting() < MANY:
                    await asyncio.sleep(0.01)
            pool: Any = live_db.database.engine(Role.DOOR).pool
            assert isinstance(pool, QueuePool)
            assert pool.checkedout() == 0
        answers = await asyncio.gather(*asked)
        assert [each.status_code for each in answers] == [201] * MANY
        again = await keyed(api, "k3", "carl3@example.com")
    assert again.content == answers[3].content
    assert again.headers["idempotent-replayed"] == "true"
    assert await attempts(live_db) == MANY  # what is only told again is not counted


async def test_racing_with_one_key_there_is_one_account(live_db: Live) -> None:
    async with live_db.api() as api:
        answers = await asyncio.gather(*(keyed(api, "k", "carl@example.com") for _ in range(8)))
        last = await keyed(api, "k", "carl@example.com")
    told = {each.json().get("code") for each in answers if each.status_code != 201}
    assert told <= {"idempotency.in_flight"}
    made = [each for each in answers if each.status_code == 201]
    assert {each.content for each in made} == {last.content}
    assert sum("idempotent-replayed" not in each.headers for each in made) == 1
    assert len(await rows(live_db, "select from users")) == 1
    assert len(await rows(live_db, "select from sessions")) == 1
