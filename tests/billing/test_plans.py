"""Meters and plans: what staff may make and end, and that a price is what the plan says."""

import json
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.billing import tasks
from bursar.billing.months import moved
from tests.accounts.people import rows
from tests.billing.meterman import (
    METERS,
    PLANS,
    Tiers,
    ask,
    begin,
    body,
    charges,
    last_month,
    meter,
    minute,
    old_plan,
    plan,
    price,
    this_month,
    use,
)
from tests.conftest import Live
from tests.databases import raw
from tests.wallets.purses import fund, move_in, refused
from tests.world import ANNA, CARL, DORA, MARK, OLIVIA

CENT: Tiers = [(None, "0.01")]


@st.composite
def tiers(draw: st.DrawFn) -> Tiers:
    bounds = sorted(draw(st.sets(st.integers(1, 10**7), max_size=4)))
    prices = st.decimals(0, 20, places=12)
    return [(bound, f"{draw(prices):f}") for bound in (*bounds, None)]


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tiers(), st.integers(0, 10**6), st.integers(0, 10**8), st.sampled_from([0, 2, 6]))
async def test_what_units_cost_is_exact(
    db: AsyncSession, each: Tiers, included: int, units: int, scale: int
) -> None:
    stored = [{"up_to": up_to, "unit_price": unit} for up_to, unit in each]
    query = text("select usage_cost(cast(:tiers as jsonb), :included, :units, :scale)")
    facts = {"tiers": json.dumps(stored), "included": included, "units": units, "scale": scale}
    found = await db.scalar(query, facts)
    assert Decimal(found).scaleb(-scale) == price(each, included, units, scale)


async def test_a_quote_says_what_a_month_costs(live_db: Live) -> None:
    await meter(live_db)
    its_id = await plan(live_db, "calls", [(1000, "0.002"), (None, "0.0015")], included=100)
    answer = await ask(live_db, "GET", f"{PLANS}/{its_id}/quote?units=2001")
    assert '"amount":3.301500' in answer.text
    assert (await ask(live_db, "GET", f"{PLANS}/{its_id}/quote?units=-1")).status_code == 422


async def test_a_quote_is_exact_however_much_it_is(live_db: Live) -> None:
    await meter(live_db)
    its_id = await plan(live_db, "calls", [(None, "999999.999999999999")])
    answer = await ask(live_db, "GET", f"{PLANS}/{its_id}/quote?units={10**12}")
    assert '"amount":999999999999999999.000000' in answer.text


async def test_a_plan_for_a_month_that_is_over_says_which_word_is_wrong(live_db: Live) -> None:
    await meter(live_db)
    answer = await ask(live_db, "POST", PLANS, body("calls", CENT, firstMonth=last_month()))
    assert refused(answer) == (422, "invalid_input")
    assert [each["pointer"] for each in answer.json()["errors"]] == ["/firstMonth"]


