"""Usage as its owner reads it, and staff: pages, sums, quota, parts and percentiles."""

import csv
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.metering import export, queries
from bursar.metering.latency import BOUNDS, percentile
from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import API, USAGE, Held, key_of, service_key, set_terms, verify
from tests.metering.test_ingest import event, outcomes
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA, SUE


async def some_usage(live: Live) -> Held:
    await move_in(live)
    shop, carl = await service_key(live), await key_of(live)
    now = datetime.now(UTC)
    events = [
        event(
            n, endpoint=f"/v1/{n % 2}", status_code=200 if n % 5 else 500, response_time_ms=n,
            timestamp=(now - timedelta(minutes=n)).isoformat(),
            **({"api_key_id": carl.id} if n % 4 == 0 else {}),
        )
        for n in range(40)
    ]  # fmt: skip
    assert set(await outcomes(live, shop, *events)) == {"counted"}
    return carl


async def read(live: Live, path: str = "", **asked: Any) -> Any:
    async with live.api(CARL) as api:
        answer = await api.get(f"{USAGE}{path}", params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_pages_by_cursor_and_filters(live_db: Live) -> None:
    carl = await some_usage(live_db)
    seen, cursor = [], None
    while True:
        page = await read(live_db, per_page=15, **({"cursor": cursor} if cursor else {}))
        seen += page["usage"]
        if not (cursor := page["next_cursor"]):
            break
    assert [each["event_id"] for each in seen] == [f"e-{n}" for n in range(40)]
    assert (await read(live_db, endpoint="/v1/1"))["total"] == 20
    assert (await read(live_db, key=carl.id))["total"] == 10
    assert (await read(live_db, status_code=500))["total"] == 8
    assert (await read(live_db, failed=False))["total"] == 32
    since = seen[9]["timestamp"]
    assert (await read(live_db, **{"from": since}))["total"] in (9, 10)  # to the millisecond
    assert (await read(live_db, to=since))["total"] in (30, 31)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
async def test_all_of_it_as_a_file(
    live_db: Live, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "PIECE", 7)
    carl = await some_usage(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{USAGE}/export", params={"format": kind, "failed": False})
    lines = answer.text.splitlines()
    if kind == "csv":
        found = [row["event_id"] for row in csv.DictReader(lines)]
    else:
        found = [json.loads(line)["event_id"] for line in lines]
    assert found == [f"e-{n}" for n in range(40) if n % 5]
    assert carl.key not in answer.text
    async with live_db.api(DORA) as api:
        assert len((await api.get(f"{USAGE}/export")).text.splitlines()) == 1


async def test_a_summary_by_month(live_db: Live) -> None:
    await some_usage(live_db)
    months = (await read(live_db, "/summary"))["months"]
    assert sum(each["total_requests"] for each in months) == 40
    assert sum(each["failed_requests"] for each in months) == 8
    assert sum(each["total_response_time_ms"] for each in months) == sum(range(40))
    [one] = (await read(live_db, "/summary", month=months[0]["month"]))["months"]
    assert one == months[0]
    async with live_db.api(CARL) as api:
        assert (await api.get(f"{USAGE}/summary", params={"month": "2026-13"})).status_code == 422


async def test_what_is_left_of_the_quota(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await verify(live_db, shop, carl, units=30)
    quota = await read(live_db, "/quota")
    now = datetime.now(UTC)
    assert (quota["tier"], quota["month"]) == ("free", f"{now:%Y-%m}")
    assert (quota["quota"], quota["used"], quota["remaining"]) == (1000, 30, 970)
    assert quota["is_hard"] is True
    assert quota["resets_at"].endswith("-01T00:00:00.000Z")
    await set_terms(live_db, quota_free=0, rate_per_second_free=0)
    quota = await read(live_db, "/quota")
    assert (quota["quota"], quota["remaining"], quota["rate_per_second"]) == (None, None, None)


@pytest.mark.parametrize(
    ("by", "parts"),
    [
        ("endpoint", {"/v1/0": 20, "/v1/1": 20}),
        ("status", {"200": 32, "500": 8}),
        ("key", {None: 30, "carl": 10}),
    ],
)
async def test_parts_of_it(live_db: Live, by: str, parts: dict[str | None, int]) -> None:
    carl = await some_usage(live_db)
    found = await read(live_db, "/breakdown", by=by)
    names = {None: None, "carl": carl.id}
    wanted = {names.get(part, part): number for part, number in parts.items()}
    assert {each["part"]: each["requests"] for each in found["parts"]} == wanted


async def test_what_is_not_among_the_largest_parts_is_the_rest(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    await move_in(live_db)
    shop = await service_key(live_db)
    events = [event(n, endpoint=f"/{n % 7 % 4}", response_time_ms=n, units=2, status_code=200 + n)
              for n in range(280)]  # fmt: skip
    assert set(await outcomes(live_db, shop, *events)) == {"counted"}
    whole = await read(live_db, "/breakdown")
    assert [each["requests"] for each in whole["parts"]] == [80, 80, 80, 40]
    assert whole["rest"] is None
    monkeypatch.setattr(queries, "MOST_PARTS", 2)
    found = await read(live_db, "/breakdown")
    assert found["parts"] == whole["parts"][:2]
    rest, others = found["rest"], whole["parts"][2:]
    assert (rest["part"], rest["parts"]) == (None, 2)
    for name in ("requests", "failed_requests", "units"):
        assert rest[name] == sum(each[name] for each in others)
    assert rest["p99_ms"] > rest["p50_ms"] > 100
    async with live_db.api(SUE) as api:
        staffs = (await api.get(f"{API}/admin/users/{CARL.id}/usage/breakdown")).json()
    assert (staffs["rest"]["failedRequests"], staffs["rest"]["parts"]) == (
        rest["failed_requests"], 2,
    )  # fmt: skip


@pytest.mark.parametrize("by", ["day", "hour"])
async def test_parts_of_time_in_their_order(live_db: Live, by: str) -> None:
    await some_usage(live_db)
    parts = (await read(live_db, "/breakdown", by=by))["parts"]
    assert sum(each["requests"] for each in parts) == 40
    assert [each["part"] for each in parts] == sorted(each["part"] for each in parts)


@pytest.mark.parametrize(
    "asked",
    [
        {"by": "colour"}, {"from": "2026-01-02", "to": "2026-01-02"}, {"from": "9999-12-31"},
        {"from": "2020-01-01", "to": "2026-01-01"}, {"to": "0001-01-01"}, {"from": "yesterday"},
        {"by": "hour", "from": "2026-01-01", "to": "2026-03-01"},
    ],
)  # fmt: skip
async def test_what_is_no_span(live_db: Live, asked: dict[str, str]) -> None:
    await move_in(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{USAGE}/breakdown", params=asked)
    assert answer.status_code == 422, answer.text


async def test_nobody_sees_anothers(live_db: Live) -> None:
    await some_usage(live_db)
    async with live_db.api(DORA) as api:
        for path in ("", "/summary"):
            assert (await api.get(f"{USAGE}{path}")).json()["total"] == 0
        assert (await api.get(f"{USAGE}/quota")).json()["used"] == 0
        assert (await api.get(f"{USAGE}/breakdown")).json()["parts"] == []
    for table in ("usage", "monthly_usage", "usage_hours", "usage_days"):
        sql = f"select user_id from {table}"
        assert await live_db.database.fetch_all(DORA.claim, sql) == []
        assert await live_db.database.fetch_all(CARL.claim, sql)


async def test_staff_read_anybodys(live_db: Live) -> None:
    await some_usage(live_db)
    async with live_db.api(SUE) as api:
        base = f"{API}/admin/users/{CARL.id}/usage"
        assert (await api.get(base)).json()["usage"][0]["userId"] == str(CARL.id)
        months = (await api.get(f"{base}/summary")).json()["months"]
        assert sum(each["totalRequests"] for each in months) == 40
        assert (await api.get(f"{base}/quota")).json()["used"] >= 1
        assert len((await api.get(f"{base}/breakdown")).json()["parts"]) == 2
        answer = await api.post(f"{base}/grants", json={"units": 5, "reason": "x"})
        assert refused(answer) == (403, "auth.not_allowed")


@given(
    st.lists(st.integers(0, 40_000), min_size=1, max_size=200), st.sampled_from([0.5, 0.95, 0.99])
)
def test_a_percentile_lies_in_the_part_of_the_real_one(times: list[int], share: float) -> None:
    latencies = [0] * (len(BOUNDS) + 1)
    for time in times:
        latencies[part_of(time)] += 1
    found = percentile(latencies, share)
    real = sorted(times)[max(0, -int(-share * len(times) // 1) - 1)]
    assert found is not None
    part = part_of(real)
    low = BOUNDS[part - 1] if part else 0
    high = BOUNDS[part] if part < len(BOUNDS) else BOUNDS[-1]
    assert low <= found <= high


def part_of(time: int) -> int:
    return sum(time >= bound for bound in BOUNDS)


def test_without_any_times_there_is_no_percentile() -> None:
    assert percentile([0] * 25, 0.5) is None
    assert percentile([], 0.5) is None


async def test_the_export_of_personal_data_has_keys_and_usage(live_db: Live) -> None:
    carl = await some_usage(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.get(f"{API}/users/me/export")
    body = answer.json()
    assert [each["id"] for each in body["api_keys"]] == [carl.id]
    assert len(body["usage"]["calls"]) == 40
    assert carl.key not in answer.text
    assert await rows(live_db, "select 1 from usage limit 1")


async def test_staff_take_it_away_of_one_or_of_all(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of the calls that are looked at are wanted."""
    monkeypatch.setattr(export, "PIECE", 4)
    monkeypatch.setattr(export, "WINDOW", 9)
    await some_usage(live_db)
    shop = await service_key(live_db)
    doras = {"user_id": str(DORA.id), "status_code": 500, "endpoint": "=1+1"}
    assert await outcomes(live_db, shop, *(event(n, **doras) for n in range(100, 111)))

    async def took(path: str, **asked: Any) -> list[tuple[str, str]]:
        async with live_db.api(SUE) as api:
            answer = await api.get(f"{API}/admin/{path}/export", params=asked)
        assert answer.status_code == 200, answer.text
        if asked.get("format") == "jsonl":
            found = [json.loads(line) for line in answer.text.splitlines()]
        else:
            found = list(csv.DictReader(answer.text.splitlines()))
            assert {row["endpoint"] for row in found} <= {"/v1/0", "/v1/1", "'=1+1"}
        return [(row["userId"], row["eventId"]) for row in found]

    carls = [(str(CARL.id), f"e-{n}") for n in range(40)]
    every = await took("usage", format="jsonl")
    assert {user for user, _ in every[:11]} == {str(DORA.id)}
    assert every[11:] == carls
    assert sorted(await took("usage")) == sorted(every)
    assert await took(f"users/{CARL.id}/usage") == carls
    failed = await took("usage", status_code=500)
    assert [each for each in failed if each in carls] == carls[::5]
    assert len(failed) == 8 + 11
    assert await took("usage", endpoint="/nowhere") == []
    async with live_db.api(SUE) as api:
        assert (await api.get(f"{API}/admin/users/{SUE.id}/usage/export")).status_code == 404
        assert (await api.get(f"{API}/admin/usage/export?format=xls")).status_code == 422
        assert (await api.get(f"{API}/admin/usage/export?status_code=7")).status_code == 422
    trail = await rows(
        live_db, "select target_type, after from audit_logs where event_type = $1", "usage.exported"
    )
    assert [row["target_type"] for row in trail] == ["usage"] * 2 + ["user"] + ["usage"] * 2
    assert json.loads(trail[3]["after"]) == {"format": "csv", "status_code": 500}
