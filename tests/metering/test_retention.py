"""An event is known as long as it could be sent again; what was dropped is never taken again."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import queue
from bursar.core.database import WORKER
from bursar.core.database_errors import translate
from bursar.core.jobs import Run
from bursar.metering import tasks
from bursar.metering.events import Event, ingest, look_up, marks, oldest_kept
from tests import databases
from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.keys.keyholders import Held, assert_sums_hold, key_of, service_key, verify
from tests.listeners import count, lock_waits, until
from tests.metering.test_ingest import counted, event, outcomes
from tests.metering.test_verify import verify_at
from tests.wallets.purses import move_in
from tests.workers import LEASE
from tests.world import CARL

CALL: dict[str, Any] = {"endpoint": "/v1/things", "units": 1}
PARTITIONS = "select inhrelid::regclass::text from pg_inherits where inhparent = 'usage'::regclass"
SEEN = "update usage_event_ids set seen_on = $2 where event = substr(sha256($1::bytea), 1, 16)"
TOO_SOON = """
  select from usage_event_ids as id join usage on usage.user_id = id.user_id
    and substr(sha256(usage.event_id::bytea), 1, 16) = id.event
  where id.seen_on < (usage.timestamp at time zone 'UTC')::date
"""


async def turn_months(live: Live) -> None:
    """As a worker does it, transaction by transaction."""
    async with patient(live) as db:
        await tasks.turn_months(db, {})
    async with live.database.transaction(WORKER) as db:
        [held] = await queue.take(db, {"metering.drop_months": 0}, limit=1, lease=LEASE)
    await tasks.drop_months(Run(held, {}, lambda: patient(live)))
    async with live.database.transaction(WORKER) as db:
        await queue.finish(db, held)


@asynccontextmanager
async def patient(live: Live) -> AsyncIterator[AsyncSession]:
    async with live.database.transaction(WORKER) as db:
        await db.execute(text("set local lock_timeout = '1min'"))  # jobs are tried again instead
        yield db


async def seen(live: Live, event_id: str, day: date) -> None:
    """As if it had come on that day."""
    await rows(live, SEEN, event_id.encode(), day)


def months_ago(number: int) -> datetime:
    return oldest_kept(datetime.now(UTC), number)


async def test_an_event_of_an_older_month_counts_there(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    oldest = oldest_kept(datetime.now(UTC), 13)
    assert await outcomes(live_db, shop, event(1, timestamp=oldest.isoformat())) == ["counted"]
    [row] = await rows(live_db, "select month from monthly_usage")
    assert row["month"] == f"{oldest:%Y-%m}"
    await assert_sums_hold(live_db)


@pytest.mark.parametrize(
    ("now", "months", "oldest"),
    [
        (datetime(2026, 11, 28, tzinfo=UTC), 13, datetime(2025, 10, 1, tzinfo=UTC)),
        (datetime(2026, 1, 31, tzinfo=UTC), 1, datetime(2025, 12, 1, tzinfo=UTC)),
        (datetime(2026, 12, 1, tzinfo=UTC), 12, datetime(2025, 12, 1, tzinfo=UTC)),
    ],
)
def test_the_oldest_month_that_is_kept(now: datetime, months: int, oldest: datetime) -> None:
    assert oldest_kept(now, months) == oldest


async def test_the_worker_cannot_forget_an_hour_that_may_still_be_asked_for(live_db: Live) -> None:
    await move_in(live_db)
    await outcomes(live_db, await service_key(live_db), event(1))
    async with live_db.database.transaction(WORKER) as db:
        await db.execute(text("delete from usage_hours"))
    assert len(await rows(live_db, "select from usage_hours")) == 1


async def test_months_are_made_ahead_and_dropped_in_time(live_db: Live) -> None:
    """The sums stay; the id of an event is remembered as long as the event could be sent again."""
    await move_in(live_db)
    shop = await service_key(live_db)
    oldest = oldest_kept(datetime.now(UTC), 13)
    await outcomes(live_db, shop, event(1, timestamp=oldest.isoformat()), event(2))
    await seen(live_db, "e-1", (oldest - timedelta(days=1)).date())
    await rows(live_db, "insert into usage (user_id, endpoint, timestamp) values ($1, '/', $2)",
               CARL.id, oldest)  # fmt: skip
    await change(live_db, "usage_retention_months", 12)
    await turn_months(live_db)
    names = [row[0] for row in await rows(live_db, PARTITIONS)]
    ahead = datetime.now(UTC).replace(day=1) + timedelta(days=62)
    assert f"usage_{ahead:%Y_%m}" in names
    assert f"usage_{oldest:%Y_%m}" not in names
    assert await counted(live_db) == 1
    assert sum(row[0] for row in await rows(live_db, "select requests from usage_days")) == 3
    assert (
        await rows(live_db, "select from usage_hours where hour < now() - interval '2 days'") == []
    )
    assert len(await rows(live_db, "select from usage_event_ids")) == 1
    assert await outcomes(live_db, shop, event(1, timestamp=oldest.isoformat())) == [
        "usage.before_retention"
    ]


@pytest.mark.parametrize("months", [13, 1, 0])
async def test_the_same_id_weeks_later_counts_nothing(live_db: Live, months: int) -> None:
    """To the first moment of the oldest month, whatever the jobs have done meanwhile."""
    moment = months_ago(months)
    await move_in(live_db)
    shop = await service_key(live_db)
    first = event(1, timestamp=moment.isoformat(), units=2)
    last = event(2, timestamp=(moment - timedelta(microseconds=1)).isoformat())
    assert (await outcomes(live_db, shop, first))[0] == "counted"
    await outcomes(live_db, shop, last)  # of the month before, where that is still kept
    number = await counted(live_db)
    for each, day in (("e-1", moment), ("e-2", moment - timedelta(days=1))):
        await seen(live_db, each, day.date())
    for _ in range(2):
        again = [
            first,
            {**first, "units": 3},
            {**first, "timestamp": datetime.now(UTC).isoformat()},
        ]
        assert await outcomes(live_db, shop, *again) == [
            "duplicate", "usage.event_conflict", "usage.event_conflict",
        ]  # fmt: skip
        known = "duplicate" if number == 2 else "usage.before_retention"
        assert await outcomes(live_db, shop, last) == [known]
        assert await counted(live_db) == number
        await assert_sums_hold(live_db)
        await turn_months(live_db)


async def test_an_id_without_a_time_is_known_weeks_later(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    day = datetime.now(UTC) - timedelta(days=60)
    assert await outcomes(live_db, shop, event(1)) == ["counted"]
    await seen(live_db, "e-1", day.date())
    [past] = await verify_at(live_db, day, carl.key, **marks("e-2", CALL))
    await turn_months(live_db)
    assert await outcomes(live_db, shop, event(1), event(2)) == ["duplicate"] * 2
    assert await outcomes(live_db, shop, event(1, units=2)) == ["usage.event_conflict"]
    again = await verify(live_db, shop, carl, event_id="e-2")
    assert (again["replayed"], again["usage_id"]) == (True, past["usage_id"])
    assert await counted(live_db) == 2
    await assert_sums_hold(live_db)


async def test_an_id_lives_as_long_as_an_event_that_was_stamped_ahead(live_db: Live) -> None:
    """Else it would be forgotten a month before its event is, where a month's edge lies between."""
    await move_in(live_db)
    await service_key(live_db)
    carl = await key_of(live_db)
    edge = datetime.now(UTC) + timedelta(days=1)
    bounds = await look_up(live_db.database, [Event({}, user_id=CARL.id)])
    ahead = bounds.check(Event({**CALL, "timestamp": edge}, "ahead", CARL.id), edge)
    assert isinstance(ahead, dict)
    assert await ingest(live_db.database, [ahead]) == ["counted"]
    await verify_at(live_db, edge, carl.key, **marks("verified", CALL))
    assert await counted(live_db) == 2
    assert await rows(live_db, TOO_SOON) == []


