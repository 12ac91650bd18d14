"""A storm of requests, half of them cut off: no foreign row, nothing left open, no write twice."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import asyncpg
import httpx2
from sqlalchemy import text

from bursar.auth.actor import Actor
from bursar.auth.tokens import Tokens
from tests import databases, notes
from tests.conftest import Live
from tests.world import CARL, DORA

Send = Callable[..., Awaitable[Any]]  # method, path, key
NOTES = "/api/v1/notes"


async def test_a_storm_of_cancelled_handlers(live_db: Live) -> None:
    """Harsher than any client can be: the handler itself is cancelled, at any await."""

    def sender(api: httpx2.AsyncClient, actor: Actor) -> Send:
        async def send(method: str, path: str, key: str | None = None) -> Any:
            headers, json = about(actor, key)
            return await api.request(method, path, headers=headers, json=json)

        return send

    async with live_db.api(CARL) as carl, live_db.api(DORA) as dora:
        await storm(live_db, {CARL: sender(carl, CARL), DORA: sender(dora, DORA)})


async def test_a_storm_of_clients_that_hang_up(live_db: Live) -> None:
    """Over real connections, which half of the clients cut off at any moment."""
    async with live_db.serving() as base, aiohttp.ClientSession(base) as session:

        def sender(actor: Actor) -> Send:
            token = Tokens(live_db.settings.secret_keys).sign(actor)

            async def send(method: str, path: str, key: str | None = None) -> Any:
                headers, json = about(actor, key)
                headers["Authorization"] = f"Bearer {token}"
                async with session.request(method, path, headers=headers, json=json) as answer:
                    return httpx2.Response(answer.status, content=await answer.read())

            return send

        await storm(live_db, {CARL: sender(CARL), DORA: sender(DORA)})


def about(actor: Actor, key: str | None) -> tuple[dict[str, str], dict[str, str] | None]:
    return ({"Idempotency-Key": key}, {"body": str(actor.id)}) if key else ({}, None)


async def storm(live: Live, clients: dict[Actor, Send]) -> None:
    """6,000 requests of two customers; a tenth of them write, half are cut off at any moment."""
    await notes.install(live)
    mine = {a: await notes.write(live.database, a.claim, *[str(a.id)] * 5) for a in (CARL, DORA)}
    dice, gate, answered = random.Random(7), asyncio.Semaphore(64), Counter[int]()
    keys: list[tuple[Actor, str]] = []

    def choose(actor: Actor, number: int) -> tuple[str, ...]:
        if dice.random() < 0.1:
            keys.append((actor, f"storm-{number}"))
            return "POST", NOTES, f"storm-{number}"
        note_id = dice.choice(mine[dice.choice((CARL, DORA))])
        ways = (f"{NOTES}/{note_id}", f"/api/v1/hot-notes/{note_id}", f"{NOTES}?per_page=3")
        return "GET", dice.choice(ways)

    async def one(actor: Actor, number: int) -> None:
        async with gate:
            task = asyncio.ensure_future(clients[actor](*choose(actor, number)))
            if dice.random() < 0.5:
                await asyncio.sleep(dice.random() * 0.02)
                task.cancel()
            try:
                answer = await task
            except asyncio.CancelledError:
                return
        answered[answer.status_code] += 1
        for note in answer.json().get("notes", [answer.json()]):
            assert note.get("owner", str(actor.id)) == str(actor.id)

    await asyncio.gather(*(one(actor, n) for actor in (CARL, DORA) for n in range(3000)))
    # Each cancelled statement costs its connection, so some find none in time and are told so.
    assert set(answered) <= {200, 201, 404, 503}
    assert answered[200] > 1000
    await nothing_left_open(live)
    await every_key_once(clients, keys)


async def every_key_once(clients: dict[Actor, Send], keys: list[tuple[Actor, str]]) -> None:
    """Whoever does not know what became of a write sends it again; in the end it is there once."""
    for actor, key in keys:
        assert (await clients[actor]("POST", NOTES, key)).status_code == 201
    for actor in clients:
        expected = 5 + sum(1 for owner, _ in keys if owner is actor)
        listed = await clients[actor]("GET", f"{NOTES}?per_page=1")
        assert listed.json()["total"] == expected


async def nothing_left_open(live: Live) -> None:
    """No transaction is open, and every pool still has all its connections to give."""
    owner = await asyncpg.connect(databases.raw(live.url))
    try:
        async with asyncio.timeout(30):
            while await owner.fetchval(
                """select count(*) from pg_stat_activity where datname = current_database()
                   and pid <> pg_backend_pid() and state like 'idle in transaction%'"""
            ):
                await asyncio.sleep(0.05)
    finally:
        await owner.close()
    size = live.settings.database_pool_size
    holding = [live.database.transaction(CARL.claim) for _ in range(size)]
    for transaction in holding:
        db = await transaction.__aenter__()
        await db.execute(text("select 1"))
    for transaction in holding:
        await transaction.__aexit__(None, None, None)
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(live.database.fetch_all(CARL.claim, "select 1 as one") for _ in range(200))
        )
