"""What somebody would try who wants calls for nothing, or nobody else to have any."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from bursar.metering import outcomes
from bursar.metering.outcomes import CallOutcome
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import (
    API,
    KEYS,
    USAGE,
    ask,
    assert_sums_hold,
    code,
    key_of,
    number_of_events,
    service_key,
    set_terms,
    verify,
)
from tests.metering.test_ingest import event
from tests.metering.test_ingest import outcomes as report
from tests.metering.test_verify import codes, verify_at
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA, OLIVIA

MAPPED = "::ffff:203.0.113.7"


async def test_a_service_credential_opens_no_api_of_the_business(live_db: Live) -> None:
    await move_in(live_db)
    shop, other = await service_key(live_db), await service_key(live_db, "usage:ingest")
    for holder in (shop, other):
        verdict = await verify(live_db, shop, holder)
        assert (verdict["valid"], verdict["code"], verdict["key_id"]) == (False, "UNKNOWN", None)


async def test_an_address_is_the_same_however_it_is_written(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, rate_per_second_free=0, rate_per_minute_free=0)
    shop = await service_key(live_db)
    lists = (["203.0.113.0/24"], ["::ffff:203.0.113.7"], ["::ffff:203.0.113.0/120"])
    for allowed in lists:
        carl = await key_of(live_db, allowed_addresses=allowed)
        for address in ("203.0.113.7", MAPPED, "::ffff:cb00:7107"):
            assert await code(live_db, shop, carl, ip_address=address) == "VALID", (
                allowed,
                address,
            )
        for address in ("203.0.114.7", "::ffff:203.0.114.7", "::203.0.113.7", "fe80::1%eth0"):
            assert await code(live_db, shop, carl, ip_address=address) == "FORBIDDEN_ADDRESS"
    linked = await key_of(live_db, allowed_addresses=["fe80::1"])
    assert await code(live_db, shop, linked, ip_address="fe80::1%eth0") == "VALID"
    own = await key_of(live_db, allowed_addresses=["127.0.0.1"], scopes=["usage:read"])
    async with live_db.api(**own.headers) as api:
        assert (await api.get(f"{USAGE}/quota")).status_code == 200


async def test_one_odd_address_spoils_no_batch(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    odd = ["fe80::1%eth0", MAPPED, "::1", "203.0.113.9", "1.2.3", "fe80::1%" + "x" * 99]
    told = await report(live_db, shop, *(event(n, ip_address=a) for n, a in enumerate(odd)))
    assert told == [*["counted"] * 4, *["invalid_input"] * 2]
    found = await rows(live_db, "select host(ip_address) from usage order by event_id")
    assert [row[0] for row in found] == ["fe80::1", "203.0.113.7", "::1", "203.0.113.9"]
    await assert_sums_hold(live_db)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("units", 0), ("units", -1), ("units", 10**9 + 1), ("units", 1.5), ("units", True),
        ("response_time_ms", -1), ("response_time_ms", 10**30), ("response_time_ms", "9"),
        ("status_code", 600), ("status_code", 99), ("endpoint", ""), ("endpoint", "a\nb"),
        ("endpoint", "x" * 301), ("user_agent", "\x1b[2J"), ("timestamp", 1e400),
        ("timestamp", "2026-02-30"), ("event_id", ""), ("event_id", "x" * 301),
    ],
)  # fmt: skip
async def test_numbers_and_texts_that_are_none(live_db: Live, field: str, value: Any) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    if value == 1e400:
        value = "1e400"
    told = await report(live_db, shop, event(1), event(2, **{field: value}))
    assert told == ["counted", "invalid_input"]
    if field != "timestamp":
        assert (await ask(live_db, shop, carl.key, **{field: value})).status_code == 422
    assert await number_of_events(live_db) == 1


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_are_not_json(live_db: Live, number: str) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    body = f'{{"events": [{{"endpoint": "/", "user_id": "{CARL.id}", "units": {number}}}]}}'
    headers = {**shop.headers, "Content-Type": "application/json"}
    async with live_db.api(**headers) as api:
        assert refused(await api.post(f"{USAGE}/events", content=body))[0] == 422
    assert await number_of_events(live_db) == 0


async def test_a_month_of_huge_units_stops_nobody(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=10**12, quota_hard_free=False)
    shop, carl, dora = (
        await service_key(live_db),
        await key_of(live_db),
        await key_of(live_db, DORA),
    )
    await verify(live_db, shop, carl, units=10**9)
    await rows(live_db, "update monthly_usage set units = 9 * 10::numeric ^ 17")
    found = await asyncio.gather(
        *(code(live_db, shop, holder, units=10**9) for holder in (carl, dora, carl))
    )
    assert found == ["VALID"] * 3
    percents = await rows(live_db, "select percent from quota_warnings order by 1")
    assert [row[0] for row in percents] == [80, 100]


async def test_whoever_is_closed_calls_no_more(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["usage:read"])
    async with live_db.api(OLIVIA) as staff, live_db.api(**carl.headers) as own:
        assert (await own.get(f"{USAGE}/quota")).status_code == 200
        assert (await staff.delete(f"{API}/admin/users/{CARL.id}")).status_code in (200, 204)
        assert await code(live_db, shop, carl) == "DISABLED_OWNER"
        async with asyncio.timeout(10):
            assert (await own.get(f"{USAGE}/quota")).status_code == 401
    async with live_db.api(CARL) as gone:
        assert (await gone.post(KEYS, json={"name": "x"})).status_code in (401, 403, 404, 409)


async def test_an_outcome_belongs_to_the_month_of_its_call(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    edge = datetime(2027, 1, 1, tzinfo=UTC)
    [before] = await verify_at(live_db, edge - timedelta(microseconds=1), carl.key)
    [after] = await verify_at(live_db, edge, carl.key)
    assert codes([before, after]) == ["VALID", "VALID"]
    told = await outcomes.settle(
        live_db.database,
        [CallOutcome(UUID(v["usage_id"]), CARL.id, 500, 7) for v in (before, after, before)],
    )
    assert told == ["recorded", "recorded", "duplicate"]
    months = await rows(live_db, "select month, failed_requests from monthly_usage order by 1")
    assert [tuple(row.values()) for row in months] == [("2026-12", 1), ("2027-01", 1)]
    await assert_sums_hold(live_db)


@pytest.mark.parametrize(
    ("path", "asked", "named"),
    [
        ("usage", {"sort": "endpoint"}, "timestamp"),
        ("usage", {"status_code": "7"}, "?status_code"),
        ("usage", {"failed": "perhaps"}, "failed"), ("usage", {"key": "mine"}, "key"),
        ("usage", {"from": "yesterday"}, "from"), ("usage/summary", {"sort": "units"}, "month"),
        ("usage/breakdown", {"by": "country"}, "endpoint"),
        ("usage/export", {"format": "xml"}, "csv"),
        ("api-keys", {"status": "asleep"}, "revoked"), ("api-keys", {"sort": "key"}, "created_at"),
    ],
)  # fmt: skip
async def test_what_no_list_knows(live_db: Live, path: str, asked: Any, named: str) -> None:
    await move_in(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{API}/{path}", params=asked)
    assert refused(answer) == (422, "invalid_input")
    assert named in answer.text


async def test_ids_are_each_customers_own(live_db: Live) -> None:
    """Nobody takes up an id that somebody else's call will have."""
    await move_in(live_db)
    shop = await service_key(live_db)
    carl, dora = await key_of(live_db, scopes=["usage:write"]), await key_of(live_db, DORA)
    assert await report(live_db, carl, event(7, user_id=str(DORA.id))) == ["counted"]
    verdict = await verify(live_db, shop, dora, event_id="e-7")
    assert (verdict["valid"], verdict["replayed"]) == (True, False)
    assert await number_of_events(live_db, DORA) == 1