async def test_while_ids_are_deleted_nobody_is_kept_out(live_db: Live) -> None:
    """They may be millions; only the drop itself, a matter of moments, stops all others."""
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    old = event(5, timestamp=months_ago(5).isoformat())
    assert await outcomes(live_db, shop, old) == ["counted"]
    await seen(live_db, "e-5", months_ago(5).date())
    await change(live_db, "usage_retention_months", 3)
    owner = await asyncpg.connect(databases.raw(live_db.url))
    async with owner.transaction():  # as deleting takes its time
        await owner.execute("select from usage_event_ids for update")
        turning = asyncio.create_task(turn_months(live_db))
        await until(lambda: count(lock_waits(live_db)), "the months' turn to wait for the id")
        assert await outcomes(live_db, shop, event(1)) == ["counted"]
        assert (await verify(live_db, shop, carl))["code"] == "VALID"
        assert not turning.done()
    await owner.close()
    await turning
    assert await outcomes(live_db, shop, old) == ["usage.before_retention"]
    assert await counted(live_db) == 2


async def of_two_months(live: Live) -> tuple[Held, dict[str, Any], dict[str, Any]]:
    """A service, and what it has reported: of five months ago, and of three."""
    await move_in(live)
    shop = await service_key(live)
    old, kept = (event(n, timestamp=months_ago(n).isoformat()) for n in (5, 3))
    assert await outcomes(live, shop, old, kept) == ["counted"] * 2
    await seen(live, "e-5", months_ago(5).date())
    return shop, old, kept


