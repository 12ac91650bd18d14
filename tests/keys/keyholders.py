"""Keys for tests: customers who hold some, services of the business, and what they are told.

carl = await key_of(live, CARL)                     # one of the customer's own making
shop = await service_key(live)                      # of staff's making, with `keys:verify`
verdict = await verify(live, shop, carl)
"""

from dataclasses import dataclass
from typing import Any

import httpx2

from bursar.auth.actor import Actor
from tests.accounts.people import rows
from tests.conftest import Live
from tests.world import CARL, OLIVIA

API = "/api/v1"
KEYS = f"{API}/api-keys"
ADMIN_KEYS = f"{API}/admin/api-keys"
VERIFY = f"{API}/keys/verify"
USAGE = f"{API}/usage"


@dataclass(frozen=True)
class Held:
    """A key in somebody's hands."""

    id: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


async def key_of(live: Live, who: Actor = CARL, **facts: Any) -> Held:
    """Made by the customer, by the front door."""
    async with live.api(who) as api:
        answer = await api.post(KEYS, json={"name": "a key", **facts})
    assert answer.status_code == 201, answer.text
    return Held(answer.json()["id"], answer.json()["key"])


async def service_key(live: Live, *scopes: str, **facts: Any) -> Held:
    """Made by staff; without scopes it may verify keys and report usage."""
    given = [*(scopes or ("keys:verify", "usage:ingest"))]
    async with live.api(OLIVIA) as api:
        answer = await api.post(ADMIN_KEYS, json={"name": "a service", "scopes": given, **facts})
    assert answer.status_code == 201, answer.text
    return Held(answer.json()["id"], answer.json()["key"])


async def ask(live: Live, service: Held, key: str, **facts: Any) -> httpx2.Response:
    body = {"key": key, "endpoint": "/v1/things", **facts}
    async with live.api() as api:
        return await api.post(VERIFY, json=body, headers=service.headers)


async def verify(live: Live, service: Held, holder: Held, **facts: Any) -> dict[str, Any]:
    answer = await ask(live, service, holder.key, **facts)
    assert answer.status_code == 200, answer.text
    verdict: dict[str, Any] = answer.json()
    return verdict


async def code(live: Live, service: Held, holder: Held, **facts: Any) -> str:
    return str((await verify(live, service, holder, **facts))["code"])


async def set_terms(live: Live, **terms: Any) -> None:
    """As staff would: quota_free=1000, rate_per_second_free=0, …"""
    async with live.api(OLIVIA) as api:
        answer = await api.put(f"{API}/admin/settings", json=terms)
    assert answer.status_code == 200, answer.text


async def number_of_events(live: Live, who: Actor = CARL) -> int:
    [row] = await rows(live, "select count(*) from usage where user_id = $1", who.id)
    return int(row["count"])


RECOUNT = """
  select user_id, month_of(timestamp) as month, count(*) as requests,
    count(*) filter (where status_code < 400) as good, sum(units) as units,
    coalesce(sum(response_time_ms), 0) as ms
  from usage group by 1, 2 order by 1, 2
"""
SUMS = {
    "monthly_usage": """
      select user_id, month, total_requests as requests, successful_requests as good, units,
        total_response_time_ms as ms
      from monthly_usage order by 1, 2""",
    "usage_hours": """
      select user_id, month_of(hour) as month, sum(requests) as requests,
        coalesce(sum(requests) filter (where status_code between 1 and 399), 0) as good,
        sum(units) as units,
        sum(total_response_time_ms) as ms
      from usage_hours group by 1, 2 order by 1, 2""",
    "usage_days": """
      select user_id, to_char(day, 'YYYY-MM') as month, sum(requests) as requests,
        coalesce(sum(requests) filter (where status_code between 1 and 399), 0) as good,
        sum(units) as units,
        sum(total_response_time_ms) as ms
      from usage_days group by 1, 2 order by 1, 2""",
}
ODD_HISTOGRAMS = """
  select * from (select timed, latencies from usage_hours
    union all select timed, latencies from usage_days) as rollup
  where timed <> (select sum(each) from unnest(latencies) as each) or cardinality(latencies) <> 25
"""


PARTS = """
  select user_id, {unit} as unit, endpoint, api_key_id, status_code,
    sum(requests)::integer as requests, sum(units)::integer as units, sum(timed)::integer as timed,
    sum(ms)::integer as ms, sum_latencies(latencies) as latencies
  from {table} group by 1, 2, 3, 4, 5 order by 1, 2, 3, 4, 5
"""
EACH_CALL = """(
  select user_id, {unit} as unit, endpoint,
    coalesce(api_key_id, '00000000-0000-0000-0000-000000000000') as api_key_id,
    coalesce(status_code, 0) as status_code, 1 as requests, units,
    (response_time_ms is not null)::integer as timed, coalesce(response_time_ms, 0) as ms,
    array(select
      (part is not distinct from width_bucket(response_time_ms, latency_bounds()))::int::bigint
      from generate_series(0, 24) as part) as latencies
  from usage) as each"""
ROLLUPS = {
    "usage_hours": ("hour", "date_trunc('hour', timestamp, 'UTC')"),
    "usage_days": ("day", "(timestamp at time zone 'UTC')::date"),
}


async def assert_sums_hold(live: Live) -> None:
    """Every sum is what a recount of the raw events finds, in each part of each rollup."""
    counted = [tuple(row.values()) for row in await rows(live, RECOUNT)]
    for table, query in SUMS.items():
        assert [tuple(row.values()) for row in await rows(live, query)] == counted, table
    assert await rows(live, ODD_HISTOGRAMS) == []
    for table, (unit, of_event) in ROLLUPS.items():
        kept = f"(select *, total_response_time_ms as ms from {table}) as kept"
        counted = PARTS.format(unit="unit", table=EACH_CALL.format(unit=of_event))
        found = await rows(live, PARTS.format(unit=unit, table=kept))
        assert [tuple(row.values()) for row in found] == [
            tuple(row.values()) for row in await rows(live, counted)
        ], table
