"""Invoices whose money is taken from us are open again: told once, paid anew, by the same rules."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from bursar.billing import paying
from bursar.core.database import WORKER
from bursar.core.errors import NotFound
from bursar.payments.providers import What
from bursar.payments.providers.registry import providers
from tests.accounts import people
from tests.accounts.people import rows, run_jobs
from tests.billing.meterman import SUBSCRIBERS, ask, collect, hear
from tests.billing.payers import (
    TOTAL,
    bounce,
    dispute,
    dispute_ends,
    events_of,
    letters,
    paid,
    payment_for,
    reopen,
)
from tests.billing.test_invoices import invoice, month_over
from tests.conftest import Live
from tests.keys.keyholders import code, key_of, service_key, set_terms
from tests.payments.shop import Shop
from tests.payments.surroundings import save_method
from tests.payments.tills import captured, company, fact, intend, state, tell
from tests.wallets.purses import balance_of, charge, fund, move_in, refused
from tests.world import CARL


async def test_a_transfer_that_bounces_leaves_it_open(live_db: Live) -> None:
    its_id, payment = await paid(live_db)
    before = await invoice(live_db)
    await bounce(live_db, payment)
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["paid_at"]) == ("open", None, None)
    assert (found["number"], found["total"]) == (before["number"], before["total"])
    assert (found["reopen_reason"], found["refunded"]) == ("Its payment was returned.", 0)
    assert found["reopened_at"] is not None
    assert await company(live_db) == {}
    await collect(live_db)
    assert await letters(live_db, "invoice_reopened") == 1
    whole = (await ask(live_db, "GET", f"/api/v1/invoices/{its_id}", who=CARL)).json()
    [shown] = whole["payments"]
    assert (shown["id"], shown["status"]) == (str(payment), "refunded")
    await fund(live_db, CARL, 5)
    await collect(live_db)
    again = await invoice(live_db)
    assert (again["status"], again["payment_id"]) == ("paid", None)
    assert await balance_of(live_db, CARL) == 5 - TOTAL
    assert (await company(live_db))["revenue"] == TOTAL


async def test_what_is_told_again_changes_nothing(live_db: Live) -> None:
    _, payment = await paid(live_db)
    await bounce(live_db, payment)
    for _ in range(3):  # the first time it is rolled back, as by a crash
        with suppress(ZeroDivisionError):
            async with live_db.database.transaction(WORKER) as db:
                await paying.heed(db, payment)
                _ = 1 / 0
    assert (await invoice(live_db))["status"] == "paid"
    await hear(live_db)
    once = await invoice(live_db)
    await rows(live_db, "update event_positions set xid = '0', event_id = 0")
    await hear(live_db)
    await bounce(live_db, payment)
    await hear(live_db)
    assert await invoice(live_db) == once
    assert await letters(live_db, "invoice_reopened") == 1
    assert await events_of(live_db, "billing.invoice_reopened") == 1


async def test_only_a_dispute_that_is_lost_opens_it(live_db: Live) -> None:
    _, payment = await paid(live_db, payment_method="stripe", provider="stripe")
    await dispute(live_db, payment)
    assert (await invoice(live_db))["status"] == "paid"
    await dispute_ends(live_db, payment, What.DISPUTE_LOST)
    found = await invoice(live_db)
    assert (found["status"], found["reopen_reason"]) == ("open", "Its payment was contested.")
    assert await company(live_db) == {}


async def test_a_dispute_that_is_won_leaves_it_paid(live_db: Live) -> None:
    _, payment = await paid(live_db, payment_method="stripe", provider="stripe")
    await dispute(live_db, payment, What.DISPUTE_WON)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(payment))
    assert (await company(live_db))["revenue"] == TOTAL


async def test_a_method_whose_payment_was_contested_is_not_tried_for_it_again(
    shop: Shop,
) -> None:
    await month_over(shop.live)
    await save_method(shop.live, CARL, "pm_ok")
    await collect(shop.live)
    await collect(shop.live)
    payment = UUID((await invoice(shop.live))["payment_id"])
    await dispute(shop.live, payment, What.DISPUTE_LOST)
    assert (await invoice(shop.live))["status"] == "open"
    await tomorrow(shop.live)
    await collect(shop.live)
    assert len(shop.stripe.books("payment_intent")) == 1
    other = await save_method(shop.live, CARL, "pm_visa", last_four="1111")
    await charge(shop.live, CARL, 2)  # what came with the two methods
    await rows(shop.live, "update payment_methods set is_default = false")
    await rows(shop.live, "update payment_methods set is_default = true where id = $1", other)
    assert await waits(shop.live)


async def tomorrow(live: Live) -> None:
    await rows(live, "update invoices set next_try_at = now()")


async def waits(live: Live) -> bool:
    """Whether the default method would be tried for the invoice, were it time."""
    await tomorrow(live)
    async with live.database.transaction(WORKER) as db:
        [its_id] = await paying.to_collect(db, 10)
        return await paying.collect(db, providers(live.settings), its_id) is not None


async def test_tries_are_counted_anew_and_the_customer_is_told_before(shop: Shop) -> None:
    await month_over(shop.live)
    await save_method(shop.live, CARL, "pm_declined")
    for _ in range(6):
        await collect(shop.live)
        await tomorrow(shop.live)
    payment = await payment_for(shop.live, (await invoice(shop.live))["id"])
    await bounce(shop.live, payment)
    await hear(shop.live)
    query = "select count(*) from payments where automatic and status = 'failed'"
    await collect(shop.live)
    assert (await rows(shop.live, query))[0]["count"] == 4  # not at once
    await tomorrow(shop.live)
    await collect(shop.live)
    assert (await rows(shop.live, query))[0]["count"] == 5


async def test_who_does_not_pay_again_is_told_and_stopped(live_db: Live) -> None:
    await set_terms(live_db, invoice_due_days=0, invoice_reopened_days=3)
    its_id, payment = await paid(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    await bounce(live_db, payment)
    await collect(live_db)
    await collect(live_db)
    due_at = datetime.fromisoformat((await invoice(live_db))["due_at"])
    assert timedelta(days=2) < due_at - datetime.now(UTC) <= timedelta(days=3)
    assert await code(live_db, shop, carl) == "VALID"
    with pytest.raises(asyncpg.PostgresError, match="settled once"):
        await rows(live_db, "update invoices set due_at = now()")
    second = await payment_for(live_db, its_id)
    await set_terms(live_db, invoice_reopened_days=0)
    await rows(live_db, "alter table invoices disable trigger advance_invoice")
    await rows(live_db, "update invoices set due_at = issued_at")
    await rows(live_db, "alter table invoices enable trigger advance_invoice")
    await bounce(live_db, second)
    await hear(live_db)
    await collect(live_db)
    assert await code(live_db, shop, carl) == "PAYMENT_REQUIRED"
    assert await letters(live_db, "invoice_reopened") == 2
    assert await letters(live_db, "invoice_overdue") == 1


async def test_a_second_payment_takes_the_place_of_one_that_bounces(live_db: Live) -> None:
    """It was on its way back already: the job that would give it back sees that it is needed."""
    its_id, first = await paid(live_db)
    second = await payment_for(live_db, its_id, heard=False)
    await people.tell(live_db, *SUBSCRIBERS)
    await bounce(live_db, first)
    await people.tell(live_db, *SUBSCRIBERS)
    await run_jobs(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(second))
    assert await state(live_db, second) == ("completed", TOTAL, 0)
    assert await letters(live_db, "invoice_reopened") == 0
    assert (await company(live_db))["revenue"] == TOTAL


async def test_where_a_part_was_lost_the_rest_goes_back_once_it_is_paid(live_db: Live) -> None:
    its_id, first = await paid(live_db)
    await dispute(live_db, first, What.DISPUTE_LOST, amount="0.50")
    assert (await invoice(live_db))["status"] == "open"
    await fund(live_db, CARL, 5)
    await collect(live_db)
    assert (await invoice(live_db))["status"] == "open"  # nothing is taken twice
    second = await payment_for(live_db, its_id)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(second))
    assert await state(live_db, first) == ("refunded", TOTAL, TOTAL)
    assert await balance_of(live_db, CARL) == 5 + TOTAL - Decimal("0.50")
    assert (await company(live_db))["revenue"] == TOTAL


async def test_an_invoice_of_who_has_left_is_open_and_waits(live_db: Live) -> None:
    _, payment = await paid(live_db)
    await rows(live_db, "update invoices set user_id = null")
    await bounce(live_db, payment)
    await hear(live_db)
    [row] = await rows(live_db, "select status from invoices")
    assert row["status"] == "open"
    await collect(live_db)
    assert await letters(live_db, "invoice_reopened") == 0


async def test_many_at_once_open_it_once_and_take_it_once(live_db: Live) -> None:
    its_id, payment = await paid(live_db)
    await fund(live_db, CARL, 5)
    await bounce(live_db, payment)

    async def heed() -> None:
        async with live_db.database.transaction(WORKER) as db:
            await paying.heed(db, payment)

    async def take() -> None:
        async with live_db.database.transaction(WORKER) as db:
            with suppress(NotFound):
                await paying.collect(db, providers(live_db.settings), UUID(its_id))

    async def by_staff() -> None:
        assert (await reopen(live_db, its_id)).status_code in (200, 409)

    tries: list[Awaitable[None]] = [each() for _ in range(3) for each in (heed, take, by_staff)]
    await asyncio.gather(*tries)
    await collect(live_db)
    [found] = await rows(live_db, "select status, version from invoices")
    # Staff may have opened once more what was open, and never what the wallet has paid.
    assert (found["status"], found["version"]) == ("paid", 4)
    assert await balance_of(live_db, CARL) == 5 - TOTAL
    assert await letters(live_db, "invoice_reopened") == 1
    assert await events_of(live_db, "billing.invoice_reopened") == 1


async def test_one_that_could_not_be_given_back_pays_after_all(live_db: Live) -> None:
    """The second payment was on its way back when the first one bounced, and its refund failed."""
    its_id, first = await paid(live_db)
    second = await payment_for(live_db, its_id, payment_method="stripe", provider="stripe")
    [asked] = await rows(live_db, "select id, status from refunds")
    assert asked["status"] == "pending"
    await bounce(live_db, first)
    await hear(live_db)
    assert (await invoice(live_db))["status"] == "open"
    failed = {"refund_id": str(asked["id"]), "reason": "expired_or_canceled_card"}
    await tell(live_db, fact(second, What.REFUND_FAILED, str(asked["id"]), **failed))
    await fund(live_db, CARL, 50)
    await rows(live_db, "update invoices set next_try_at = now()")
    await collect(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(second))
    assert await balance_of(live_db, CARL) == 50
    assert (await company(live_db))["revenue"] == TOTAL


@pytest.mark.parametrize("spent", [False, True])
async def test_a_check_that_was_not_needed_and_bounces_leaves_nothing(
    live_db: Live, spent: bool
) -> None:
    """It went into the wallet by itself, for the wallet had paid already: so it goes out again."""
    await move_in(live_db)
    await month_over(live_db)
    await fund(live_db, CARL, TOTAL)
    await collect(live_db)
    check = await payment_for(live_db, (await invoice(live_db))["id"], payment_method="check")
    assert await balance_of(live_db, CARL) == TOTAL
    if spent:
        await charge(live_db, CARL, TOTAL)
    for _ in range(2):
        await bounce(live_db, check)
        await hear(live_db)
    assert (await invoice(live_db))["status"] == "paid"
    assert await balance_of(live_db, CARL) == 0
    told = await company(live_db)
    assert told["clearing"] == -TOTAL
    assert told.get("adjustments", 0) == (-TOTAL if spent else 0)
    assert (await people.actions(live_db, str(check))).count("payments.bounced") == 1


async def test_what_is_left_of_the_money_is_said_plainly(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await fund(live_db, CARL, 5)
    await collect(live_db)
    answer = await reopen(live_db, (await invoice(live_db))["id"])
    assert answer.status_code == 409
    assert '"kept":1.72' in answer.text.replace(" ", "")
    assert "1.72 USD is still here" in answer.json()["detail"]


async def test_one_with_a_part_of_its_money_is_not_given_up(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    its_id = (await invoice(live_db))["id"]
    facts = {"payment_method": "bank_transfer", "provider": "manual"}
    part = await intend(live_db, CARL, TOTAL, purpose="invoice", invoice_id=UUID(its_id), **facts)
    await tell(live_db, captured(part, "1.00", provider="manual", object_id=f"pi_{part}"))
    await hear(live_db)
    path = f"/api/v1/admin/invoices/{its_id}/cancellation"
    answer = await ask(live_db, "POST", path, {"reason": "closed the shop"})
    assert refused(answer) == (409, "billing.still_paid")
    await bounce(live_db, part)
    assert (await ask(live_db, "POST", path, {"reason": "closed the shop"})).status_code == 200
