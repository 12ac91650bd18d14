"""How a counted call ended is filled in once, whoever sends it how often, and every sum follows."""

import asyncio
import random
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.metering.outcomes import SINCE, moment_of
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import USAGE, Held, assert_sums_hold, key_of, service_key, verify
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA

OUTCOMES = f"{USAGE}/outcomes"
NOTHING = "00000000-0000-7000-8000-00000000dead"
BY_STATUS = """
  select status_code, sum(requests)::integer, sum(timed)::integer,
    sum(total_response_time_ms)::integer from {table} group by 1 order by 1
"""


def outcome(verdict: dict[str, Any], status: int = 200, **facts: Any) -> dict[str, Any]:
    about = {"usage_id": verdict["usage_id"], "user_id": verdict["user_id"]}
    return {**about, "status_code": status, **facts}


async def tell(live: Live, holder: Held, *outcomes: Any) -> Any:
    async with live.api(**holder.headers) as api:
        return await api.post(OUTCOMES, json={"outcomes": list(outcomes)})


async def told(live: Live, holder: Held, *outcomes: Any) -> list[str]:
    answer = await tell(live, holder, *outcomes)
    assert answer.status_code == 200, answer.text
    return [each.get("code") or each["status"] for each in answer.json()["outcomes"]]


async def by_status(live: Live) -> list[tuple[int, ...]]:
    hours, days = [
        [tuple(row.values()) for row in await rows(live, BY_STATUS.format(table=table))]
        for table in ("usage_hours", "usage_days")
    ]
    assert hours == days
    return hours


