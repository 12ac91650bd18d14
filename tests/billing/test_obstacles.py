"""What must not keep billing from going on: a bad row, a crash half-way, a payment left open."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest

from bursar.billing.months import moved
from tests.accounts.people import rows
from tests.billing.meterman import (
    PLANS,
    ask,
    charges,
    collect,
    costs,
    hear,
    hour,
    invoices,
    last_month,
    meter,
    minute,
    old_plan,
    plan,
    this_month,
    use,
)
from tests.billing.test_charging import opened
from tests.billing.test_invoices import month_over
from tests.conftest import Live
from tests.keys.keyholders import code, key_of, service_key, set_terms
from tests.payments.tills import captured, intend, tell
from tests.wallets.purses import balance_of, charge, fund, move_in
from tests.world import CARL, DORA, OLIVIA


async def test_who_cannot_be_invoiced_keeps_nobody_waiting(live_db: Live) -> None:
    """Carl, who comes first, owes more than any invoice can say."""
    await move_in(live_db)
    await month_over(live_db, units=10**9, settled=False, prices=[(None, "10000")])
    await use(live_db, DORA, 1, month=last_month())
    await hour(live_db)
    assert await invoices(live_db) == []
    assert [each["total"] for each in await invoices(live_db, DORA)] == [10_000]
    [look] = await rows(live_db, "select upto from billing_looks where month = $1", last_month())
    assert look["upto"] is not None  # and nobody is looked at again because of him
    [told] = await rows(live_db, "select user_id from billing_waits")
    assert told["user_id"] == CARL.id  # but he is not passed over for good


async def test_what_the_ledger_cannot_move_is_said_and_not_cut(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    await opened(live_db, [(None, "10000")])
    await fund(live_db, DORA, 10_000)
    await use(live_db, CARL, 10**9)
    await use(live_db, DORA, 1)
    await minute(live_db)
    assert "more than the ledger can move" in caplog.text
    assert await charges(live_db) == []
    assert await charges(live_db, DORA) == [(0, 1, 10_000)]
    [told] = (await costs(live_db))["costs"]
    assert told["amount"] == 10**13


async def test_one_meter_that_is_too_much_waits_alone(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of the same customer before and after it are billed."""
    await opened(live_db, [(None, "10000")])
    await use(live_db, CARL, 10**9)
    for name in ("apples", "zebras"):
        await meter(live_db, name, counts="calls")
        await plan(live_db, name, [(None, "0.5")])
    await minute(live_db)
    await minute(live_db)
    assert sorted(await charges(live_db)) == [(0, 1, Decimal("0.5"))] * 2
    assert await balance_of(live_db, CARL) == 9
    assert (
        f"the usage of {CARL.id} in {this_month()} at the meter calls is not billed" in caplog.text
    )
    path = f"/api/v1/admin/users/{CARL.id}/usage/costs"
    told = (await ask(live_db, "GET", path)).json()["costs"]
    assert {each["meter"]: each["waitsBecause"] for each in told} == {
        "apples": None,
        "calls": "10000000000000.000000 is more than the ledger can move.",
        "zebras": None,
    }
    assert not (await costs(live_db))["stopped"]


async def test_one_meter_that_no_invoice_can_say_waits_alone(live_db: Live) -> None:
    await move_in(live_db)
    await meter(live_db, "apples", counts="calls")
    await old_plan(live_db, "apples", [(None, "0.5")])
    await month_over(live_db, units=10**9, prices=[(None, "1000")])
    assert [each["total"] for each in await invoices(live_db)] == [Decimal("0.5")]
    path = f"/api/v1/admin/users/{CARL.id}/usage/costs?month={last_month()}"
    told = (await ask(live_db, "GET", path)).json()["costs"]
    assert "more than an invoice can say" in told[1]["waitsBecause"]


async def test_lines_that_one_invoice_cannot_say_together_are_on_two(live_db: Live) -> None:
    await move_in(live_db)
    await meter(live_db, "apples")
    await old_plan(live_db, "apples", [(None, "600")])
    await month_over(live_db, units=10**9, prices=[(None, "700")])
    await hour(live_db)
    await hour(live_db)
    totals = sorted(each["total"] for each in await invoices(live_db))
    assert totals == [6 * 10**11, 7 * 10**11]
    [look] = await rows(live_db, "select upto from billing_looks where month = $1", last_month())
    assert look["upto"] is not None


async def test_a_look_goes_on_where_a_crash_has_ended_it(live_db: Live) -> None:
    await opened(live_db)
    for who in (CARL, DORA):
        await use(live_db, who)
    began = "insert into billing_looks values ('at_once', $1, null, now(), $2)"
    await rows(live_db, began, this_month(), CARL.id)
    await minute(live_db)
    assert (len(await charges(live_db)), len(await charges(live_db, DORA))) == (0, 1)
    await minute(live_db)  # what has changed since it began is looked at again
    assert (len(await charges(live_db)), len(await charges(live_db, DORA))) == (1, 1)


