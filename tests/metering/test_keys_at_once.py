"""One Idempotency-Key at two places at once: one request is done, and the other is told at once."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import asyncpg

from bursar.app import create_app
from bursar.core.database import WORKER, Within
from bursar.core.database_errors import Conflict
from bursar.keys import secret
from bursar.metering.desk import Desk, KeyedQuestion, Question
from tests.accounts.people import rows
from tests.conftest import Live
from tests.databases import raw
from tests.keys.keyholders import USAGE, VERIFY, assert_sums_hold, key_of, service_key, set_terms
from tests.metering.test_idempotency import is_replay, question, send
from tests.metering.test_ingest import EVENTS, counted, event
from tests.metering.test_verify import NO_RATES
from tests.wallets.purses import move_in, refused
from tests.wallets.till_world import blocked
from tests.world import CARL, DORA

IN_FLIGHT, REUSED = (409, "idempotency.in_flight"), (422, "idempotency.key_reused")


@asynccontextmanager
async def another_process(live: Live) -> AsyncIterator[Live]:
    """Its desk asks by itself; within one process what comes together is one statement."""
    other = replace(live, app=create_app(live.settings, live.url))
    yield other
    await other.app.state.till.close()
    await other.database.close()


@asynccontextmanager
async def at_work(live: Live) -> AsyncIterator[Live]:
    """A process whose questions are asked, and not committed before this ends."""
    async with another_process(live) as other, other.database.transaction(WORKER) as db:
        database: Any = Within(db)
        other.app.state.desk = Desk(database)
        yield other


async def test_while_the_first_is_at_work_another_customers_is_told_so(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    carl, dora = await key_of(live_db, CARL), await key_of(live_db, DORA)
    async with at_work(live_db) as first:
        done = await send(first, shop, VERIFY, question(carl))
        told = [
            await send(live_db, shop, VERIFY, question(dora)),
            await send(live_db, shop, USAGE, event(event_id=None, user_id=str(DORA.id))),
        ]
        assert [refused(each) for each in told] == [IN_FLIGHT] * 2
        assert [each.headers["retry-after"] for each in told] == ["1"] * 2
        free = await send(live_db, shop, VERIFY, question(dora), "another")
        assert free.json()["code"] == "VALID"
    assert refused(await send(live_db, shop, VERIFY, question(dora))) == REUSED
    again = await send(live_db, shop, VERIFY, question(carl))
    assert (is_replay(again), again.json()["usage_id"]) == (True, done.json()["usage_id"])
    assert await counted(live_db) == 2


async def test_a_report_at_work_has_the_key_too(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, CARL)
    report = event(event_id=None, user_id=str(DORA.id))
    assert (await send(live_db, shop, USAGE, report, None)).is_success  # she has a meter now
    owner = await asyncpg.connect(raw(live_db.url))
    try:
        async with owner.transaction():
            await owner.execute("select from meters where id = $1 for update", DORA.id)
            first = asyncio.create_task(send(live_db, shop, USAGE, report))
            await blocked(live_db.url)
            assert refused(await send(live_db, shop, VERIFY, question(carl))) == IN_FLIGHT
        assert (await first).status_code == 201
    finally:
        await owner.close()
    assert refused(await send(live_db, shop, VERIFY, question(carl))) == REUSED
    assert await counted(live_db) == 2


async def test_the_neighbours_in_its_batch_feel_nothing_of_it(live_db: Live) -> None:
    """All of them are counted by the one statement in which it is refused."""
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    shop = await service_key(live_db)
    carl, dora = await key_of(live_db, CARL), await key_of(live_db, DORA)
    plain = Question(secret.digest(dora.key), {"endpoint": "/v1/things", "units": 1})
    keyed = replace(plain, keyed=KeyedQuestion(shop.id, "k", [b"another request"], b""))
    desk = live_db.app.state.desk
    async with at_work(live_db) as first:
        assert (await send(first, shop, VERIFY, question(carl))).json()["valid"]
        asked = [*[plain] * 10, keyed, *[plain] * 10]
        told = await asyncio.gather(*(desk.ask(each) for each in asked))
    codes = [each["code"] for each in told]
    assert codes == [*["VALID"] * 10, "KEY_IN_FLIGHT", *["VALID"] * 10]
    by = "select count(*), count(distinct xmin::text) from usage where user_id = $1"
    assert [tuple(row) for row in await rows(live_db, by, DORA.id)] == [(20, 1)]
    assert (await desk.ask(keyed))["code"] == "KEY_REUSED"


async def test_whoever_of_a_crowd_comes_first_is_the_only_one(live_db: Live) -> None:
    """Two processes, two customers, three routes, and one key each round."""
    await move_in(live_db)
    await set_terms(live_db, **NO_RATES)
    shop = await service_key(live_db)
    carl, dora = await key_of(live_db, CARL), await key_of(live_db, DORA)
    bodies = [
        (VERIFY, question(carl)), (VERIFY, question(dora)), (USAGE, event(event_id=None)),
        (EVENTS, {"events": [event(event_id=None, user_id=str(DORA.id))]}),
    ]  # fmt: skip
    seen = Counter[Any]()
    async with another_process(live_db) as other:
        for number in range(20):
            sent = [(live, *body) for live in (live_db, other) for body in bodies]
            told = await asyncio.gather(
                *(send(live, shop, *body, f"k{number}") for live, *body in sent)
            )
            firsts = [each for each in told if each.is_success and not is_replay(each)]
            assert len(firsts) == 1, [each.text for each in told]
            seen.update(refused(each) for each in told if not each.is_success)
            after = [await send(live_db, shop, *body, f"k{number}") for body in bodies]
            assert sorted(each.is_success for each in after) == [False] * 3 + [True]
            assert {refused(each) for each in after if not each.is_success} == {REUSED}
    assert set(seen) <= {IN_FLIGHT, REUSED, (409, Conflict.code)}  # of a meter held for a second
    assert await counted(live_db) == 20
    await assert_sums_hold(live_db)
