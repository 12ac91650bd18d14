"""Reported usage is counted once for its id, each event by itself, and its sums always agree."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.metering import tasks
from bursar.metering.events import oldest_kept
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import USAGE, Held, assert_sums_hold, key_of, service_key, verify
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA

EVENTS = f"{USAGE}/events"


def event(number: int = 1, **facts: Any) -> dict[str, Any]:
    return {"event_id": f"e-{number}", "endpoint": "/v1/things", "user_id": str(CARL.id), **facts}


async def post(live: Live, holder: Held, body: Any, path: str = EVENTS, **headers: str) -> Any:
    async with live.api(**holder.headers, **headers) as api:
        return await api.post(path, json=body)


async def outcomes(live: Live, holder: Held, *events: Any) -> list[str]:
    answer = await post(live, holder, {"events": list(events)})
    assert answer.status_code == 200, answer.text
    return [each.get("code") or each["status"] for each in answer.json()["outcomes"]]


async def counted(live: Live) -> int:
    return int((await rows(live, "select count(*) from usage"))[0][0])


async def test_one_event_is_counted_once_by_its_id(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:write"])
    body = {"endpoint": "/v1/things", "status_code": 500, "response_time_ms": 120, "event_id": "a"}
    answers = [await post(live_db, carl, body, USAGE) for _ in range(2)]
    assert [each.status_code for each in answers] == [201, 200]
    other = await post(live_db, carl, {**body, "status_code": 200}, USAGE)
    assert refused(other) == (409, "usage.event_conflict")
    keyed = {"endpoint": "/v1/things"}
    for status in (201, 200):
        answer = await post(live_db, carl, keyed, USAGE, **{"Idempotency-Key": "k"})
        assert answer.status_code == status
    for _ in range(2):
        assert (await post(live_db, carl, keyed, USAGE)).status_code == 201
    found = await rows(live_db, "select user_id, api_key_id::text from usage")
    assert {tuple(row.values()) for row in found} == {(CARL.id, carl.id)}
    assert len(found) == 4
    await assert_sums_hold(live_db)


async def test_each_item_has_its_own_outcome(live_db: Live) -> None:
    await move_in(live_db)
    shop, dora = await service_key(live_db), await key_of(live_db, DORA)
    now = datetime.now(UTC)
    assert await outcomes(live_db, shop, event(9, units=2)) == ["counted"]
    batch = {
        "counted": event(1),
        "duplicate": event(9, units=2),
        "usage.event_conflict": event(9, units=3),
        "invalid_input": event(2, response_time_ms=-1),
        "usage.in_the_future": event(3, timestamp=(now + timedelta(hours=1)).isoformat()),
        "usage.before_retention": event(4, timestamp="2020-01-01T00:00:00Z"),
        "usage.unknown_customer": event(5, user_id="00000000-0000-7000-8000-00000000dead"),
        "usage.unknown_key": event(6, api_key_id=dora.id),
    }
    answer = await post(
        live_db, shop, {"events": [*batch.values(), "no event", event(1), event(1, units=7)]}
    )
    told = answer.json()["outcomes"]
    assert [each.get("code") or each["status"] for each in told] == [
        *batch, "invalid_input", "duplicate", "usage.event_conflict",
    ]  # fmt: skip
    assert [each["status_code"] for each in told] == [201, 200, 409, *[422] * 6, 200, 409]
    assert told[3]["errors"][0]["pointer"] == "/response_time_ms"
    body = answer.json()
    assert (body["counted"], body["duplicates"], body["refused"]) == (1, 2, 8)
    assert await counted(live_db) == 2
    await assert_sums_hold(live_db)


@pytest.mark.parametrize("number", [1001, 10_000])
async def test_too_many_are_refused_with_the_limit(live_db: Live, number: int) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    answer = await post(live_db, shop, {"events": [{"endpoint": "/"}] * number})
    assert refused(answer) == (413, "usage.too_many_events")
    assert answer.json()["limit"] == 1000
    assert await counted(live_db) == 0


@pytest.mark.parametrize("body", [{}, {"events": []}, {"events": 7}, [], 7, "x", {"events": None}])
async def test_what_is_no_batch(live_db: Live, body: Any) -> None:
    answer = await post(live_db, await service_key(live_db), body)
    assert answer.status_code == 422, answer.text


CLOUD = {
    "specversion": "1.0", "id": "7", "source": "/gateway", "type": "call", "subject": str(CARL.id),
    "data": {"endpoint": "/v1/things", "status_code": 200},
}  # fmt: skip


async def test_cloud_events_one_or_a_batch(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    time = datetime.now(UTC).replace(microsecond=0)
    async with live_db.api(**shop.headers) as api:
        one = await api.post(
            EVENTS,
            json={**CLOUD, "time": time.isoformat()},
            headers={"Content-Type": "application/cloudevents+json; charset=utf-8"},
        )
        batch = [CLOUD, {**CLOUD, "id": "8"}, {**CLOUD, "source": "/b"}, {**CLOUD, "data": None}, 7]
        many = await api.post(
            EVENTS, json=batch, headers={"Content-Type": "application/cloudevents-batch+json"}
        )
    assert one.json()["outcomes"][0]["status"] == "counted"
    assert [each["status"] for each in many.json()["outcomes"]] == [
        "refused", "counted", "counted", "refused", "refused",
    ]  # fmt: skip
    assert many.json()["outcomes"][0]["code"] == "usage.event_conflict"  # now it has no time
    found = await rows(live_db, "select event_id, timestamp from usage order by recorded_at, 1")
    assert [row["event_id"] for row in found] == ["/gateway 7", "/b 7", "/gateway 8"]
    assert found[0]["timestamp"] == time


async def test_a_customer_reports_their_own_whatever_they_say(live_db: Live) -> None:
    await move_in(live_db)
    carl, dora = await key_of(live_db, scopes=["usage:write"]), await key_of(live_db, DORA)
    assert await outcomes(live_db, carl, event(1, user_id=str(DORA.id))) == ["counted"]
    assert await outcomes(live_db, carl, event(2, api_key_id=dora.id)) == ["usage.unknown_key"]
    assert await outcomes(live_db, carl, event(3, user_id=None, api_key_id=carl.id)) == ["counted"]
    assert {row[0] for row in await rows(live_db, "select user_id from usage")} == {CARL.id}


async def test_what_was_verified_is_not_counted_again(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, event_id="call")
    assert await outcomes(live_db, shop, event(event_id="call")) == ["duplicate"]


async def test_the_same_from_many_sides_at_once_is_counted_once(live_db: Live) -> None:
    """Each of 300 events is sent three times, in batches that overlap and lie in any order."""
    await move_in(live_db)
    shop = await service_key(live_db)
    people = [str(CARL.id), str(DORA.id)]
    all_of_them = [
        event(
            n, user_id=people[n % 2], endpoint=f"/v1/{n % 5}", status_code=(200, 404)[n % 7 == 0],
            response_time_ms=n * 13 % 900, units=1 + n % 3,
        )
        for n in range(300)
    ]  # fmt: skip
    sent = all_of_them * 3
    random.Random(7).shuffle(sent)
    batches = [sent[start : start + 60] for start in range(0, len(sent), 60)]
    told = await asyncio.gather(*(outcomes(live_db, shop, *batch) for batch in batches))
    flat = [each for batch in told for each in batch]
    assert (flat.count("counted"), flat.count("duplicate")) == (300, 600)
    assert await counted(live_db) == 300
    await assert_sums_hold(live_db)


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


async def test_months_are_made_ahead_and_dropped_in_time(live_db: Live) -> None:
    """The sums stay; the id of an event is remembered as long as the event could be sent again."""
    await move_in(live_db)
    shop = await service_key(live_db)
    oldest = oldest_kept(datetime.now(UTC), 13)
    await outcomes(live_db, shop, event(1, timestamp=oldest.isoformat()), event(2))
    ago = (oldest - timedelta(days=1)).date()
    old = "update usage_event_ids set seen_on = $1 where event = substr(sha256('e-1'), 1, 16)"
    await rows(live_db, old, ago)
    await rows(live_db, "insert into usage (user_id, endpoint, timestamp) values ($1, '/', $2)",
               CARL.id, oldest)  # fmt: skip
    await set_retention(live_db, 12)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.turn_months(db, {})
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


PARTITIONS = "select inhrelid::regclass::text from pg_inherits where inhparent = 'usage'::regclass"


async def set_retention(live: Live, months: int) -> None:
    from tests.accounts.people import change

    await change(live, "usage_retention_months", months)


async def test_plain_sql_is_summed_up_too(live_db: Live) -> None:
    await move_in(live_db)
    await rows(
        live_db,
        """insert into usage (user_id, endpoint, status_code, response_time_ms, timestamp)
        select $1, '/' || n % 3, 200 + n % 2 * 300, n, now() - n * interval '1 hour'
        from generate_series(1, 100) as n""",
        CARL.id,
    )
    await assert_sums_hold(live_db)
    with pytest.raises(Exception, match="only get its outcome"):
        await rows(live_db, "update usage set units = 2")


async def test_nobody_writes_usage_but_by_the_functions(live_db: Live) -> None:
    await move_in(live_db)
    month = f"usage_{datetime.now(UTC):%Y_%m}"
    for claim in (CARL.claim, WORKER):
        for table in ("usage", month, "monthly_usage", "usage_days", "meters"):
            sql = f"select count(*) from {table}"
            if table in (month, "meters"):
                with pytest.raises(Exception, match="permission denied"):
                    await live_db.database.fetch_all(claim, sql)
    async with live_db.database.transaction(CARL.claim) as db:
        from sqlalchemy import text

        for sql in ("insert into usage (user_id, endpoint) values (uuid7(), '/')",
                    "update monthly_usage set units = 0", "delete from usage_days",
                    "select ingest_usage('[]', '{}', '{}', '{}')"):  # fmt: skip
            with pytest.raises(Exception, match="permission denied"):
                async with db.begin_nested():
                    await db.execute(text(sql))


async def test_an_erased_account_leaves_sums_and_nothing_that_names_it(live_db: Live) -> None:
    from bursar.metering import service

    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, ip_address="203.0.113.9")
    await outcomes(live_db, shop, event(1))
    for erased in (False, True):
        if erased:
            await rows(
                live_db,
                "update users set status = 'deleted', erased_at = now() where id = $1",
                CARL.id,
            )
        async with live_db.database.transaction(WORKER) as db:
            await service.forget(db, CARL.id)
        assert await counted(live_db) == (0 if erased else 2)
    [row] = await rows(live_db, "select total_requests from monthly_usage")
    assert row["total_requests"] == 2