async def test_a_plan_that_is_opened_again_is_for_what_was_used_meanwhile(live_db: Live) -> None:
    await opened(live_db)
    its_id = await plan(
        live_db, "calls", [(None, "0.5")], userId=str(CARL.id), lastMonth=this_month()
    )
    await rows(
        live_db, "insert into billing_looks values ('at_once', $1, now())", moved(this_month(), 1)
    )
    answer = await ask(live_db, "PUT", f"{PLANS}/{its_id}", {"lastMonth": None})
    assert answer.status_code == 200, answer.text
    assert await rows(live_db, "select from billing_looks") == []


async def test_another_tier_does_not_change_a_month_that_is_over(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db, settled=False)
    await minute(live_db)  # every month is looked at while it goes on, and shortly after
    await rows(live_db, "update users set tier = 'pro' where id = $1", CARL.id)
    dear = """
      insert into price_plans (name, meter, charging, tier, price_tiers, first_month)
      select 'Dear', meter, charging, 'pro', '[{"up_to": null, "unit_price": "7"}]', first_month
      from price_plans
    """
    await rows(live_db, dear)
    await hour(live_db)
    assert [each["total"] for each in await invoices(live_db)] == [Decimal("1.72")]


async def test_switching_stops_off_frees_who_has_nothing(live_db: Live) -> None:
    await opened(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await charge(live_db, CARL, 10)
    await use(live_db, CARL)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    await set_terms(live_db, billing_stop_unpaid=False)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "VALID"
    await set_terms(live_db, billing_stop_unpaid=True)
    await minute(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"


async def test_an_invoice_that_was_given_up_stops_nobody(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, invoice_due_days=0)
    await month_over(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await collect(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    [found] = await invoices(live_db)
    path = f"/api/v1/admin/invoices/{found['id']}/cancellation"
    assert (await ask(live_db, "POST", path, {"reason": "a gift"})).status_code == 200
    await minute(live_db)
    assert await code(live_db, shop, carl) == "VALID"


@pytest.mark.parametrize(("hours", "status"), [(0, "open"), (2, "paid")])
async def test_a_page_left_open_keeps_the_wallet_waiting_for_an_hour(
    live_db: Live, hours: int, status: str
) -> None:
    await move_in(live_db)
    await month_over(live_db)
    [found] = await invoices(live_db)
    since = datetime.now(UTC) - timedelta(hours=hours)
    await intend(live_db, CARL, "1.72", purpose="invoice", invoice_id=found["id"], created_at=since)
    await fund(live_db, CARL, 5)
    await collect(live_db)
    assert [each["status"] for each in await invoices(live_db)] == [status]


async def test_a_part_of_the_money_is_for_staff_and_nothing_is_taken_twice(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    [found] = await invoices(live_db)
    by_hand = {"payment_method": "bank_transfer", "provider": "manual"}
    payment = await intend(
        live_db, CARL, "1.72", purpose="invoice", invoice_id=found["id"], **by_hand
    )
    told = {"provider": "manual", "object_id": str(payment)}
    await tell(live_db, captured(payment, "1.70", **told))
    await hear(live_db)
    await fund(live_db, CARL, 5)
    await collect(live_db)
    assert [each["status"] for each in await invoices(live_db)] == ["open"]
    assert await balance_of(live_db, CARL) == 5
    back = await ask(
        live_db, "POST", f"/api/v1/payments/{payment}/refunds", {"destination": "wallet"}
    )
    assert back.status_code in (200, 201), back.text
    await collect(live_db)
    assert [each["status"] for each in await invoices(live_db)] == ["paid"]
    assert await balance_of(live_db, CARL) == Decimal("4.98")


@pytest.mark.parametrize("what", ["another customer's", "another currency"])
async def test_a_payment_for_an_invoice_is_its_customers_in_its_currency(
    live_db: Live, what: str
) -> None:
    await move_in(live_db)
    await month_over(live_db)
    [found] = await invoices(live_db)
    await ask(live_db, "POST", "/api/v1/admin/assets", {"code": "JPY", "scale": 0}, who=OLIVIA)
    who, currency = (DORA, "USD") if what.endswith("customer's") else (CARL, "JPY")
    made = """
      insert into payments (user_id, amount, currency, payment_method, purpose, invoice_id)
      values ($1, 172, $2, 'stripe', 'invoice', $3)
    """
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="its customer's"):
        await rows(live_db, made, who.id, currency, found["id"])


async def test_so_many_meters_there_may_be(live_db: Live) -> None:
    many = "insert into billing_meters (code, name) select 'm_' || n, 'M' from"
    await rows(live_db, f"{many} generate_series(1, 39) as n")
    await meter(live_db, "last")
    answer = await ask(live_db, "POST", "/api/v1/admin/billing-meters", {"code": "x", "name": "X"})
    assert (answer.status_code, answer.json()["code"]) == (409, "billing.too_many_meters")
    priced = await ask(live_db, "POST", PLANS, {
        "name": "Zeros", "meter": "last", "charging": "at_once", "firstMonth": this_month(),
        "priceTiers": [{"unitPrice": "1.0000000000000000"}],
    })  # fmt: skip
    assert priced.status_code == 201, priced.text


def test_a_process_of_the_api_alone_knows_what_payments_may_be_for() -> None:
    said = (
        "import bursar.app; from bursar.payments import purposes; print(*sorted(purposes.registry))"
    )
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["appointment", "invoice", "service", "training"]
