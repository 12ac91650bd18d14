"""What a hold set aside is free again when its time has passed, once, whoever is faster."""

import asyncio
from contextlib import suppress
from uuid import UUID

import pytest

from bursar.core import jobs
from bursar.core.database import WORKER
from bursar.wallets import ledger, tasks
from bursar.wallets import service as wallets
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.wallets.purses import balance_of, charge, freeze, fund, hold, move_in, post, wallet_of
from tests.wallets.test_charges import age
from tests.world import CARL, DORA

OVER = "select clock_timestamp() > expires_at as over from holds where id = $1"
WAITING = """
select from pg_locks join pg_stat_activity using (pid)
where not granted and datname = current_database()
"""


async def held(live: Live, amount: int = 8, *, seconds: int = 0) -> UUID:
    """Of CARL's; with no seconds its time has passed as soon as it is there."""
    hold_id = (await hold(live, CARL, amount, seconds=seconds)).legs[0].hold_id
    assert hold_id is not None
    return hold_id


async def run_job(live: Live) -> None:
    async with live.database.transaction(WORKER) as db:
        await jobs.enqueue(db, tasks.expire_holds)
    await run_jobs(live)
    assert await rows(live, "select from pgqueuer where entrypoint like 'wallets.%'") == []


async def expire(live: Live) -> None:
    """What one transaction of the job does."""
    async with live.database.transaction(WORKER) as db:
        await tasks.expire_some(db)


async def state_of(live: Live, hold_id: UUID) -> str:
    [row] = await rows(live, "select state from holds where id = $1", hold_id)
    state: str = row["state"]
    return state


def captures(hold_id: UUID) -> ledger.Request:
    return ledger.Request("test", f"capture:{hold_id}", (ledger.capture(hold_id),))


async def until_over(live: Live, hold_id: UUID) -> None:
    while not (await rows(live, OVER, hold_id))[0]["over"]:
        await asyncio.sleep(0.02)


async def until_somebody_waits(live: Live) -> None:
    async with asyncio.timeout(20):
        while not await rows(live, WAITING):
            await asyncio.sleep(0.01)


async def test_expiry_gives_the_money_back(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    over, running = await held(live_db), await held(live_db, 1, seconds=600)
    with pytest.raises(ledger.InsufficientFunds):
        await charge(live_db, CARL, 9)
    await run_job(live_db)
    assert await state_of(live_db, over) == "expired"
    assert await state_of(live_db, running) == "open"
    assert (await wallet_of(live_db, CARL))["held"] == 1_000_000
    await charge(live_db, CARL, 9)
    assert await balance_of(live_db, CARL) == 1


async def test_what_is_left_of_a_captured_hold_comes_back_too(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db, seconds=600)
    await post(live_db, ledger.capture(hold_id, 3_000_000))
    await age(live_db, str(hold_id))
    await run_job(live_db)
    assert await state_of(live_db, hold_id) == "expired"
    assert await balance_of(live_db, CARL) == 7
    assert (await wallet_of(live_db, CARL))["held"] == 0


async def test_what_is_over_cannot_be_captured_though_no_job_has_run(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db)
    with pytest.raises(ledger.HoldExpired):
        await post(live_db, ledger.capture(hold_id))
    assert await state_of(live_db, hold_id) == "open"
    await run_job(live_db)
    with pytest.raises(ledger.HoldExpired):
        await post(live_db, ledger.capture(hold_id))
    assert await balance_of(live_db, CARL) == 10


async def test_holds_of_a_frozen_wallet_end_too(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db)
    await freeze(live_db, CARL)
    await run_job(live_db)
    assert await state_of(live_db, hold_id) == "expired"


async def test_more_than_one_transaction_ends_are_ended_by_one_job(live_db: Live) -> None:
    await move_in(live_db)
    for who in (CARL, DORA):
        await fund(live_db, who, 10)
    carls, doras = (ledger.user(str(who.id)) for who in (CARL, DORA))
    number = tasks.MOST_EXPIRED + 20
    for size in (100, 100, number - 200):
        await post(live_db, *[ledger.hold(carls, 1, kind="charge", seconds=0)] * size)
    await post(live_db, ledger.hold(doras, 1, kind="charge", seconds=0))
    await run_job(live_db)
    states = await rows(live_db, "select state, count(*) from holds group by state")
    assert [tuple(row) for row in states] == [("expired", number + 1)]
    assert (await wallet_of(live_db, CARL))["held"] == 0


async def test_a_capture_that_was_first_wins_and_the_others_end(live_db: Live) -> None:
    await move_in(live_db)
    for who in (CARL, DORA):
        await fund(live_db, who, 10)
    hold_id = await held(live_db, seconds=4)
    other = (await hold(live_db, DORA, 8, seconds=0)).legs[0].hold_id
    assert other is not None
    async with live_db.database.transaction(WORKER) as db:
        await wallets.post(db, captures(hold_id))
        await until_over(live_db, hold_id)
        expiring = asyncio.create_task(expire(live_db))  # it sees both as open and over
        await until_somebody_waits(live_db)
    await expiring
    assert (await state_of(live_db, hold_id), await state_of(live_db, other)) == (
        "captured", "expired"
    )  # fmt: skip
    assert await balance_of(live_db, CARL) == 2
    for who in (CARL, DORA):
        assert (await wallet_of(live_db, who))["held"] == 0


async def test_an_expiry_that_was_first_wins(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.expire_some(db)
        capturing = asyncio.create_task(post(live_db, ledger.capture(hold_id)))
        await until_somebody_waits(live_db)
    with pytest.raises(ledger.HoldExpired):
        await capturing
    assert await state_of(live_db, hold_id) == "expired"
    assert await balance_of(live_db, CARL) == 10


async def test_two_jobs_at_once_give_the_money_back_once(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.expire_some(db)
        second = asyncio.create_task(expire(live_db))
        await until_somebody_waits(live_db)
    await second
    wallet = await wallet_of(live_db, CARL)
    assert (wallet["posted"], wallet["held"]) == (10_000_000, 0)
    keys = await rows(live_db, "select key from operations where scope = 'wallets'")
    assert [row["key"] for row in keys] == [f"expire:{hold_id}"]


async def test_the_money_is_free_only_if_the_job_commits(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    hold_id = await held(live_db)
    with suppress(ZeroDivisionError):
        async with live_db.database.transaction(WORKER) as db:
            await tasks.expire_some(db)
            raise ZeroDivisionError
    assert await state_of(live_db, hold_id) == "open"
    await run_job(live_db)
    assert await state_of(live_db, hold_id) == "expired"
