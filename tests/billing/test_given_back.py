"""Money of an invoice that staff give back, or nobody needs; and what the database refuses."""

from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from bursar.payments.providers import What
from tests.accounts.people import rows
from tests.billing.meterman import ADMIN, ask, collect, hear
from tests.billing.payers import (
    BECAUSE,
    TOTAL,
    dispute,
    dispute_ends,
    give_back,
    letters,
    paid,
    payment_for,
    reopen,
)
from tests.billing.test_invoices import invoice, month_over
from tests.conftest import Live
from tests.payments.tills import captured, company, fact, intend, state, tell
from tests.wallets.purses import balance_of, fund, move_in, refused
from tests.world import ANNA, CARL, DORA


async def test_what_staff_give_back_leaves_it_paid_until_they_say_otherwise(
    live_db: Live,
) -> None:
    its_id, payment = await paid(live_db)
    still = await reopen(live_db, its_id)
    assert (refused(still), still.json()["kept"]) == ((409, "billing.still_paid"), 1.72)
    await give_back(live_db, payment, "0.70", destination="wallet")
    found = await invoice(live_db)
    assert (found["status"], found["refunded"]) == ("paid", Decimal("0.7"))
    assert refused(await reopen(live_db, its_id)) == (409, "billing.still_paid")
    cancelling = f"{ADMIN}/invoices/{its_id}/cancellation"
    assert refused(await ask(live_db, "POST", cancelling, BECAUSE)) == (
        409, "billing.invoice_closed",
    )  # fmt: skip
    await give_back(live_db, payment)
    assert ((await invoice(live_db))["status"], (await invoice(live_db))["refunded"]) == (
        "paid", TOTAL,
    )  # fmt: skip
    assert (await reopen(live_db, its_id, ANNA)).status_code == 403
    done = await reopen(live_db, its_id)
    assert (done.status_code, done.json()["status"]) == (200, "open")
    assert done.json()["reopenReason"] == BECAUSE["reason"]
    assert (await reopen(live_db, its_id)).json()["version"] == done.json()["version"]
    assert await letters(live_db, "invoice_reopened") == 1
    audited = "select count(*) from audit_logs where event_type = 'billing.invoice_reopened'"
    assert (await rows(live_db, audited))[0]["count"] == 1
    await fund(live_db, CARL, 5)
    await collect(live_db)
    assert (await invoice(live_db))["status"] == "paid"
    assert (await company(live_db))["revenue"] == TOTAL


async def test_what_was_given_back_can_be_given_up(live_db: Live) -> None:
    its_id, payment = await paid(live_db)
    await give_back(live_db, payment)
    path = f"{ADMIN}/invoices/{its_id}/cancellation"
    done = await ask(live_db, "POST", path, BECAUSE)
    assert (done.status_code, done.json()["status"]) == (200, "void"), done.text
    assert done.json()["paymentId"] is None
    assert refused(await reopen(live_db, its_id)) == (409, "billing.invoice_closed")
    late = await payment_for(live_db, its_id)
    assert await state(live_db, late) == ("refunded", TOTAL, TOTAL)
    assert await balance_of(live_db, CARL) == TOTAL


