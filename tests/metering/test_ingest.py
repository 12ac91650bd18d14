"""Reported usage is counted once for its id, each event by itself, and its sums always agree."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bursar.core.database import WORKER
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import KEYS, USAGE, Held, assert_sums_hold, key_of, service_key, verify
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
    for _ in range(2):
        answer = await post(live_db, carl, keyed, USAGE, **{"Idempotency-Key": "k"})
        assert answer.status_code == 201
    for _ in range(2):
        assert (await post(live_db, carl, keyed, USAGE)).status_code == 201
    found = await rows(live_db, "select user_id, api_key_id::text from usage")
    assert {tuple(row.values()) for row in found} == {(CARL.id, carl.id)}
    assert len(found) == 4
    await assert_sums_hold(live_db)


async def test_a_customer_cannot_take_the_ids_of_a_services_events(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["usage:write"])
    cheap = {"endpoint": "/cheap", "event_id": "e-1"}
    assert [(await post(live_db, carl, cheap, USAGE)).status_code for _ in range(2)] == [201, 200]
    assert await outcomes(live_db, shop, event(1, units=1000)) == ["counted"]
    assert await outcomes(live_db, shop, event(1, units=1000)) == ["duplicate"]
    assert await counted(live_db) == 2


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


async def test_the_same_id_with_another_key_is_another_event(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    first, second = await key_of(live_db), await key_of(live_db)
    by_first, by_second = event(1, api_key_id=first.id), event(1, api_key_id=second.id)
    assert await outcomes(live_db, shop, by_first, by_second) == [
        "counted", "usage.event_conflict",
    ]  # fmt: skip
    assert await outcomes(live_db, shop, by_first, by_second, event(1)) == [
        "duplicate", "usage.event_conflict", "duplicate",
    ]  # fmt: skip
    assert await outcomes(live_db, shop, event(2), event(2, api_key_id=first.id)) == [
        "counted", "usage.event_conflict",
    ]  # fmt: skip
    assert await outcomes(live_db, shop, event(2), event(2, api_key_id=first.id)) == [
        "duplicate", "usage.event_conflict",
    ]  # fmt: skip
    await rows(live_db, "update usage_event_ids set line_id = null")  # as they were once kept
    assert await outcomes(live_db, shop, by_second, event(1)) == ["duplicate"] * 2
    assert await counted(live_db) == 2


async def test_an_id_lets_no_other_key_pass(live_db: Live) -> None:
    """Else a key whose month is used up would go on with the ids of another one."""
    await move_in(live_db)
    shop = await service_key(live_db)
    first, used_up = await key_of(live_db), await key_of(live_db, per_month=1)
    assert (await verify(live_db, shop, used_up))["valid"]
    counted_call = await verify(live_db, shop, first, event_id="e-1")
    refusal = await verify(live_db, shop, used_up, event_id="e-1")
    assert (refusal["code"], refusal["replayed"]) == ("EVENT_CONFLICT", False)
    assert refusal["usage_id"] is None
    async with live_db.api(CARL) as api:
        made = (await api.post(f"{KEYS}/{first.id}/rotation", json={})).json()
    rotated = await verify(live_db, shop, Held(made["id"], made["key"]), event_id="e-1")
    assert (rotated["code"], rotated["usage_id"]) == ("VALID", counted_call["usage_id"])
    assert await outcomes(live_db, shop, event(api_key_id=used_up.id), event()) == [
        "usage.event_conflict", "duplicate",
    ]  # fmt: skip


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
    late = event(2, ip_address="203.0.113.9")
    assert await outcomes(live_db, shop, late) == ["usage.unknown_customer"]
    [row] = await rows(live_db, "select total_requests from monthly_usage")
    assert row["total_requests"] == 2


async def test_what_has_no_outcome_has_not_succeeded(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    await outcomes(live_db, shop, event(1), event(2, status_code=399), event(3, status_code=400))
    [row] = await rows(live_db, "select total_requests, successful_requests, failed_requests "
                                "from monthly_usage")  # fmt: skip
    assert tuple(row.values()) == (3, 1, 1)


@pytest.mark.parametrize(
    ("said", "pointer"),
    [
        ({"date_from": "not a date"}, "/date_from"), ({"date_to": "2026-02-30"}, "/date_to"),
        ({"date_from": "20260101"}, "/date_from"), ({"date_to": ""}, "/date_to"),
        ({"date_from": "2026-01-01 or so"}, "/date_from"),
        ({"date_from": "2026-01-02", "date_to": "2026-01-01"}, "/date_to"),
        ({"date_from": "2026-01-01"}, None), ({"date_to": "2026-01-01"}, None),
        ({"date_from": "2026-01-01", "date_to": "2026-01-01"}, None),
        ({"date_from": "2026-01-01T08:00:00Z", "date_to": "2026-01-01"}, None),
    ],
)  # fmt: skip
async def test_dates_are_dates_in_their_order(
    live_db: Live, said: dict[str, str], pointer: str | None
) -> None:
    await move_in(live_db)
    answer = await post(live_db, await service_key(live_db), event(**said), USAGE)
    if pointer is None:
        assert answer.status_code == 201, answer.text
    else:
        assert refused(answer) == (422, "invalid_input")
        assert [each["pointer"] for each in answer.json()["errors"]] == [pointer]


async def test_who_is_deleted_leaves_no_meter(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl, dora = [
        await service_key(live_db), await key_of(live_db, per_minute=9), await key_of(live_db, DORA)
    ]  # fmt: skip
    for holder in (carl, dora):
        await verify(live_db, shop, holder)
    metered = {str(row[0]) for row in await rows(live_db, "select id from meters")}
    assert {str(CARL.id), carl.id, str(DORA.id)} <= metered
    await rows(live_db, "delete from users where id = $1", CARL.id)
    left = {str(row[0]) for row in await rows(live_db, "select id from meters")}
    assert left == metered - {str(CARL.id), carl.id}