BAD: dict[str, dict[str, Any]] = {
    "no tier": {"priceTiers": []},
    "a last tier with an end": {"priceTiers": [{"upTo": 5, "unitPrice": 1}]},
    "two without an end": {"priceTiers": [{"unitPrice": 1}, {"unitPrice": 2}]},
    "falling": {"priceTiers": [{"upTo": 9, "unitPrice": 1}, {"upTo": 9, "unitPrice": 2},
                               {"unitPrice": 1}]},
    "below zero": {"priceTiers": [{"unitPrice": -1}]},
    "too many digits": {"priceTiers": [{"unitPrice": "0.0000000000001"}]},
    "no number": {"priceTiers": [{"unitPrice": "NaN"}]},
    "true": {"priceTiers": [{"unitPrice": True}]},
    "a negative allowance": {"included": -1},
    "for two": {"tier": "pro", "userId": str(CARL.id)},
    "a month that is none": {"firstMonth": "2026-13"},
    "over before it begins": {"firstMonth": "2100-02", "lastMonth": "2100-01"},
    "a month that is over": {"firstMonth": "2020-01"},
    "points": {"currency": "POINTS"},
    "no currency": {"currency": "usd"},
    "an unknown way": {"charging": "yearly"},
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
async def test_a_plan_that_makes_no_sense_is_refused(live_db: Live, what: str) -> None:
    await meter(live_db)
    answer = await ask(live_db, "POST", PLANS, body("calls", CENT, **BAD[what]))
    assert answer.status_code == 422, answer.text
    assert await rows(live_db, "select from price_plans") == []


async def test_of_one_meter_no_two_plans_at_a_time_for_the_same(live_db: Live) -> None:
    await move_in(live_db)
    await meter(live_db)
    its_id = await plan(live_db, "calls", CENT)
    again = await ask(
        live_db, "POST", PLANS, body("calls", CENT, firstMonth=moved(this_month(), 1))
    )
    assert refused(again) == (409, "billing.plan_overlap")
    await plan(live_db, "calls", CENT, tier="pro")
    await plan(live_db, "calls", CENT, userId=str(CARL.id))
    ended = await ask(live_db, "PUT", f"{PLANS}/{its_id}", {"lastMonth": this_month()})
    assert (ended.status_code, ended.json()["lastMonth"]) == (200, this_month())
    await plan(live_db, "calls", CENT, firstMonth=moved(this_month(), 1))
    open_again = await ask(live_db, "PUT", f"{PLANS}/{its_id}", {"lastMonth": None})
    assert refused(open_again) == (409, "billing.plan_overlap")
    early = await ask(live_db, "PUT", f"{PLANS}/{its_id}", {"lastMonth": last_month()})
    assert refused(early) == (422, "invalid_input")
    assert early.json()["errors"][0]["pointer"] == "/lastMonth"


async def ended_with(live: Live, month: str) -> str:
    """A plan of everybody's that was for the months up to this one."""
    await meter(live)
    await old_plan(live, "calls", CENT, "at_once")
    ending = "update price_plans set last_month = $1 returning id"
    return str((await rows(live, ending, month))[0]["id"])


@pytest.mark.parametrize("by", [None, 3])
async def test_what_was_free_is_not_billed_by_a_plan_that_had_ended(
    live_db: Live, by: int | None
) -> None:
    """Carl has used something two months ago, when no plan was for it any more."""
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    its_id = await ended_with(live_db, moved(this_month(), -4))
    await use(live_db, CARL, 100, month=moved(this_month(), -2))
    wanted = {"lastMonth": by and moved(this_month(), by)}
    answer = await ask(live_db, "PUT", f"{PLANS}/{its_id}", wanted)
    assert refused(answer) == (422, "invalid_input")
    assert answer.json()["errors"] == [
        {
            "pointer": "/lastMonth",
            "detail": "This plan has ended; make another one.",
            "code": "ended",
        }
    ]
    named = await ask(live_db, "PUT", f"{PLANS}/{its_id}", {"name": "Of old"})
    assert (named.status_code, named.json()["name"]) == (200, "Of old")
    await begin(live_db, tasks.begin_charging_late)
    assert await charges(live_db) == []


async def test_the_database_opens_no_plan_that_has_ended(live_db: Live) -> None:
    await ended_with(live_db, last_month())
    staff = await asyncpg.connect(raw(live_db.url, "staff_user"))
    try:
        await staff.execute(f"set request.jwt.claim.sub = '{OLIVIA.id}'")
        for later in ("null", f"'{moved(this_month(), 3)}'", f"'{this_month()}'"):
            with pytest.raises(asyncpg.RestrictViolationError, match="has ended"):
                await staff.execute(f"update price_plans set last_month = {later}")
        await staff.execute("update price_plans set name = 'Of old'")
    finally:
        await staff.close()


async def test_what_is_in_use_stays(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 1)
    await meter(live_db)
    its_id = await plan(live_db, "calls", CENT)
    other = await plan(live_db, "calls", CENT, tier="pro")
    await use(live_db, CARL)
    await minute(live_db)
    removed = await ask(live_db, "DELETE", f"{PLANS}/{its_id}")
    assert refused(removed) == (409, "billing.in_use")
    assert (await ask(live_db, "DELETE", f"{PLANS}/{other}")).status_code == 204
    assert refused(await ask(live_db, "DELETE", f"{METERS}/calls")) == (409, "billing.in_use")
    await meter(live_db, "unused")
    assert (await ask(live_db, "DELETE", f"{METERS}/unused")).status_code == 204
    twice = await ask(live_db, "POST", METERS, {"code": "calls", "name": "Again"})
    assert refused(twice) == (409, "billing.meter_exists")
    known = await rows(live_db, "select event_type from audit_logs")
    assert {
        "billing.meter_added", "billing.plan_added", "billing.plan_removed",
        "billing.meter_removed",
    } <= {row["event_type"] for row in known}  # fmt: skip


async def test_prices_are_never_changed_by_anybody(live_db: Live) -> None:
    await meter(live_db)
    await plan(live_db, "calls", CENT)
    for change in ("included = 7", "price_tiers = '[]'", "user_id = uuid7()", "currency = 'EUR'"):
        with pytest.raises(asyncpg.PostgresError, match=r"not changed|tiers"):
            await rows(live_db, f"update price_plans set {change}")
    with pytest.raises(asyncpg.RestrictViolationError):
        await rows(live_db, "update billing_meters set counts = 'calls'")


async def test_customers_see_what_holds_for_them(live_db: Live) -> None:
    await move_in(live_db)
    await meter(live_db)
    ids = {
        "everybody": await plan(live_db, "calls", CENT),
        "free": await plan(live_db, "calls", CENT, tier="free"),
        "pro": await plan(live_db, "calls", CENT, tier="pro"),
        "dora": await plan(live_db, "calls", CENT, userId=str(DORA.id)),
    }
    answer = await ask(live_db, "GET", "/api/v1/price-plans", who=CARL)
    seen = {each["id"] for each in answer.json()["price_plans"]}
    assert seen == {ids["everybody"], ids["free"]}
    everything = await ask(live_db, "GET", PLANS, who=ANNA)
    assert everything.json()["total"] == 4
    assert (await ask(live_db, "GET", PLANS, who=MARK)).status_code == 403
