"""The till takes no more than it can carry, and ends what it took before it closes."""

import asyncio
import os
from uuid import uuid4

import pytest

from bursar.core.database_errors import DatabaseUnavailable, OutcomeUnknown
from bursar.core.errors import InvalidInput
from bursar.wallets import till
from bursar.wallets.ledger import Outcome, Request
from bursar.wallets.till import Till, TillClosed, TillFull, usual_lanes
from tests.conftest import Live
from tests.wallets.till_world import (
    CONNECTED,
    add_customer,
    balance,
    blocked,
    charge,
    entries,
    fetch,
    locked,
)


async def test_a_full_queue_says_so_at_once(live_db: Live) -> None:
    carl = await add_customer(live_db.url, 100)
    desk = Till(live_db.database, most_waiting=10)
    async with locked(live_db.url, carl):
        first = asyncio.create_task(desk.post(charge(carl)))
        await blocked(live_db.url)
        tasks = [first, asyncio.create_task(desk.post_all([charge(carl) for _ in range(9)]))]
        await asyncio.sleep(0)
        with pytest.raises(TillFull) as full:
            desk.post_all([charge(carl), charge(carl)]).send(None)  # it waits for nothing
        tasks.append(asyncio.create_task(desk.post(charge(carl))))
        await asyncio.sleep(0)
        with pytest.raises(TillFull):
            desk.post(charge(carl)).send(None)
        assert (full.value.status, full.value.headers) == (429, {"Retry-After": "1"})
    await asyncio.gather(*tasks)
    assert await balance(live_db.url, carl) == 100 - 11
    await desk.close()


async def test_a_queue_is_full_by_bytes_too(
    live_db: Live, desk: Till, monkeypatch: pytest.MonkeyPatch
) -> None:
    carl = await add_customer(live_db.url, 100)
    monkeypatch.setattr(till, "MOST_WAITING_BYTES", 1000)
    with pytest.raises(TillFull):
        await desk.post_all([charge(carl) for _ in range(10)])
    assert isinstance((await desk.post_all([charge(carl)]))[0], Outcome)


@pytest.mark.parametrize("limit", [("MOST_LEGS", 3), ("MOST_BYTES", 600), ("MOST_IN_BATCH", 3)])
async def test_a_batch_has_limits(
    live_db: Live, desk: Till, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    monkeypatch.setattr(till, *limit)
    carl = await add_customer(live_db.url, 100)
    assert len(await desk.post_all([charge(carl) for _ in range(9)])) == 9
    assert len({entry["created_at"] for entry in await entries(live_db.url)}) >= 3
    if limit[0] == "MOST_LEGS":
        with pytest.raises(InvalidInput):
            await desk.post(Request("test", "long", charge(carl).legs * 101))


async def test_a_list_has_a_limit(live_db: Live, desk: Till) -> None:
    with pytest.raises(InvalidInput):
        await desk.post_all([charge(uuid4())] * 1001)
    assert await desk.post_all([]) == []


async def test_whoever_leaves_before_it_is_sent_is_not_charged(live_db: Live, desk: Till) -> None:
    carl = await add_customer(live_db.url, 100)
    async with locked(live_db.url, carl):
        sent = asyncio.create_task(desk.post(charge(carl, 1, "sent")))
        await blocked(live_db.url)
        waiting = [
            asyncio.create_task(desk.post(charge(carl, 2, "left"))),
            asyncio.create_task(desk.post_all([charge(carl, 2, f"left {n}") for n in range(5)])),
        ]
        stays = asyncio.create_task(desk.post(charge(carl, 3, "stayed")))
        await asyncio.sleep(0)
        for task in (sent, *waiting):
            task.cancel()
        ended = await asyncio.gather(sent, *waiting, return_exceptions=True)
        assert [type(each) for each in ended] == [asyncio.CancelledError] * 3
        assert len(desk._lane(charge(carl))._waiting) == 1
    assert (await stays).legs[0].balance == 100 - 1 - 3
    assert {entry["key"] for entry in await entries(live_db.url)} == {"sent", "stayed"}


async def test_close_lets_everything_end(live_db: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(till, "CLOSING_SECONDS", 60)
    carl = await add_customer(live_db.url, 1000)
    desk = Till(live_db.database)
    async with locked(live_db.url, carl):
        first = asyncio.create_task(desk.post(charge(carl)))
        await blocked(live_db.url)
        tasks = [asyncio.create_task(desk.post_all([charge(carl) for _ in range(700)]))]
        await asyncio.sleep(0)
        closing = asyncio.create_task(desk.close())
        await asyncio.sleep(0)
        with pytest.raises(TillClosed):
            await desk.post(charge(carl))
        with pytest.raises(TillClosed):
            await desk.post_all([charge(carl)])
    await closing
    assert (await first).legs[0].balance == 999
    assert all(isinstance(each, Outcome) for each in await tasks[0])
    assert await balance(live_db.url, carl) == 1000 - 701
    assert await fetch(live_db.url, CONNECTED) == []


async def test_close_does_not_wait_for_ever(live_db: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(till, "CLOSING_SECONDS", 0.2)
    carl = await add_customer(live_db.url, 100)
    desk = Till(live_db.database)
    async with locked(live_db.url, carl):
        sent = asyncio.create_task(desk.post(charge(carl)))
        await blocked(live_db.url)
        waits = asyncio.create_task(desk.post(charge(carl)))
        await asyncio.sleep(0)
        await desk.close()
        with pytest.raises(OutcomeUnknown):
            await sent
        with pytest.raises(DatabaseUnavailable):
            await waits


async def test_lanes_divide_the_shards(live_db: Live) -> None:
    with pytest.raises(ValueError, match="3 lanes"):
        Till(live_db.database, lanes=3)


@pytest.mark.parametrize(
    ("processors", "lanes"), [(None, 2), (1, 2), (2, 2), (3, 2), (4, 4), (96, 16)]
)
def test_as_many_lanes_as_processors_but_two(
    monkeypatch: pytest.MonkeyPatch, processors: int | None, lanes: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert usual_lanes() == lanes