async def test_what_staff_have_reversed_is_taken_from_the_wallet_anew(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    await fund(live_db, CARL, 5)
    await collect(live_db)
    its_id = (await invoice(live_db))["id"]
    [moved] = await rows(
        live_db, "select id from transfers where id in (select operation_id from invoices)"
    )
    back = f"{ADMIN}/transfers/{moved['id']}/reversal"
    assert (await ask(live_db, "POST", back, BECAUSE)).status_code == 201
    found = await invoice(live_db)
    assert (found["status"], found["refunded"]) == ("paid", TOTAL)
    assert (await reopen(live_db, its_id)).status_code == 200
    await collect(live_db)
    again = await invoice(live_db)
    assert (again["status"], again["refunded"]) == ("paid", 0)
    assert again["operation_id"] != found["operation_id"]
    assert await balance_of(live_db, CARL) == 5 - TOTAL


@pytest.mark.parametrize("refuses", [False, True])
async def test_a_second_payment_that_was_contested_goes_back_once_that_is_won(
    live_db: Live, refuses: bool
) -> None:
    """Also where it was asked back before, and its provider has refused that: it was contested."""
    its_id, first = await paid(live_db)
    second = await payment_for(
        live_db, its_id, heard=refuses, payment_method="stripe", provider="stripe"
    )
    if refuses:
        [asked] = await rows(live_db, "select id, status from refunds")
        assert asked["status"] == "pending"
        gone = {"refund_id": str(asked["id"]), "reason": "contested"}
        await tell(live_db, fact(second, What.REFUND_FAILED, str(asked["id"]), **gone))
    await dispute(live_db, second)
    waiting = "select amount from refunds where status = 'pending'"
    assert await rows(live_db, waiting) == []
    await dispute_ends(live_db, second, What.DISPUTE_WON)
    assert [row["amount"] for row in await rows(live_db, waiting)] == [TOTAL]
    await hear(live_db)
    assert len(await rows(live_db, waiting)) == 1
    assert (await invoice(live_db))["payment_id"] == str(first)


async def test_of_two_payments_the_invoice_is_paid_by_the_one_that_nobody_contests(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await month_over(live_db)
    its_id = (await invoice(live_db))["id"]
    card = {"payment_method": "stripe", "provider": "stripe"}
    first = await payment_for(live_db, its_id, heard=False, **card)
    second = await payment_for(live_db, its_id, heard=False)
    await tell(live_db, fact(first, What.DISPUTE_OPENED, f"dp_{first}", TOTAL))
    await hear(live_db)
    assert (await invoice(live_db))["payment_id"] == str(second)
    await dispute_ends(live_db, first, What.DISPUTE_WON)
    [back] = await rows(live_db, "select payment_id, amount from refunds")
    assert (back["payment_id"], back["amount"]) == (first, TOTAL)


OPEN = "update invoices set status = 'open', reopen_reason = 'so it is'"
VOID = "update invoices set status = 'void', void_reason = 'so it is'"
SAID = "update invoices set reopened_at = now(), reopen_reason = 'so it is'"
FORGED = {
    "opened with its money here": (OPEN, "money for it is gone"),
    "given up with its money here": (VOID, "money for it is gone"),
    "given up with a part here": (VOID, "money for it is gone"),
    "due another day": ("update invoices set due_at = now()", "settled once"),
    "said to be open again": (SAID, "settled once"),
    "a part said to be taken": ("update refunds set taken = true", "only goes forward"),
}


@pytest.mark.parametrize("how", FORGED)
async def test_the_database_refuses_it_from_anybody(live_db: Live, how: str) -> None:
    _, payment = await paid(live_db)
    if "a part" in how:
        await give_back(live_db, payment, "0.01")
    statement, words = FORGED[how]
    with pytest.raises(asyncpg.PostgresError, match=words):
        await rows(live_db, statement)


async def test_it_is_paid_by_the_whole_and_by_what_was_for_it(live_db: Live) -> None:
    await move_in(live_db)
    await month_over(live_db)
    its_id = (await invoice(live_db))["id"]
    by = "update invoices set status = 'paid', paid_at = now(), payment_id = $1"
    other = await intend(live_db, CARL, TOTAL)
    await tell(live_db, captured(other, TOTAL))
    part = await intend(live_db, CARL, TOTAL, purpose="invoice", invoice_id=UUID(its_id))
    await tell(live_db, captured(part, "1.71"))
    for payment in (other, part):
        with pytest.raises(asyncpg.PostgresError, match="by the whole of what"):
            await rows(live_db, by, payment)
    [moved] = await rows(live_db, "select id from transfers limit 1")
    from_wallet = "update invoices set status = 'paid', paid_at = now(), operation_id = $1"
    with pytest.raises(asyncpg.PostgresError, match="by the whole of what"):
        await rows(live_db, from_wallet, moved["id"])


async def test_nobody_sees_what_is_kept_of_anothers(live_db: Live) -> None:
    its_id, _ = await paid(live_db)
    for who, expected in ((CARL, TOTAL), (DORA, None)):
        async with live_db.database.transaction(who.claim) as db:
            kept = await db.scalar(text("select invoice_money_kept(:id)"), {"id": its_id})
            assert kept == expected
