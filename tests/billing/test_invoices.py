"""Invoices: a month of usage once, paid once, from the wallet or by a payment, and collected."""

import asyncio
from contextlib import suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bursar.billing import paying, tasks
from bursar.billing.months import moved
from bursar.core.database import WORKER
from bursar.core.errors import NotFound
from bursar.payments.providers.registry import providers
from tests.accounts.people import mails, rows, run_jobs
from tests.billing.meterman import (
    ADMIN,
    Tiers,
    ask,
    begin,
    charges,
    collect,
    costs,
    hear,
    hour,
    invoices,
    last_month,
    listen,
    meter,
    old_plan,
    this_month,
    use,
)
from tests.conftest import Live
from tests.databases import raw
from tests.keys.keyholders import code, key_of, service_key, set_terms
from tests.payments.shop import Shop
from tests.payments.surroundings import save_method
from tests.payments.tills import captured, company, row_of, tell
from tests.wallets.purses import balance_of, fund, move_in, refused
from tests.world import ANNA, CARL, DORA, OLIVIA

PRICES: Tiers = [(100, "0.013"), (None, "0.0085")]


async def month_over(
    live: Live, units: int = 150, *, settled: bool = True, prices: Tiers = PRICES
) -> None:
    """Carl has used something in the month that is over, and the invoice is written."""
    await set_terms(
        live, quota_hard_free=False, rate_per_second_free=0, rate_per_minute_free=0,
        invoice_after_hours=0,
    )  # fmt: skip
    await meter(live)
    await old_plan(live, "calls", prices)
    await use(live, CARL, units, month=last_month())
    await listen(live)
    if settled:
        await hour(live)


async def invoice(live: Live) -> Any:
    [found] = await invoices(live)
    return found


