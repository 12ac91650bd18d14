"""The demo data: keys and weeks of calls, which every reading shows, and a second time nothing."""

from time import perf_counter
from typing import Any

from bursar.demo import company, usage
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import API, assert_sums_hold
from tests.world import OLIVIA

COUNTS = """
select (select count(*) from api_keys) k,
  (select count(*) from api_keys where status = 'revoked') r,
  (select count(*) from usage) u, (select count(distinct user_id) from usage) c,
  (select count(*) from usage_days) d, (select count(*) from quota_warnings) w
"""


async def test_it_is_loaded_once(live_db: Live) -> None:
    loaded = await company.load(live_db.database)
    assert loaded["api_keys"] == 9
    [first] = await rows(live_db, COUNTS)
    assert (first["k"], first["r"], first["c"], first["w"]) == (9, 1, 6, 0)
    assert 2_500 < first["u"] < 5_000
    await company.load(live_db.database)
    assert await rows(live_db, COUNTS) == [first]
    await assert_sums_hold(live_db)


async def test_it_minds_no_change_of_what_it_made(live_db: Live) -> None:
    """Whoever starts it again has perhaps renamed a key, or closed an account."""
    await company.load(live_db.database)
    await rows(live_db, "update api_keys set name = 'mine'")
    await company.load(live_db.database)
    await rows(live_db, "delete from api_keys")
    await rows(live_db, "update users set status = 'suspended' where email like 'jun%'")
    await company.load(live_db.database)
    names = [row[0] for row in await rows(live_db, "select name from api_keys")]
    assert len(names) == 8
    assert "Price watch" not in names


async def test_it_is_quick_and_goes_on_after_a_crash(live_db: Live) -> None:
    await company.load(live_db.database)
    last = usage.HOLDERS[-1][0]
    delete = "delete from {} where user_id = (select id from users where email = $1)"
    for table in ("monthly_usage", "usage", "usage_event_ids", "usage_hours", "usage_days"):
        await rows(live_db, delete.format(table), last)
    before = await rows(live_db, "select count(*) from usage")
    started = perf_counter()
    await usage.report(live_db.database)
    assert perf_counter() - started < 30  # about 1 s where nothing else is at work
    [after] = await rows(live_db, "select count(*) from usage")
    assert 100 < after[0] - before[0][0] < 400
    await assert_sums_hold(live_db)


async def test_every_reading_shows_something(live_db: Live) -> None:
    await company.load(live_db.database)
    [carl] = await rows(live_db, "select id from users where email = 'carl@example.com'")
    async with live_db.api(OLIVIA) as api:

        async def read(path: str, **asked: Any) -> Any:
            answer = await api.get(f"{API}/admin/users/{carl['id']}/usage{path}", params=asked)
            assert answer.status_code == 200, answer.text
            return answer.json()

        months = (await read("/summary"))["months"]
        assert len(months) >= 2
        assert any(month["failedRequests"] for month in months)
        quota = await read("/quota")  # in the first hours of a month nothing is used yet
        used = {month["month"]: month["units"] for month in months}
        assert quota["used"] == used.get(quota["month"], 0)
        assert used[max(used)] > 0
        for by in ("endpoint", "key", "status", "day"):
            parts = (await read("/breakdown", by=by))["parts"]
            assert len(parts) >= 2
            assert parts[0]["averageMs"]
        assert (await read("", failed=True))["total"] > 10
