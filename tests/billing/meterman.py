"""Usage that costs something: meters, plans, calls, and the minute and the month that bill them.

await meter(live, "calls")
await plan(live, "calls", [(None, "0.01")])
await use(live, CARL, 30)
await minute(live)
assert await balance_of(live, CARL) == ...
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import uuid4

import httpx2

from bursar.auth.actor import Actor
from bursar.billing import tasks
from bursar.billing.months import month_of, moved
from bursar.core.database import WORKER
from tests.accounts import people
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.keys.keyholders import USAGE, key_of
from tests.wallets.purses import Customer, id_of
from tests.world import CARL, OLIVIA

ADMIN = "/api/v1/admin"
PLANS = f"{ADMIN}/price-plans"
METERS = f"{ADMIN}/billing-meters"
SUBSCRIBERS = ("billing.mark_paid", "billing.try_later")

Json = dict[str, Any]
Tiers = list[tuple[int | None, str]]


def this_month() -> str:
    return month_of(datetime.now(UTC))


def last_month() -> str:
    return moved(this_month(), -1)


async def ask(live: Live, method: str, path: str, body: Any = None, who: Any = OLIVIA) -> Any:
    async with live.api(who) as api:
        return await api.request(method, path, json=body)


async def meter(live: Live, code: str = "calls", **given: Any) -> None:
    answer = await ask(live, "POST", METERS, {"code": code, "name": code.title(), **given})
    assert answer.status_code == 201, answer.text


def body(meter: str, tiers: Tiers, **given: Any) -> Json:
    priced = [{"upTo": up_to, "unitPrice": price} for up_to, price in tiers]
    plan: Json = {"name": "A plan", "meter": meter, "charging": "at_once"}
    return {**plan, "firstMonth": this_month(), "priceTiers": priced, **given}


async def plan(live: Live, meter: str, tiers: Tiers, **given: Any) -> str:
    answer = await ask(live, "POST", PLANS, body(meter, tiers, **given))
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


OLD_PLAN = """
insert into price_plans (name, meter, charging, included, price_tiers, first_month)
values ('An old plan', $1, $2, $3, $4, $5)
"""


async def old_plan(
    live: Live, meter: str, tiers: Tiers, charging: str = "monthly", included: int = 0
) -> None:
    """One that has held since last year; staff cannot make one any more."""
    stored = [{"up_to": up_to, "unit_price": price} for up_to, price in tiers]
    since = moved(this_month(), -14)
    await rows(live, OLD_PLAN, meter, charging, included, json.dumps(stored), since)


async def use(
    live: Live, who: Actor, units: int = 1, *, month: str = "", endpoint: str = "/v1/things",
    calls: int = 1,
) -> None:  # fmt: skip
    """Reported by a key of theirs, in the middle of a month; now, in this one."""
    moment = {"timestamp": f"{month}-14T12:00:00Z"} if month else {}
    holder = await key_of(live, who, scopes=["usage:write"])
    told = [
        {"event_id": str(uuid4()), "endpoint": endpoint, "units": units, **moment}
        for _ in range(calls)
    ]
    async with live.api(**holder.headers) as api:
        answer = await api.post(f"{USAGE}/events", json={"events": told})
    assert answer.json()["counted"] == calls, answer.text


async def begin(live: Live, cron: Any) -> None:
    async with live.database.transaction(WORKER) as db:
        await cron(db, {})
    await run_jobs(live)


async def minute(live: Live) -> None:
    await begin(live, tasks.begin_charging)


async def hour(live: Live) -> None:
    await begin(live, tasks.begin_invoicing)


async def collect(live: Live) -> None:
    """And whoever listens to payments is told."""
    await begin(live, tasks.begin_collecting)
    await hear(live)


async def listen(live: Live) -> None:
    await people.listen(live, *SUBSCRIBERS)


async def hear(live: Live) -> None:
    await people.tell(live, *SUBSCRIBERS)
    await run_jobs(live)


async def charges(live: Live, who: Customer = CARL) -> list[tuple[int, int, Decimal]]:
    """From which unit to which, and for how much; the oldest first."""
    query = """
      select from_units, to_units, amount / 1000000.0 as amount from usage_charges
      where user_id = $1 order by created_at, id
    """
    found = await rows(live, query, id_of(who))
    return [(row["from_units"], row["to_units"], Decimal(row["amount"])) for row in found]


async def costs(live: Live, who: Actor = CARL, month: str = "") -> Any:
    async with live.api(who) as api:
        answer = await api.get(f"{USAGE}/costs", params={"month": month or this_month()})
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)


async def invoices(live: Live, who: Actor = CARL) -> Any:
    async with live.api(who) as api:
        answer: httpx2.Response = await api.get("/api/v1/invoices")
    assert answer.status_code == 200, answer.text
    return json.loads(answer.text, parse_float=Decimal)["invoices"]


def price(tiers: Tiers, included: int, units: int, scale: int = 6) -> Decimal:
    """The oracle: every unit has the price of the tier it lies in, and the sum is cut once."""
    whole = Fraction(0)
    below = 0
    for up_to, unit_price in tiers:
        end = units if up_to is None else min(units, up_to)
        whole += max(0, end - max(below, included)) * Fraction(unit_price)
        below = up_to or 0
    return Decimal(int(whole * 10**scale)).scaleb(-scale)
