"""Nothing is missed and nothing is read twice: with two at once, after a crash, under load."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.database import WORKER
from bursar.wallets import followers, ledger
from bursar.wallets.followers import Entry, Stretch, follow, shared_out
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import charge, fund, move_in, post, wallet_of
from tests.world import CARL, DORA

NAME = "tests.diary"
MAKE_DIARY = """
create table diary (account_id uuid, seq bigint, amount bigint, balance bigint);
grant select, insert on diary to worker_user;
"""
WRITE = text("insert into diary values (:account_id, :seq, :amount, :balance)")
READ = "select seq, amount, balance from diary where account_id = $1 order by seq"
LEDGER = """
select seq, amount, balance from wallet_entries((select id from accounts where id = $1))
order by seq
"""
POSITION = "select account_id, seq from account_positions where follower = $1"


async def write_down(db: AsyncSession, entries: Sequence[Entry]) -> None:
    lines = [
        {"account_id": e.account_id, "seq": e.seq, "amount": e.amount, "balance": e.balance}
        for e in entries
    ]
    await db.execute(WRITE, lines)


async def read_on(live: Live, *, most: int = followers.MOST) -> int:
    async with live.database.transaction(WORKER) as db:
        return await follow(db, NAME, write_down, most=most)


async def make_diary(live: Live) -> None:
    await move_in(live)
    for statement in filter(str.strip, MAKE_DIARY.split(";")):
        await rows(live, statement)


async def is_complete(live: Live, account_id: UUID) -> bool:
    """What was handled is what the ledger has, neither more nor less."""
    written = [tuple(row) for row in await rows(live, READ, account_id)]
    return written == [tuple(row) for row in await rows(live, LEDGER, account_id)]


async def test_entries_are_told_as_they_are_in_the_ledger(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 5)
    spent = await charge(live_db, CARL, 2, category="models")
    back = await post(live_db, ledger.reverse(spent.operation_id, 500_000))
    told: list[Entry] = []

    async def listen(_: AsyncSession, entries: Sequence[Entry]) -> None:
        told.extend(entries)

    async with live_db.database.transaction(WORKER) as db:
        assert await follow(db, NAME, listen) == 3
        assert await follow(db, NAME, listen) == 0
    wallet = await wallet_of(live_db, CARL)
    assert {(e.account_id, e.owner_id, e.asset) for e in told} == {(wallet["id"], CARL.id, "USD")}
    assert [(e.seq, e.amount, e.balance) for e in told] == [
        (1, 5_000_000, 5_000_000),
        (2, -2_000_000, 3_000_000),
        (3, 500_000, 3_500_000),
    ]
    assert [(e.kind, e.category, e.reverses) for e in told] == [
        ("funding", None, None),
        ("charge", "models", None),
        ("reversal", "models", spent.legs[0].transfer_id),
    ]
    assert told[2].transfer_id == back.legs[0].transfer_id
    assert told[2].posted_at == back.posted_at


async def test_each_follower_has_a_position_of_its_own(live_db: Live) -> None:
    await make_diary(live_db)
    await fund(live_db, CARL, 5)
    assert await read_on(live_db) == 1
    async with live_db.database.transaction(WORKER) as db:
        assert await follow(db, "tests.other", write_down) == 1
    await fund(live_db, CARL, 5)
    assert await read_on(live_db) == 1


async def test_only_customers_wallets_in_the_named_assets_are_followed(live_db: Live) -> None:
    await make_diary(live_db)
    await fund(live_db, CARL, 5)
    await fund(live_db, CARL, 300, "POINTS")
    async with live_db.database.transaction(WORKER) as db:
        assert await follow(db, NAME, write_down, assets=()) == 0
        assert await follow(db, NAME, write_down, assets={"POINTS"}) == 1
    [line] = await rows(live_db, "select amount from diary")
    assert line["amount"] == 300
    assert await read_on(live_db) == 1  # the dollars; `clearing` and `revenue` are not told of


async def test_nobody_waits_behind_a_busy_wallet(live_db: Live) -> None:
    await make_diary(live_db)
    busy = [ledger.transfer("clearing", ledger.user(str(CARL.id)), 1, kind="funding")] * 30
    await post(live_db, *busy)
    await fund(live_db, DORA, 5)
    assert await read_on(live_db, most=10) == 10
    positions = {row["account_id"]: row["seq"] for row in await rows(live_db, POSITION, NAME)}
    carl, dora = await wallet_of(live_db, CARL), await wallet_of(live_db, DORA)
    assert positions == {carl["id"]: 9, dora["id"]: 1}
    assert [await read_on(live_db, most=10) for _ in range(4)] == [10, 10, 1, 0]
    assert await is_complete(live_db, carl["id"])


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(0, 80))
def test_turns_are_shared_out(backlogs: list[int], more: int) -> None:
    most = len(backlogs) + more
    waiting = [
        Stretch(UUID(int=n), UUID(int=n), "USD", 7, 7 + backlog)
        for n, backlog in enumerate(backlogs)
    ]
    parts = {part.account_id: part.until - 7 for part in shared_out(waiting, most)}
    assert sum(parts.values()) == min(most, sum(backlogs))
    for stretch in waiting:
        backlog, part = stretch.until - 7, parts[stretch.account_id]
        assert 1 <= part <= backlog
        assert part == backlog or part >= max(parts.values()) - 1


async def test_a_crash_leaves_position_and_effect_as_they_were(live_db: Live) -> None:
    await make_diary(live_db)
    await fund(live_db, CARL, 5)

    async def fail(db: AsyncSession, entries: Sequence[Entry]) -> None:
        await write_down(db, entries)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async with live_db.database.transaction(WORKER) as db:
            await follow(db, NAME, fail)
    assert await rows(live_db, "select from diary") == []
    assert await rows(live_db, POSITION, NAME) == []
    assert await read_on(live_db) == 1


async def test_the_second_of_two_leaves_alone_what_the_first_has(live_db: Live) -> None:
    await make_diary(live_db)
    await fund(live_db, CARL, 1)
    assert await read_on(live_db) == 1
    await fund(live_db, CARL, 2)
    async with live_db.database.transaction(WORKER) as first:
        assert await follow(first, NAME, write_down) == 1
        assert await read_on(live_db) == 0  # at once, not when the first has ended
        await fund(live_db, DORA, 5)  # a wallet that nobody has read before
        assert await read_on(live_db) == 1
    assert await read_on(live_db) == 0


async def test_the_second_of_two_finds_a_new_position_taken(live_db: Live) -> None:
    """Neither has a row to lock yet: the second waits for the first, and then has nothing."""
    await make_diary(live_db)
    await fund(live_db, CARL, 1)
    async with live_db.database.transaction(WORKER) as first:
        assert await follow(first, NAME, write_down) == 1
        second = asyncio.create_task(read_on(live_db))
        await until_somebody_waits(live_db)
    assert await second == 0
    assert len(await rows(live_db, "select from diary")) == 1


WAITING = """
select from pg_locks join pg_stat_activity using (pid)
where not granted and datname = current_database()
"""


async def until_somebody_waits(live: Live) -> None:
    async with asyncio.timeout(20):
        while not await rows(live, WAITING):
            await asyncio.sleep(0.01)


async def test_nothing_is_missed_or_doubled_while_others_post(live_db: Live) -> None:
    await make_diary(live_db)
    for who in (CARL, DORA):
        await fund(live_db, who, 100)
    stop = asyncio.Event()
    told: dict[str, int] = defaultdict(int)

    async def pay(number: int) -> None:
        sides = [ledger.user(str(CARL.id)), ledger.user(str(DORA.id))]
        for turn in range(25):
            debit, credit = sides if (turn + number) % 2 else sides[::-1]
            await post(live_db, ledger.transfer(debit, credit, 1 + turn, kind="transfer"))

    async def keep_reading(name: str) -> None:
        while not stop.is_set():
            told[name] += await read_on(live_db, most=7)

    readers = [asyncio.create_task(keep_reading(name)) for name in ("one", "two", "three")]
    await asyncio.gather(*(pay(number) for number in range(4)))
    stop.set()
    await asyncio.gather(*readers)
    while read := await read_on(live_db, most=7):
        told["the rest"] += read
    assert sum(told.values()) == 2 * (1 + 100)
    for who in (CARL, DORA):
        assert await is_complete(live_db, (await wallet_of(live_db, who))["id"])
