"""Points expire first in, first out, each once, and never while somebody moves them."""

import asyncio
from collections import deque
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.rewards import queries, service, tasks
from bursar.rewards.service import PointsMoved
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from tests.accounts.people import change, rows, run_jobs
from tests.conftest import Live
from tests.rewards.points import backdate, lines_of, points_of, receive, spend
from tests.wallets.purses import freeze, move_in, post, wallet_of
from tests.world import CARL, DORA

ME = "/api/v1/users/me/rewards"


def midnight() -> datetime:
    return datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


async def expire(live: Live, days_ahead: int = 0, most: int = 100) -> None:
    """All that is due on a day, a few accounts at a time."""
    after: UUID | None = service.FIRST
    while after is not None:
        async with live.database.transaction(WORKER) as db:
            day = midnight().date() + timedelta(days=days_ahead)
            after = await service.expire(db, day, after=after, most=most)


async def days_ago(live: Live, *days: int) -> None:
    """When each entry of CARL's points was posted."""
    points = await wallet_of(live, CARL, "POINTS")
    await backdate(live, points["id"], [midnight() - timedelta(days=n) for n in days])


async def test_points_never_expire_unless_staff_say_so(live_db: Live) -> None:
    await move_in(live_db)
    await receive(live_db, CARL, 50)
    await expire(live_db, 5000)
    assert await points_of(live_db, CARL) == 50
    async with live_db.api(CARL) as api:
        assert (await api.get(ME)).json()["expiring"] is None


async def test_the_oldest_expire_first_and_what_was_redeemed_was_the_oldest(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await change(live_db, "points_expire_after_days", 30)
    for points in (10, 20, 40):
        await receive(live_db, CARL, points)
    await spend(live_db, CARL, 15)
    await days_ago(live_db, 40, 31, 30, 20)
    async with live_db.api(CARL) as api:
        expiring = (await api.get(ME)).json()["expiring"]
    assert expiring == {"points": 15, "expires_on": str(midnight().date())}
    await expire(live_db)
    await expire(live_db)
    assert (await lines_of(live_db, CARL))[4:] == [("expire", -15)]
    async with live_db.api(CARL) as api:
        expiring = (await api.get(ME)).json()["expiring"]
    assert expiring == {"points": 40, "expires_on": str(midnight().date() + timedelta(days=1))}
    await expire(live_db, days_ahead=1)
    assert await points_of(live_db, CARL) == 0


async def test_the_job_takes_all_accounts_a_few_at_a_time(live_db: Live) -> None:
    people = [uuid4() for _ in range(5)]
    await move_in(live_db, *people)
    await change(live_db, "points_expire_after_days", 1)
    for who in people:
        await receive(live_db, who, 7)
    await expire(live_db, days_ahead=1, most=2)
    assert [await points_of(live_db, who) for who in people] == [7] * 5
    await expire(live_db, days_ahead=2, most=2)
    assert [await points_of(live_db, who) for who in people] == [0] * 5


async def test_the_worker_expires_points_by_itself(live_db: Live) -> None:
    await move_in(live_db)
    await change(live_db, "points_expire_after_days", 1)
    await receive(live_db, CARL, 7)
    await receive(live_db, DORA, 9)
    await freeze(live_db, DORA, asset="POINTS")
    async with live_db.database.transaction(WORKER) as db:
        when = midnight() + timedelta(days=2, minutes=23)
        await tasks.expire_points(db, {"scheduled_for": when.isoformat()})
    await run_jobs(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 7), ("expire", -7)]
    assert await points_of(live_db, DORA) == 9  # frozen: hers go once it is open again