async def test_a_month_becomes_one_invoice(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await hour(live_db)  # nothing is left
    found = await invoice(live_db)
    assert (found["total"], found["status"], found["month"]) == (
        Decimal("1.72"),
        "open",
        last_month(),
    )
    assert found["number"].endswith("-000001")
    whole = await ask(live_db, "GET", f"/api/v1/invoices/{found['id']}", who=CARL)
    [line] = whole.json()["lines"]
    assert (line["from_units"], line["to_units"], line["amount"]) == (0, 150, 1.725)
    assert (await costs(live_db, month=last_month()))["costs"][0]["billed_units"] == 150
    [mail] = [each for each in await mails(live_db, "carl@example.com") if each.words]
    assert mail.template == "invoice_issued"
    assert mail.words is not None
    assert "150 units: 1.725000 USD" in mail.words.text


async def test_this_month_waits_until_it_is_over(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db, settled=False)
    await use(live_db, CARL, 1000)
    await hour(live_db)
    assert (await invoice(live_db))["total"] == Decimal("1.72")
    assert len(await charges(live_db)) == 1


async def test_what_is_reported_late_comes_with_the_next(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await use(live_db, CARL, 100, month=last_month())
    await hour(live_db)
    assert len(await invoices(live_db)) == 1  # the month was looked at; it is again next month
    await rows(live_db, "update billing_looks set upto = upto - interval '32 days'")
    await hour(live_db)
    late, first = await invoices(live_db)
    assert (first["total"], late["total"]) == (Decimal("1.72"), Decimal("0.85"))
    assert [each[:2] for each in await charges(live_db)] == [(0, 150), (150, 250)]


async def test_less_than_a_coin_is_not_invoiced(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db, prices=[(None, "0.00006")])
    assert await invoices(live_db) == []
    assert await charges(live_db) == []
    await use(live_db, CARL, 150, month=last_month())
    await rows(live_db, "update billing_looks set upto = upto - interval '32 days'")
    await hour(live_db)
    assert (await invoice(live_db))["total"] == Decimal("0.01")
    assert [each[:2] for each in await charges(live_db)] == [(0, 300)]


async def test_it_is_paid_from_the_wallet_as_soon_as_that_has_enough(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await fund(live_db, CARL, "1.719999")
    await collect(live_db)
    assert (await invoice(live_db))["status"] == "open"
    await fund(live_db, CARL, "0.000001")
    await collect(live_db)
    await collect(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", None)
    assert found["operation_id"] is not None
    assert await balance_of(live_db, CARL) == 0


async def test_two_collectors_take_it_once(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await fund(live_db, CARL, 100)

    async def once() -> None:
        async with live_db.database.transaction(WORKER) as db:
            [its_id] = await paying.to_collect(db, 10) or [UUID(int=1)]
            with suppress(NotFound):  # another one was first
                await paying.collect(db, providers(live_db.settings), its_id)

    await asyncio.gather(*(once() for _ in range(6)))
    assert await balance_of(live_db, CARL) == Decimal("98.28")


async def test_without_money_it_is_taken_from_the_saved_method(shop: Shop) -> None:
    await month_over(shop.live)
    await save_method(shop.live, CARL, "pm_ok")  # and a dollar with it
    await collect(shop.live)
    await collect(shop.live)
    found = await invoice(shop.live)
    assert (found["status"], found["operation_id"]) == ("paid", None)
    payment = await row_of(shop.live, found["payment_id"])
    assert (payment["purpose"], payment["captured"]) == ("invoice", Decimal("1.72"))
    assert await balance_of(shop.live, CARL) == 1
    assert (await company(shop.live))["revenue"] == Decimal("1.72")
    assert len(shop.stripe.books("payment_intent")) == 1


async def test_a_declined_method_is_tried_some_days_later_and_then_not_any_more(
    shop: Shop,
) -> None:
    await month_over(shop.live)
    await save_method(shop.live, CARL, "pm_declined")
    for _ in range(6):
        await collect(shop.live)
        await collect(shop.live)  # not again before its time
        await rows(shop.live, "update invoices set next_try_at = now()")
    query = "select status from payments where invoice_id is not null"
    assert [row["status"] for row in await rows(shop.live, query)] == ["failed"] * 4
    told = [each.template for each in await mails(shop.live, "carl@example.com")]
    assert told.count("invoice_declined") == 4
    assert told.count("auto_topup_declined") == 0


async def test_a_customer_pays_it_and_pays_it_once(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    found = await invoice(live_db)
    paying = {"payment_method": "bank_transfer", "invoice_id": found["id"]}
    others = await ask(live_db, "POST", "/api/v1/payments", paying, who=DORA)
    assert refused(others) == (404, "not_found")
    wrong = await ask(live_db, "POST", "/api/v1/payments", {**paying, "amount": 1}, who=CARL)
    assert refused(wrong) == (422, "payments.wrong_amount")
    begun = [await ask(live_db, "POST", "/api/v1/payments", paying, who=CARL) for _ in range(2)]
    for each in begun:
        by_hand = {"provider": "manual", "object_id": each.json()["id"]}
        await tell(live_db, captured(each.json()["id"], Decimal("1.72"), **by_hand))
    await hear(live_db)
    paid = await invoice(live_db)
    assert (paid["status"], paid["payment_id"]) == ("paid", begun[0].json()["id"])
    again = await ask(live_db, "POST", "/api/v1/payments", paying, who=CARL)
    assert refused(again) == (409, "billing.invoice_closed")
    assert await balance_of(live_db, CARL) == Decimal("1.72")  # the second one, given back
    assert (await company(live_db))["revenue"] == Decimal("1.72")


async def test_who_does_not_pay_in_time_is_told_and_stopped(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, invoice_due_days=0)
    await month_over(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await collect(live_db)
    await collect(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    told = [each.template for each in await mails(live_db, "carl@example.com")]
    assert told.count("invoice_overdue") == 1
    await fund(live_db, CARL, 2)
    await collect(live_db)
    assert await code(live_db, shop, carl) == "VALID"


@pytest.mark.parametrize(
    ("who", "told"),
    [
        ("status = 'suspended'", ["invoice_issued", "invoice_overdue"]),
        ("status = 'deleted', deleted_at = now()", ["invoice_issued", "invoice_overdue"]),
        ("status = 'deleted', deleted_at = now(), erased_at = now()", []),
        ("email = 'carl@example..com'", []),
    ],
)
async def test_who_owes_is_told_whatever_their_status(
    live_db: Live, who: str, told: list[str]
) -> None:
    await move_in(live_db)
    await set_terms(live_db, invoice_due_days=0)
    await month_over(live_db, settled=False)
    await rows(live_db, f"update users set {who} where id = $1", CARL.id)
    await hour(live_db)
    await collect(live_db)
    assert len(await rows(live_db, "select from invoices")) == 1
    sent = await rows(live_db, "select template from mails where subject = $1", CARL.id)
    assert sorted(row["template"] for row in sent) == told


async def test_staff_give_an_invoice_up(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    path = f"{ADMIN}/invoices/{(await invoice(live_db))['id']}/cancellation"
    assert (await ask(live_db, "POST", path, {"reason": "a gift"}, who=ANNA)).status_code == 403
    done = await ask(live_db, "POST", path, {"reason": "a gift"}, who=OLIVIA)
    assert (done.status_code, done.json()["status"]) == (200, "void")
    again = await ask(live_db, "POST", path, {"reason": "a gift"}, who=OLIVIA)
    assert refused(again) == (409, "billing.invoice_closed")
    await fund(live_db, CARL, 10)
    await collect(live_db)
    await rows(live_db, "update billing_looks set upto = upto - interval '32 days'")
    await hour(live_db)
    assert await balance_of(live_db, CARL) == 10
    assert len(await invoices(live_db)) == 1


FORGED = {
    "another total": ("update invoices set total = 1", "settled once"),
    "paid by nothing": ("update invoices set status = 'paid', paid_at = now()", "ck_invoices_paid"),
    "deleted": ("delete from invoices", "never changed"),
    "without lines": (
        "insert into invoices (user_id, month, currency, total, due_at)"
        " select user_id, month, currency, 3, now() from invoices",
        "sum of its lines",
    ),
    "a number chosen": ("update invoices set number = 7", "settled once"),
}


@pytest.mark.parametrize("how", FORGED)
async def test_the_database_refuses_it_from_anybody(live_db: Live, how: str) -> None:
    await move_in(live_db)
    await month_over(live_db)
    statement, words = FORGED[how]
    with pytest.raises(asyncpg.PostgresError, match=words):
        await rows(live_db, statement)


async def test_staff_with_sql_in_hand_cannot_say_that_one_is_paid(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    staff = await asyncpg.connect(raw(live_db.url, "staff_user"))
    try:
        await staff.execute(f"set request.jwt.claim.sub = '{OLIVIA.id}'")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await staff.execute("update invoices set status = 'paid'")
    finally:
        await staff.close()


async def test_everybody_has_their_own(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    its_id = (await invoice(live_db))["id"]
    assert await invoices(live_db, DORA) == []
    others = await ask(live_db, "GET", f"/api/v1/invoices/{its_id}", who=DORA)
    assert refused(others) == (404, "not_found")
    seen = await ask(live_db, "GET", f"{ADMIN}/invoices?status=open&user_id={CARL.id}", who=ANNA)
    assert [each["id"] for each in seen.json()["invoices"]] == [its_id]
    none = await ask(live_db, "GET", f"{ADMIN}/invoices?month={moved(this_month(), -5)}", who=ANNA)
    assert none.json()["total"] == 0
    await begin(live_db, tasks.begin_charging)
    await run_jobs(live_db)
    assert len(await charges(live_db)) == 1
