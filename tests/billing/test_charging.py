"""Usage that is paid for as it happens: each unit once, for what the plan says, come what may."""

import asyncio
import random
from decimal import Decimal
from typing import Any

import asyncpg
import pytest

from bursar.billing import charging, tasks
from bursar.core.database import WORKER
from tests.accounts.people import rows, run_jobs
from tests.billing.meterman import (
    Tiers,
    ask,
    begin,
    charges,
    costs,
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
from tests.keys.keyholders import USAGE, code, key_of, service_key, set_terms
from tests.wallets.purses import balance_of, charge, freeze, fund, move_in
from tests.world import ANNA, CARL, DORA

CENT: Tiers = [(None, "0.01")]
STEPS: Tiers = [(10, "0.0300005"), (25, "0.0199999"), (None, "0.0000123")]


async def opened(live: Live, tiers: Tiers = CENT, **given: Any) -> None:
    """Carl and Dora have ten dollars each; quotas and rates are no matter here."""
    await move_in(live)
    for who in (CARL, DORA):
        await fund(live, who, 10)
    await set_terms(live, quota_hard_free=False, rate_per_second_free=0, rate_per_minute_free=0)
    await meter(live)
    await plan(live, "calls", tiers, **given)


async def test_what_was_used_is_charged_within_the_minute(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 30)
    await minute(live_db)
    await use(live_db, CARL, 12)
    await minute(live_db)
    await minute(live_db)  # nothing new
    assert await charges(live_db) == [(0, 30, Decimal("0.3")), (30, 42, Decimal("0.12"))]
    assert await balance_of(live_db, CARL) == Decimal("9.58")
    assert await balance_of(live_db, DORA) == 10
    [told] = (await costs(live_db))["costs"]
    assert (told["units"], told["billed_units"]) == (42, 42)
    assert (told["amount"], told["billed_amount"]) == (Decimal("0.42"), Decimal("0.42"))


async def test_piece_by_piece_it_is_the_same_as_at_once(live_db: Live) -> None:
    """However it is cut, nothing is lost or won by rounding."""
    await opened(live_db, STEPS, included=3)
    steps = random.Random(7)
    used = 0
    for _ in range(12):
        units = steps.randint(1, 6)
        used += units
        await use(live_db, CARL, units)
        await minute(live_db)
    found = await charges(live_db)
    assert sum(each[2] for each in found) == price(STEPS, 3, used)
    assert [each[0] for each in found] == [0, *(each[1] for each in found[:-1])]
    for begins, ends, amount in found:
        assert amount == price(STEPS, 3, ends) - price(STEPS, 3, begins)
    assert await balance_of(live_db, CARL) == 10 - price(STEPS, 3, used)


async def test_what_is_included_costs_nothing(live_db: Live) -> None:
    await opened(live_db, included=100)
    await use(live_db, CARL, 100)
    await minute(live_db)
    assert await charges(live_db) == []
    await use(live_db, CARL, 1)
    await minute(live_db)
    assert await charges(live_db) == [(0, 101, Decimal("0.01"))]


async def test_a_meter_counts_what_it_is_for(live_db: Live) -> None:
    await opened(live_db)
    await meter(live_db, "reports", counts="calls", endpoints=["/v1/reports", "/v1/sums"])
    await plan(live_db, "reports", [(None, "0.5")])
    await use(live_db, CARL, 7, endpoint="/v1/reports", calls=2)
    await use(live_db, CARL, 7, endpoint="/v1/things")
    await minute(live_db)
    assert sorted(await charges(live_db)) == [(0, 2, 1), (0, 21, Decimal("0.21"))]


async def test_the_nearest_plan_holds_and_stays_for_the_month(live_db: Live) -> None:
    await opened(live_db)
    await plan(live_db, "calls", [(None, "0.02")], tier="free")
    await plan(live_db, "calls", [(None, "0.03")], userId=str(CARL.id))
    for who in (CARL, DORA):
        await use(live_db, who)
    await minute(live_db)
    assert await charges(live_db) == [(0, 1, Decimal("0.03"))]
    assert await charges(live_db, DORA) == [(0, 1, Decimal("0.02"))]
    await rows(live_db, "update users set tier = 'pro' where id = $1", DORA.id)
    await use(live_db, DORA)
    await minute(live_db)
    assert (await charges(live_db, DORA))[-1] == (1, 2, Decimal("0.02"))


async def test_a_plan_of_this_month_is_for_what_was_used_already(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 5)
    await minute(live_db)
    await meter(live_db, "more", endpoints=["/v1/things"])
    await plan(live_db, "more", CENT)
    await minute(live_db)
    assert len(await charges(live_db)) == 2


async def test_late_reports_of_older_months_are_charged_at_night(live_db: Live) -> None:
    await opened(live_db)
    await meter(live_db, "old")
    await old_plan(live_db, "old", CENT, "at_once")
    await use(live_db, CARL, 5, month=last_month())
    await minute(live_db)
    before = (await rows(live_db, "select to_char(now() - interval '3 months', 'YYYY-MM') m"))[0][
        "m"
    ]
    await use(live_db, CARL, 6, month=before)
    await minute(live_db)
    assert await charges(live_db) == [(0, 5, Decimal("0.05"))]
    await begin(live_db, tasks.begin_charging_late)
    assert await charges(live_db) == [(0, 5, Decimal("0.05")), (0, 6, Decimal("0.06"))]


async def test_who_comes_into_another_tier_is_stopped_by_its_plan_or_not_at_all(
    live_db: Live,
) -> None:
    """Also with an empty wallet: nothing was billed yet, and refused usage counts nothing."""
    await opened(live_db, tier="free")
    await plan(live_db, "calls", CENT, tier="enterprise", charging="monthly")
    shop, carl = await service_key(live_db), await key_of(live_db)
    await charge(live_db, CARL, 10)
    await use(live_db, CARL, 5)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    await rows(live_db, "update billing_looks set upto = clock_timestamp()")  # it is long ago
    await rows(live_db, "update users set tier = 'enterprise' where id = $1", CARL.id)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "VALID"
    assert await charges(live_db) == []


async def test_who_cannot_pay_is_stopped_and_goes_on_once_it_is_paid(live_db: Live) -> None:
    await opened(live_db)
    shop, carl, dora = (
        await service_key(live_db),
        await key_of(live_db),
        await key_of(live_db, DORA),
    )
    await charge(live_db, CARL, 9)
    await use(live_db, CARL, 150)
    await minute(live_db)
    assert await charges(live_db) == []
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    assert await code(live_db, shop, dora) == "VALID"
    told = await costs(live_db)
    assert told["stopped"]
    assert told["costs"][0]["unpaid_since"] is not None
    reader = await key_of(live_db, scopes=["usage:read"])
    async with live_db.api(**reader.headers) as api:  # by a key too they learn why
        by_key = await api.get(f"{USAGE}/costs")
    assert (by_key.status_code, by_key.json()) == (200, told)
    await minute(live_db)
    await fund(live_db, CARL, 5)
    await minute(live_db)
    assert await charges(live_db) == [(0, 150, Decimal("1.5"))]
    assert await code(live_db, shop, carl) == "VALID"
    assert not (await costs(live_db))["stopped"]


async def test_staff_may_let_them_go_on(live_db: Live) -> None:
    await opened(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await freeze(live_db, CARL)
    await use(live_db, CARL)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    await set_terms(live_db, billing_stop_unpaid=False)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "VALID"
    assert await charges(live_db) == []


async def test_many_at_once_charge_once(live_db: Live) -> None:
    await opened(live_db)
    for who in (CARL, DORA):
        await use(live_db, who, 33)

    async def bill() -> None:
        async with live_db.database.transaction(WORKER) as db:
            await charging.charge(db, [CARL.id, DORA.id], this_month())  # type: ignore[list-item]

    await asyncio.gather(*(bill() for _ in range(8)))
    for who in (CARL, DORA):
        assert await charges(live_db, who) == [(0, 33, Decimal("0.33"))]
        assert await balance_of(live_db, who) == Decimal("9.67")


async def test_a_crash_between_money_and_charge_leaves_neither(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 33)

    async def fail() -> None:
        async with live_db.database.transaction(WORKER) as db:
            await charging.charge(db, [CARL.id], this_month())  # type: ignore[list-item]
            raise RuntimeError("the power is gone")

    with pytest.raises(RuntimeError, match="power"):
        await fail()
    assert (await charges(live_db), await balance_of(live_db, CARL)) == ([], 10)
    await minute(live_db)
    assert await balance_of(live_db, CARL) == Decimal("9.67")


FORGE = """
  insert into usage_charges (period_id, from_units, to_units, amount, amount_after, operation_id)
"""
TWICE = f"{FORGE} select period_id, 0, 4, 40000, 40000, uuid7() from usage_charges"
FORGED = {
    "a unit twice": (TWICE, "next units"),
    "units that nobody used": (
        f"{FORGE} select period_id, 10, 11, 10000, 110000, uuid7() from usage_charges",
        "next units",
    ),
    "another amount": ("update usage_charges set amount = 1", "never changed"),
    "deleted": ("delete from usage_charges", "never changed"),
    "emptied": ("truncate usage_charges cascade", "never changed"),
    "a period that says more": ("update usage_periods set units = 12", "newest charge"),
    "a period that says less": ("update usage_periods set units = 0, amount = 0", "newest charge"),
    "another plan": (
        "update usage_periods set plan_id = (select max(id::text)::uuid from price_plans)",
        "stays what it is",
    ),
    "no period": ("delete from usage_periods", "never changed"),
    "somebody else's": ("update usage_charges set user_id = uuid7()", "never changed"),
}


@pytest.mark.parametrize("how", FORGED)
async def test_the_database_refuses_it_from_anybody(live_db: Live, how: str) -> None:
    await opened(live_db)
    await plan(live_db, "calls", CENT, tier="pro")
    await use(live_db, CARL, 10)
    await minute(live_db)
    statement, words = FORGED[how]
    with pytest.raises(asyncpg.PostgresError, match=words):
        await rows(live_db, statement)
    assert await charges(live_db) == [(0, 10, Decimal("0.1"))]


async def test_no_unit_is_billed_twice_also_without_the_triggers(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 10)
    await minute(live_db)
    other = (await charge(live_db, CARL, 1)).operation_id
    await rows(live_db, "alter table usage_charges disable trigger user")
    with pytest.raises(asyncpg.ExclusionViolationError, match="ex_usage_charges_once"):
        await rows(live_db, TWICE.replace("uuid7()", f"'{other}'"))


async def test_a_charge_without_its_money_is_refused(live_db: Live) -> None:
    """Also to the worker: an operation of the ledger must have moved it, for these units."""
    await opened(live_db)
    await use(live_db, CARL, 10)
    other = (await charge(live_db, CARL, "0.1")).operation_id
    await run_jobs(live_db)
    async with live_db.database.transaction(WORKER) as db:
        [each], _ = await charging.due(db, [CARL.id], this_month(), charging.Charging.AT_ONCE)  # type: ignore[list-item]
    made = """
      insert into usage_charges
        (period_id, from_units, to_units, amount, amount_after, operation_id)
      values ($1, 0, 10, 100000, 100000, $2)
    """
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="paid as its plan says"):
        await rows(live_db, made, each.period_id, other)


async def test_usage_goes_with_its_customer_and_money_stays(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 10)
    await minute(live_db)
    await charge(live_db, CARL, await balance_of(live_db, CARL))  # only an empty wallet lets go
    await rows(live_db, "delete from users where id = $1", CARL.id)
    assert await rows(live_db, "select from usage") == []
    [row] = await rows(live_db, "select user_id, amount from usage_charges")
    assert (row["user_id"], row["amount"]) == (None, 100_000)


async def test_customers_see_their_own_and_staff_everybodys(live_db: Live) -> None:
    await opened(live_db)
    await use(live_db, CARL, 10)
    await minute(live_db)
    mine = await ask(live_db, "GET", "/api/v1/usage/charges", who=CARL)
    assert [
        (each["meter"], each["from_units"], each["to_units"]) for each in mine.json()["charges"]
    ] == [("calls", 0, 10)]
    assert (await ask(live_db, "GET", "/api/v1/usage/charges", who=DORA)).json()["total"] == 0
    path = f"/api/v1/admin/users/{CARL.id}/usage"
    assert (await ask(live_db, "GET", f"{path}/charges?month={this_month()}", who=ANNA)).json()[
        "total"
    ] == 1
    assert (await ask(live_db, "GET", f"{path}/charges?month={last_month()}", who=ANNA)).json()[
        "total"
    ] == 0
    told = (await ask(live_db, "GET", f"{path}/costs", who=ANNA)).json()
    assert (told["stopped"], told["costs"][0]["billedUnits"]) == (False, 10)