async def test_what_was_dropped_stays_dropped(live_db: Live) -> None:
    """The ids of dropped months are gone, their sums are not: they would count twice."""
    shop, old, kept = await of_two_months(live_db)
    sums = await rows(live_db, "select month, total_requests from monthly_usage")
    for months in (3, 13, 24):
        await change(live_db, "usage_retention_months", months)
        for _ in range(2):
            await turn_months(live_db)
            assert await outcomes(live_db, shop, old, kept) == [
                "usage.before_retention", "duplicate",
            ]  # fmt: skip
    late = event(7, timestamp=(months_ago(3) - timedelta(microseconds=1)).isoformat())
    assert await outcomes(live_db, shop, late) == ["usage.before_retention"]
    assert await rows(live_db, "select month, total_requests from monthly_usage") == sums
    assert await counted(live_db) == 1


@pytest.mark.parametrize(
    "statement",
    [
        "delete from usage_kept",
        "truncate usage_kept",
        "insert into usage_kept (since) values ('2026-01')",
    ],
)
async def test_what_is_kept_is_said_once_for_ever(live_db: Live, statement: str) -> None:
    """Without that one row no event could be looked at."""
    with pytest.raises(asyncpg.IntegrityConstraintViolationError):
        await rows(live_db, statement)
    await move_in(live_db)
    assert await outcomes(live_db, await service_key(live_db), event(1)) == ["counted"]


async def test_where_nothing_was_dropped_older_usage_is_welcome(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    await turn_months(live_db)
    old = event(1, timestamp=months_ago(20).isoformat())
    assert await outcomes(live_db, shop, old) == ["usage.before_retention"]
    await change(live_db, "usage_retention_months", 20)
    assert await outcomes(live_db, shop, old) == ["counted"]


async def test_a_month_that_is_dropped_meanwhile_counts_nothing(live_db: Live) -> None:
    """The events were looked at while their month was kept, and come to the database after that."""
    await move_in(live_db)
    shop = await service_key(live_db)
    old = {**CALL, "timestamp": months_ago(5)}
    bounds = await look_up(live_db.database, [Event(old, "e-5", CARL.id)])
    row = bounds.check(Event(old, "e-5", CARL.id), datetime.now(UTC))
    assert isinstance(row, dict)
    await outcomes(live_db, shop, event(5, timestamp=months_ago(5).isoformat()))
    await seen(live_db, "e-5", months_ago(5).date())
    await change(live_db, "usage_retention_months", 3)
    await turn_months(live_db)
    with pytest.raises(Exception, match="was dropped") as refusal:
        await ingest(live_db.database, [row])
    known = translate(refusal.value)
    assert known
    assert known.code == "conflict"  # who sends it again learns why
    names = [row[0] for row in await rows(live_db, PARTITIONS)]
    assert f"usage_{months_ago(5):%Y_%m}" not in names  # nor is it there again
    [month] = await rows(live_db, "select total_requests from monthly_usage")
    assert month["total_requests"] == 1


async def test_events_that_come_while_months_are_dropped_are_not_counted_twice(
    live_db: Live,
) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    moments = {f"e-{n}": months_ago(4 + n % 3) for n in range(60)}
    batch = [event(event_id=i, timestamp=at.isoformat()) for i, at in moments.items()]
    assert set(await outcomes(live_db, shop, *batch)) == {"counted"}
    for event_id, moment in moments.items():
        await seen(live_db, event_id, moment.date())
    old = [Event({**CALL, "timestamp": at}, i, CARL.id) for i, at in moments.items()]
    bounds = await look_up(live_db.database, old)
    checked = [bounds.check(each, datetime.now(UTC)) for each in old]
    sent = [each for each in checked if isinstance(each, dict)]
    await change(live_db, "usage_retention_months", 3)
    told = await asyncio.gather(
        *(ingest(live_db.database, sent) for _ in range(2)),
        turn_months(live_db),
        *(ingest(live_db.database, sent) for _ in range(4)),
        return_exceptions=True,
    )
    for each in told:
        if isinstance(each, BaseException):
            known = translate(each)
            assert known
            assert known.code == "conflict"
        elif each is not None:
            assert set(each) == {"duplicate"}
    months = await rows(live_db, "select total_requests from monthly_usage")
    assert [row["total_requests"] for row in months] == [20, 20, 20]
    assert await counted(live_db) == 0
    assert await rows(live_db, "select from usage_event_ids") == []