async def test_an_outcome_completes_its_call_and_counts_nothing(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    good, bad, open_end = [await verify(live_db, shop, carl, units=2) for _ in range(3)]
    assert await by_status(live_db) == [(0, 3, 0, 0)]
    failed = outcome(bad, 503, response_time_ms=900, error_message="Away")
    assert await told(live_db, shop, outcome(good, response_time_ms=40), failed) == [
        "recorded",
        "recorded",
    ]
    assert await by_status(live_db) == [(0, 1, 0, 0), (200, 1, 1, 40), (503, 1, 1, 900)]
    [month] = await rows(live_db, "select * from monthly_usage")
    assert (month["total_requests"], month["units"]) == (3, 6)
    assert (month["successful_requests"], month["failed_requests"]) == (1, 1)
    assert month["total_response_time_ms"] == 940
    await assert_sums_hold(live_db)
    assert await told(live_db, shop, outcome(open_end, 404)) == ["recorded"]
    assert [status for status, *_ in await by_status(live_db)] == [200, 404, 503]
    await assert_sums_hold(live_db)
    [row] = await rows(live_db, "select * from usage where status_code = 503")
    assert (str(row["id"]), row["error_message"]) == (bad["usage_id"], "Away")
    assert moment_of(row["id"]) == row["timestamp"]


async def test_the_first_one_stands_and_each_item_has_its_own_end(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    first, second, third = [await verify(live_db, shop, carl) for _ in range(3)]
    with_status = await verify(live_db, shop, carl, status_code=200, response_time_ms=5)
    assert await told(live_db, shop, outcome(first)) == ["recorded"]
    batch = {
        "duplicate": outcome(first),
        "usage.outcome_known": outcome(first, 500),
        "recorded": outcome(second, 500, response_time_ms=7),
        "usage.unknown_call": outcome({"usage_id": NOTHING, "user_id": first["user_id"]}),
        "invalid_input": outcome(third, 99),
    }
    answer = await tell(
        live_db, shop, *batch.values(), "no outcome",
        outcome(second, 500, response_time_ms=7), outcome(second, 200),
        outcome(with_status, response_time_ms=5), outcome(with_status, 500),
        {**outcome(third), "user_id": str(DORA.id)}, {**outcome(third), "usage_id": str(CARL.id)},
        {**outcome(third), "user_id": NOTHING},
    )  # fmt: skip
    body = answer.json()
    assert [each.get("code") or each["status"] for each in body["outcomes"]] == [
        *batch, "invalid_input", "duplicate", "usage.outcome_known",
        "duplicate", "usage.outcome_known", *["usage.unknown_call"] * 3,
    ]  # fmt: skip
    assert (body["recorded"], body["duplicates"], body["refused"]) == (1, 3, 9)
    assert body["outcomes"][4]["errors"][0]["pointer"] == "/status_code"
    assert body["outcomes"][4]["usage_id"] == third["usage_id"]
    assert await by_status(live_db) == [(0, 1, 0, 0), (200, 2, 1, 5), (500, 1, 1, 7)]
    await assert_sums_hold(live_db)
    assert await rows(live_db, "select from meters where id = $1::uuid", NOTHING) == []


async def test_a_call_that_is_verified_again_is_found_by_the_same_id(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    first = await verify(live_db, shop, carl, event_id="e")
    again = await verify(live_db, shop, carl, event_id="e")
    other = await verify(live_db, shop, carl, event_id="e", units=2)
    looked = await verify(live_db, shop, carl, count=False)
    assert (first["usage_id"], again["replayed"]) == (again["usage_id"], True)
    assert (other["code"], other["usage_id"]) == ("EVENT_CONFLICT", None)
    assert (looked["valid"], looked["usage_id"]) == (True, None)
    assert await told(live_db, shop, outcome(again)) == ["recorded"]


async def test_from_many_sides_at_once_while_more_is_counted(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    keys = [await key_of(live_db, who, per_minute=1000) for who in (CARL, DORA)]
    verdicts = [v for n in range(9) for v in [await verify(live_db, shop, keys[n % 2])]]
    ends = [
        outcome(v, (200, 404, 500)[n % 3], response_time_ms=n * 31) for n, v in enumerate(verdicts)
    ]
    batches = [random.Random(seed).sample(ends, len(ends)) for seed in range(6)]
    *answers, _ = await asyncio.gather(
        *(told(live_db, shop, *batch) for batch in batches),
        asyncio.gather(*(verify(live_db, shop, keys[n % 2]) for n in range(8))),
    )
    every = [each for answer in answers for each in answer]
    assert (every.count("recorded"), every.count("duplicate")) == (9, 45)
    await assert_sums_hold(live_db)
    assert sum(n for status, n, *_ in await by_status(live_db) if status) == 9


@pytest.mark.parametrize("number", [1001, 10_000])
async def test_too_many_are_refused_with_the_limit(live_db: Live, number: int) -> None:
    answer = await tell(live_db, await service_key(live_db), *[{}] * number)
    assert refused(answer) == (413, "usage.too_many_events")
    assert answer.json()["limit"] == 1000


async def test_nothing_else_of_a_call_is_ever_changed(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl)
    for change in ("units = 2, status_code = 200", "endpoint = '/'", "error_message = 'x'"):
        with pytest.raises(asyncpg.RestrictViolationError, match="only get its outcome"):
            await rows(live_db, f"update usage set {change}")
    await rows(live_db, "update usage set status_code = 500, response_time_ms = 3")
    await assert_sums_hold(live_db)
    assert await by_status(live_db) == [(500, 1, 1, 3)]
    with pytest.raises(asyncpg.RestrictViolationError, match="only get its outcome"):
        await rows(live_db, "update usage set status_code = 200")


MICROSECONDS = st.integers(0, 2**47 * 1000)


@given(MICROSECONDS)
def test_the_moment_in_an_id_is_exact(micros: int) -> None:
    """As time_of_id() writes it; a test above compares it with the database's own."""
    milliseconds, rest = divmod(micros, 1000)
    text = f"{milliseconds:012x}7{(rest * 4096 + 999) // 1000:03x}8000000000000000"
    try:
        expected = SINCE + timedelta(microseconds=micros)
    except OverflowError:
        expected = None
    assert moment_of(UUID(text)) == expected