async def test_whoever_moves_points_meanwhile_loses_none_of_the_newer_ones(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await change(live_db, "points_expire_after_days", 30)
    await receive(live_db, CARL, 10)
    await receive(live_db, CARL, 20)
    await days_ago(live_db, 40, 1)
    leg = ledger.transfer(ledger.user(str(CARL.id)), "rewards", 8, ledger.POINTS, kind="redeem")
    async with live_db.database.transaction(WORKER) as db:
        await wallets.post(db, ledger.Request("test", "k1", [leg]))
        expiring = asyncio.create_task(expire(live_db))  # counts what is due, then waits for us
        while not expiring.done() and not await rows(live_db, WAITING):
            await asyncio.sleep(0.02)
    with pytest.raises(PointsMoved):
        await expiring
    await expire(live_db)
    assert (await lines_of(live_db, CARL))[2:] == [("redeem", -8), ("expire", -2)]


WAITING = """
select from pg_locks join pg_stat_activity using (pid)
where datname = current_database() and not granted
"""
MOVES = st.lists(
    st.tuples(st.integers(1, 60), st.booleans(), st.integers(0, 12)), min_size=1, max_size=10
)


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(MOVES, st.integers(1, 40))
async def test_what_expires_is_what_lots_say(
    live_db: Live, moves: list[tuple[int, bool, int]], days: int
) -> None:
    await change(live_db, "points_expire_after_days", days)
    who = uuid4()
    await move_in(live_db, who)
    lots: deque[list[int]] = deque()  # days ago, points
    ago = sum(gap for _, _, gap in moves)
    moments = []
    for points, comes, gap in moves:
        ago -= gap
        there = sum(left for _, left in lots)
        if comes or there == 0:
            await receive(live_db, who, points)
            lots.append([ago, points])
        else:
            await spend(live_db, who, min(points, there))
            take(lots, min(points, there))
        moments.append(midnight() - timedelta(days=ago))
    await backdate(live_db, (await wallet_of(live_db, who, "POINTS"))["id"], moments)
    await says_what_is_next(live_db, who, lots, days)
    await expire(live_db)
    assert await points_of(live_db, who) == sum(left for ago, left in lots if ago <= days)
    await expire(live_db, days_ahead=1)
    assert await points_of(live_db, who) == sum(left for ago, left in lots if ago + 1 <= days)


async def says_what_is_next(live: Live, who: UUID, lots: deque[list[int]], days: int) -> None:
    """However many lots are read at once: those of the oldest day that is left."""
    oldest = max((ago for ago, _ in lots), default=0)
    async with live.database.transaction(WORKER) as db:
        _, points = await queries.accounts(db, who)
        assert points
        for at_once in (1, 2, queries.LOTS_AT_ONCE):
            told = await queries.expiring(db, points, at_once=at_once)
            assert (told is None) == (not lots)
            if told:
                assert told.points == sum(left for ago, left in lots if ago == oldest)
                assert told.expires_on == midnight().date() + timedelta(days=days + 1 - oldest)


def take(lots: deque[list[int]], points: int) -> None:
    """From the oldest lots first."""
    while points:
        part = min(points, lots[0][1])
        lots[0][1] -= part
        points -= part
        if lots[0][1] == 0:
            lots.popleft()


READ_ROWS = "select sum(idx_tup_fetch + seq_tup_read) n from pg_stat_xact_user_tables"


async def test_what_is_next_is_found_without_reading_what_is_gone(live_db: Live) -> None:
    """By the rows that PostgreSQL has read for it."""
    await move_in(live_db)
    await change(live_db, "points_expire_after_days", 30)
    legs = [
        ledger.transfer("rewards", ledger.user(str(CARL.id)), 1, ledger.POINTS, kind="earn")
        for _ in range(ledger.MOST_LEGS)
    ]
    for _ in range(8):
        await post(live_db, *legs)
    await spend(live_db, CARL, 8 * ledger.MOST_LEGS - 15)
    async with live_db.database.transaction(WORKER) as db:
        _, points = await queries.accounts(db, UUID(str(CARL.id)))
        assert points
        before = await db.scalar(text(READ_ROWS)) or 0
        told = await queries.expiring(db, points, at_once=10)
        read = (await db.scalar(text(READ_ROWS)) or 0) - before
    assert told
    assert told.points == 15
    assert 15 < read < 50


async def test_each_account_expires_once_a_day_whatever_staff_set(live_db: Live) -> None:
    await move_in(live_db)
    await change(live_db, "points_expire_after_days", 30)
    for points in (10, 20):
        await receive(live_db, CARL, points)
    await days_ago(live_db, 40, 15)
    await expire(live_db)
    await change(live_db, "points_expire_after_days", 10)
    await expire(live_db)
    assert await points_of(live_db, CARL) == 20
    await expire(live_db, days_ahead=1)
    assert await points_of(live_db, CARL) == 0
    keys = await rows(live_db, "select key from operations where scope = 'rewards.expiry'")
    assert len(keys) == 2
