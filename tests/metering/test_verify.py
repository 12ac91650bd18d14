"""keys/verify says why not, counts what may go on exactly once, and never lets one more through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest

from bursar.core.database import WORKER
from bursar.core.database_errors import Conflict
from bursar.core.wire import as_json
from bursar.keys import secret
from bursar.metering.desk import VERIFY as VERIFY_SQL
from bursar.metering.desk import Desk, Question
from bursar.metering.events import TERMS
from tests.accounts.people import rows
from tests.conftest import Live
from tests.databases import raw
from tests.keys.keyholders import (
    API,
    KEYS,
    Held,
    ask,
    assert_sums_hold,
    code,
    key_of,
    number_of_events,
    service_key,
    set_terms,
    verify,
)
from tests.listeners import until
from tests.wallets.purses import move_in
from tests.world import CARL, DORA, OLIVIA

NO_RATES = {"rate_per_second_free": 0, "rate_per_minute_free": 0}


@asynccontextmanager
async def listening(live: Live) -> AsyncIterator[None]:
    """As behind a server: only who hears of its end knows a key by heart."""
    notices = live.app.state.notices
    async with notices.listening():
        await until(lambda: notices.hears, "somebody who listens")
        yield


async def test_a_good_key_is_counted_with_all_that_is_said(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["usage:read"])
    call = {
        "location": "Hobart", "state": "TAS", "date_from": "2026-01-01", "date_to": "2026-02-01",
        "response_time_ms": 42, "status_code": 200, "ip_address": "203.0.113.9", "units": 3,
        "user_agent": "curl/8", "error_message": "none",
    }  # fmt: skip
    verdict = await verify(live_db, shop, carl, **call)
    assert verdict["valid"] is True
    assert verdict["code"] == "VALID"
    assert (verdict["user_id"], verdict["key_id"]) == (str(CARL.id), carl.id)
    assert (verdict["tier"], verdict["scopes"]) == ("free", ["usage:read"])
    assert verdict["quota"] == {"limit": 1000, "used": 3, "remaining": 997}
    assert verdict["rate"]["policy"] == "second"
    assert verdict["rate"]["remaining"] == 9
    [row] = await rows(live_db, "select * from usage")
    assert {name: str(row[name]) for name in call} == {n: str(v) for n, v in call.items()}
    assert row["endpoint"] == "/v1/things"
    await assert_sums_hold(live_db)


async def test_why_not_is_said_by_a_code(live_db: Live) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    carl = await key_of(live_db, allowed_addresses=["203.0.113.0/24", "2001:db8::1"])
    here = {"ip_address": "203.0.113.7"}
    assert await code(live_db, shop, carl, **here) == "VALID"
    assert await code(live_db, shop, carl, ip_address="2001:db8::1") == "VALID"
    assert await code(live_db, shop, carl, ip_address="203.0.114.7") == "FORBIDDEN_ADDRESS"
    assert await code(live_db, shop, carl) == "FORBIDDEN_ADDRESS"
    assert await code(live_db, shop, carl, **here, scope="usage:read") == "MISSING_SCOPE"
    await rows(live_db, "update users set status = 'suspended' where id = $1", CARL.id)
    assert await code(live_db, shop, carl, **here) == "DISABLED_OWNER"
    await rows(live_db, "update users set status = 'active' where id = $1", CARL.id)
    await rows(live_db, "update api_keys set expires_at = now() where id = $1::uuid", carl.id)
    assert await code(live_db, shop, carl, **here) == "EXPIRED"
    async with live_db.api(CARL) as api:
        assert (await api.delete(f"{KEYS}/{carl.id}")).status_code == 200
    assert await code(live_db, shop, carl, **here) == "REVOKED"
    assert await number_of_events(live_db) == 2


@pytest.mark.parametrize(
    "key", ["", "x", "bur_live_", "bur_live_" + "A" * 36, "sk_live_" + "A" * 36, "\u00e9" * 45]
)
async def test_what_is_no_key_is_told_without_the_database(live_db: Live, key: str) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    async with listening(live_db):
        await ask(live_db, shop, key)  # now the service's own key is known
        await live_db.database.close()
        live_db.database.url = live_db.database.url.set(database="there_is_no_such_database")
        answer = await ask(live_db, shop, key)
    assert (answer.status_code, answer.json()["code"]) == (200, "UNKNOWN")


async def test_what_is_warm_takes_one_round_trip(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    asked: list[str] = []
    async with listening(live_db):
        await verify(live_db, shop, carl)
        for name in ("fetch", "fetchrow", "fetchval", "execute"):
            real = getattr(asyncpg.Connection, name)

            async def heard(
                self: Any, query: str, *facts: Any, real: Any = real, **how: Any
            ) -> Any:
                asked.append(query)
                return await real(self, query, *facts, **how)

            monkeypatch.setattr(asyncpg.Connection, name, heard)
        await verify(live_db, shop, carl, event_id="warm")
        await verify(live_db, shop, Held("", carl.key[:-1]))
        assert len(asked) == 1, asked


async def test_a_key_that_was_made_up_with_a_checksum_is_unknown(live_db: Live) -> None:
    shop = await service_key(live_db)
    answer = await ask(live_db, shop, secret.new())
    assert (answer.json()["valid"], answer.json()["code"]) == (False, "UNKNOWN")


async def test_the_same_event_is_counted_once(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    first = await verify(live_db, shop, carl, event_id="e-1")
    again = await verify(live_db, shop, carl, event_id="e-1")
    assert (first["replayed"], again["replayed"], again["quota"]["used"]) == (False, True, 1)
    assert await code(live_db, shop, carl, event_id="e-1", units=2) == "EVENT_CONFLICT"
    dora = await key_of(live_db, DORA)
    assert (await verify(live_db, shop, dora, event_id="e-1"))["replayed"] is False
    assert await number_of_events(live_db) == 1
    await assert_sums_hold(live_db)


async def test_not_one_more_than_the_quota(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=100, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    codes = await asyncio.gather(*(code(live_db, shop, carl) for _ in range(150)))
    assert (codes.count("VALID"), codes.count("QUOTA_EXCEEDED")) == (100, 50)
    assert await number_of_events(live_db) == 100
    over = await verify(live_db, shop, carl)
    assert over["retry_after_seconds"] > 0
    await set_terms(live_db, quota_hard_free=False)
    assert await code(live_db, shop, carl) == "VALID"


async def test_a_grant_is_felt_at_once_and_for_its_month_alone(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=1, **NO_RATES)
    shop, carl = await service_key(live_db), await key_of(live_db)
    grants = f"{API}/admin/users/{CARL.id}/usage/grants"
    async with live_db.api(OLIVIA) as api:
        made = await api.post(grants, json={"units": 5, "reason": "sorry", "month": "2030-01"})
        assert made.status_code == 201, made.text
        over = await api.post(grants, json={"units": 5, "reason": "sorry", "month": "2020-01"})
        assert (over.status_code, over.json()["errors"][0]["pointer"]) == (422, "/month")
        assert await code(live_db, shop, carl) == "VALID"
        assert await code(live_db, shop, carl) == "QUOTA_EXCEEDED"
        await api.post(grants, json={"units": 2, "reason": "sorry"})
        assert [await code(live_db, shop, carl) for _ in range(3)] == [
            "VALID", "VALID", "QUOTA_EXCEEDED",
        ]  # fmt: skip
        quota = (await api.get(f"{API}/admin/users/{CARL.id}/usage/quota")).json()
        assert (quota["quota"], quota["granted"], quota["remaining"]) == (3, 2, 0)
        listed = (await api.get(grants)).json()
        assert [each["units"] for each in listed["grants"]] == [2, 5]


async def test_a_key_has_a_month_of_its_own(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, per_month=2)
    assert (await verify(live_db, shop, carl))["quota"] == {"limit": 2, "used": 1, "remaining": 1}
    assert await code(live_db, shop, carl) == "VALID"
    for quota in (1000, 0, 3):
        await set_terms(live_db, quota_free=quota)
        over = await verify(live_db, shop, carl)
        assert over["code"] == "QUOTA_EXCEEDED"
        assert over["quota"] == {"limit": 2, "used": 2, "remaining": 0}
    assert (await verify(live_db, shop, carl, count=False))["quota"]["limit"] == 2
    await set_terms(live_db, quota_free=1000)
    assert await code(live_db, shop, await key_of(live_db)) == "VALID"


async def verify_at(live: Live, moment: datetime, *keys: str, **facts: Any) -> list[Any]:
    """As the desk asks it, at a moment of our choice."""
    asked = [
        {
            "n": n, "hash": secret.digest(key).hex(), "counts": True, "endpoint": "/v1/things",
            "units": 1, **facts,
        }
        for n, key in enumerate(keys)
    ]  # fmt: skip
    sql = VERIFY_SQL.replace("$3::text::jsonb", "$3::text::jsonb, $4")
    row = await live.database.fetch_one(WORKER, sql, as_json(asked).decode(), TERMS, moment)
    assert row
    return list(orjson.loads(row["answers"]))


def codes(verdicts: list[Any]) -> list[str]:
    return [each["code"] for each in verdicts]


async def test_a_month_ends_at_midnight_in_utc(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=2, **NO_RATES)
    carl = await key_of(live_db)
    edge = datetime(2027, 1, 1, tzinfo=UTC)
    before = edge - timedelta(microseconds=1)
    assert codes(await verify_at(live_db, before, *[carl.key] * 3)) == [
        "VALID", "VALID", "QUOTA_EXCEEDED",
    ]  # fmt: skip
    assert codes(await verify_at(live_db, edge, carl.key)) == ["VALID"]
    months = await rows(live_db, "select month, units from monthly_usage order by month")
    assert [tuple(row.values()) for row in months] == [("2026-12", 2), ("2027-01", 1)]
    parts = await rows(live_db, "select tableoid::regclass::text, count(*) from usage group by 1")
    assert {row[0]: row[1] for row in parts} == {"usage_2026_12": 2, "usage_2027_01": 1}


async def test_a_rate_lets_its_burst_through_and_then_one_at_a_time(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, rate_per_second_free=4, rate_per_minute_free=0)
    carl, other = await key_of(live_db), await key_of(live_db)
    noon = datetime(2026, 12, 1, 12, tzinfo=UTC)
    first = await verify_at(live_db, noon, *[carl.key] * 4, other.key)
    assert sorted(codes(first)) == ["RATE_LIMITED", *["VALID"] * 4]
    assert next(v for v in first if v["code"] != "VALID")["retry_after_seconds"] == 1
    soon = noon + timedelta(milliseconds=250)
    assert codes(await verify_at(live_db, soon, carl.key, carl.key)) == ["VALID", "RATE_LIMITED"]
    later = noon + timedelta(seconds=5)
    assert codes(await verify_at(live_db, later, *[other.key] * 5)).count("VALID") == 4


async def test_a_key_has_rates_of_its_own(live_db: Live) -> None:
    await move_in(live_db)
    slow = await key_of(live_db, per_minute=2)
    noon = datetime(2026, 12, 1, 12, tzinfo=UTC)
    verdicts = await verify_at(live_db, noon, *[slow.key] * 3)
    assert codes(verdicts) == ["VALID", "VALID", "RATE_LIMITED"]
    assert verdicts[0]["rate"] == {
        "policy": "key-minute", "limit": 2, "window_seconds": 60, "remaining": 1,
        "reset_seconds": 30,
    }  # fmt: skip
    assert verdicts[2]["retry_after_seconds"] == 30


async def test_a_look_counts_nothing(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    verdict = await verify(live_db, shop, carl, count=False)
    assert (verdict["valid"], verdict["quota"]["used"]) == (True, 0)
    assert await number_of_events(live_db) == 0
    slow = await key_of(live_db, per_minute=1)
    for _ in range(2):
        assert (await verify(live_db, shop, slow, count=False))["rate"]["remaining"] == 1
    assert await code(live_db, shop, slow) == "VALID"
    assert await code(live_db, shop, slow, count=False) == "RATE_LIMITED"


async def test_when_a_key_was_used_is_known_to_the_minute(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl)
    query = "select last_used_at, version from api_keys where id = $1::uuid"
    [first] = await rows(live_db, query, carl.id)
    await verify(live_db, shop, carl)
    assert [first] == await rows(live_db, query, carl.id)
    assert (first["version"], first["last_used_at"] is not None) == (1, True)


async def test_who_may_not_ask(live_db: Live) -> None:
    await move_in(live_db)
    carl, other = await key_of(live_db), await service_key(live_db, "usage:ingest")
    for headers, status, refusal in (
        ({}, 401, "auth.sign_in_needed"),
        (carl.headers, 403, "auth.missing_scope"),
        (other.headers, 403, "auth.missing_scope"),
        ({"X-API-Key": secret.new()}, 401, "auth.bad_token"),
    ):
        async with live_db.api() as api:
            body = {"key": carl.key, "endpoint": "/"}
            answer = await api.post(f"{API}/keys/verify", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, refusal)
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(f"{API}/keys/verify", json=body)
    assert (answer.status_code, answer.json()["code"]) == (403, "auth.not_allowed")
    assert await number_of_events(live_db) == 0


async def test_no_table_is_read_through_though_hardly_anything_is_in_it(live_db: Live) -> None:
    """The first plan is kept, and may be made when the first customer calls."""
    await move_in(live_db)
    carl = await key_of(live_db, per_month=9)
    asked = [{"n": 0, "hash": secret.digest(carl.key).hex(), "counts": True,
              "endpoint": "/v1/things", "units": 1}]  # fmt: skip
    connection = await asyncpg.connect(raw(live_db.url))
    try:
        async with connection.transaction():
            sql = "select verify_keys($1::text::json, $2::text::jsonb)"
            [verdict] = orjson.loads(await connection.fetchval(sql, as_json(asked).decode(), TERMS))
            assert (verdict["code"], verdict["key_left"]) == ("VALID", 8)
            through = await connection.fetch(
                "select relname from pg_stat_xact_user_tables where seq_scan > 0"
            )
    finally:
        await connection.close()
    assert {row["relname"] for row in through} <= {"settings"}


async def test_a_row_that_somebody_holds_stops_its_customer_and_nobody_else(live_db: Live) -> None:
    await move_in(live_db)
    carl, dora = await key_of(live_db), await key_of(live_db, DORA)
    shown = [secret.digest(key) for key in (dora.key, carl.key, dora.key, carl.key, dora.key)]
    desk = Desk(live_db.database)
    connection = await asyncpg.connect(raw(live_db.url))
    try:
        async with connection.transaction():
            await connection.execute("select from users where id = $1 for update", CARL.id)
            asked = (desk.ask(Question(each, {"endpoint": "/", "units": 1})) for each in shown)
            async with asyncio.timeout(30):  # a second for the batch, and one for Carl by himself
                told = await asyncio.gather(*asked, return_exceptions=True)
    finally:
        await connection.close()
        await desk.close()
    assert [each["code"] for each in told[::2] if isinstance(each, dict)] == ["VALID"] * 3
    assert [type(each) for each in told[1::2]] == [Conflict] * 2
    assert len(await rows(live_db, "select from usage")) == 3
