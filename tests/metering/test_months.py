"""While months turn nobody waits for long, and wherever that is interrupted, usage is right."""

import asyncio
from datetime import UTC, datetime

import asyncpg
import pytest

from bursar.core.database import WORKER
from bursar.metering import tasks
from bursar.metering.events import Event, ingest, look_up
from tests import databases
from tests.accounts.people import change, log_in, rows, sign_up
from tests.conftest import Live
from tests.keys.keyholders import assert_sums_hold, key_of, service_key, verify
from tests.listeners import count, lock_waits, until
from tests.metering.test_ingest import counted, event, outcomes
from tests.metering.test_retention import (
    PARTITIONS,
    months_ago,
    of_two_months,
    seen,
    turn_months,
)
from tests.wallets.purses import move_in
from tests.workers import worker_process
from tests.world import CARL

# What keeps out whoever writes customers or keys, as everybody does who signs in or shows a key.
KEPT_OUT = """
  select relation::regclass::text, mode from pg_locks
  where database = (select oid from pg_database where datname = current_database())
    and relation = any ('{users,api_keys}'::regclass[])
    and mode = any ('{ShareLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}')
  order by 1 desc
"""


async def kept_out(live: Live) -> list[tuple[str, str]]:
    return [(row[0], row[1]) for row in await rows(live, KEPT_OUT)]


async def lose_the_last_month(live: Live) -> None:
    """So that the next turn makes it again, as it makes another one on the first of each month."""
    last = max(row[0] for row in await rows(live, PARTITIONS))
    await rows(live, f"drop table {last}")


async def test_only_who_makes_a_month_locks_customers_and_keys(live_db: Live) -> None:
    await lose_the_last_month(live_db)
    async with live_db.database.transaction(WORKER) as db:
        await db.execute(tasks.AHEAD)
        assert await kept_out(live_db) == [
            ("users", "ShareRowExclusiveLock"), ("api_keys", "ShareRowExclusiveLock"),
        ]  # fmt: skip
    async with live_db.database.transaction(WORKER) as db:
        oldest = f"{datetime.now(UTC):%Y-%m}"
        assert (await db.scalar(tasks.DROP, {"oldest": oldest}) or 0) >= 1  # 2 as a month turns
        assert await kept_out(live_db) == []


async def test_while_usage_is_forgotten_people_sign_in_and_show_keys(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    assert await outcomes(live_db, shop, event(timestamp=months_ago(5).isoformat())) == ["counted"]
    await seen(live_db, "e-1", months_ago(5).date())
    await change(live_db, "usage_retention_months", 3)
    await lose_the_last_month(live_db)
    owner = await asyncpg.connect(databases.raw(live_db.url))
    async with owner.transaction():  # as deleting takes its time
        await owner.execute("select from usage_event_ids for update")
        turning = asyncio.create_task(turn_months(live_db))
        await until(lambda: count(lock_waits(live_db)), "the months' turn to wait for the id")
        assert await kept_out(live_db) == []
        async with live_db.api() as api:
            await sign_up(api, "otter@example.com")
            await log_in(api, "otter@example.com")
        carl = await key_of(live_db)
        assert (await verify(live_db, shop, carl))["code"] == "VALID"
        used = "select last_used_at is not null from api_keys where id = $1"
        assert (await rows(live_db, used, carl.id))[0][0]
        assert not turning.done()
    await owner.close()
    await turning


STEPS = {  # and what makes it wait for us
    "select drop_usage_partitions": "lock table only usage in access share mode",
    "delete from usage_event_ids": "select from usage_event_ids for update",
    "delete from usage_hours": "select from usage_hours for update",
}


@pytest.mark.parametrize("number", range(3))
async def test_killed_in_any_step_usage_is_right(live_db: Live, number: int) -> None:
    """Counted once, whether its id is still known or its month is refused; then it goes on."""
    shop, old, kept = await of_two_months(live_db)
    sums = await rows(live_db, "select month, total_requests from monthly_usage")
    owner = await asyncpg.connect(databases.raw(live_db.url))
    await change(live_db, "usage_retention_months", 3)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.turn_months(db, {})
    step, lock = [*STEPS.items()][number]
    async with owner.transaction():
        await owner.execute(lock)
        with worker_process(live_db.url) as doomed:
            in_it = f"{lock_waits(live_db)} and query ilike '{step}%'"
            await until(lambda: count(in_it), "the worker to wait")
            doomed.kill()
            doomed.wait()
    await owner.close()
    await change(live_db, "usage_retention_months", 13)  # so that only what was dropped is refused
    known = "usage.before_retention" if number else "duplicate"
    assert await outcomes(live_db, shop, old, kept) == [known, "duplicate"]
    assert await counted(live_db) == (1 if number else 2)
    await change(live_db, "usage_retention_months", 3)
    with worker_process(live_db.url):
        await until(lambda: done(live_db), "another worker to go on")
    await change(live_db, "usage_retention_months", 13)
    assert await outcomes(live_db, shop, old, kept) == ["usage.before_retention", "duplicate"]
    assert await counted(live_db) == 1
    for table in ("usage_event_ids", "usage_hours"):
        assert len(await rows(live_db, f"select from {table}")) == 1
    assert await rows(live_db, "select month, total_requests from monthly_usage") == sums


async def done(live: Live) -> bool:
    return not await rows(live, "select from pgqueuer where entrypoint = 'metering.drop_months'")


async def test_who_makes_a_month_and_who_drops_one_never_wait_in_a_circle(live_db: Live) -> None:
    """Whoever reports usage of a month that has no partition locks as all others do."""
    await move_in(live_db)
    old = Event({"endpoint": "/", "units": 1, "timestamp": months_ago(7)}, "e-1", CARL.id)
    bounds = await look_up(live_db.database, [old])
    row = bounds.check(old, datetime.now(UTC))
    assert isinstance(row, dict)
    owner = await asyncpg.connect(databases.raw(live_db.url))
    async with owner.transaction():
        await owner.execute("select make_usage_partition($1)", f"{months_ago(9):%Y-%m}")
        telling = asyncio.create_task(ingest(live_db.database, [row]))
        await until(
            lambda: count(lock_waits(live_db)), "the report to wait for the other partition"
        )
        await owner.execute("lock table usage in access exclusive mode")  # as dropping does
    await owner.close()
    assert await telling == ["counted"]
    await assert_sums_hold(live_db)
