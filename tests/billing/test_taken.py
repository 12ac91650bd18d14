"""Of an invoice only that is owed again which was taken from us, and its customer is told how."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bursar.core.migrate import head
from bursar.payments.providers import What
from tests import databases
from tests.accounts.people import mails, rows
from tests.billing.meterman import ADMIN, ask, collect, hear
from tests.billing.payers import (
    BECAUSE,
    TOTAL,
    bounce,
    dispute,
    give_back,
    paid,
    payment_for,
    reopen,
)
from tests.billing.test_invoices import invoice, month_over
from tests.conftest import Live
from tests.payments.shop import Shop
from tests.payments.surroundings import save_method
from tests.payments.tills import captured, company, fact, intend, state, tell
from tests.wallets.purses import balance_of, fund, refused
from tests.world import ANNA, CARL

CARD = {"payment_method": "stripe", "provider": "stripe"}
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)
GIVEN, LOST = Decimal("0.70"), Decimal("0.10")
OWED = TOTAL - GIVEN


async def lost_after_refund(live: Live, lost: Decimal = LOST) -> tuple[str, UUID]:
    """Of 1.72 staff have given back 0.70 for good, and a dispute of some more is lost."""
    its_id, payment = await paid(live, **CARD)
    await give_back(live, payment, str(GIVEN), destination="wallet")
    assert ((await invoice(live))["status"], (await invoice(live))["to_pay"]) == ("paid", TOTAL)
    await dispute(live, payment, What.DISPUTE_LOST, amount=lost)
    return its_id, payment


async def pay(live: Live, its_id: str, amount: Decimal) -> UUID:
    facts = {"payment_method": "bank_transfer", "provider": "manual"}
    payment = await intend(live, CARL, amount, purpose="invoice", invoice_id=UUID(its_id), **facts)
    await tell(live, captured(payment, amount, provider="manual", object_id=f"pi_{payment}"))
    await hear(live)
    return payment


async def test_what_staff_gave_back_is_not_asked_for_again(live_db: Live) -> None:
    """1.72 was paid, 0.70 given back, 0.10 lost: 1.02 is to be here in the end, and is."""
    its_id, first = await lost_after_refund(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["total"], found["to_pay"]) == ("open", TOTAL, OWED)
    asked = await ask(live_db, "POST", "/api/v1/payments", {
        "invoice_id": its_id, "amount": str(TOTAL), "payment_method": "bank_transfer",
    }, who=CARL)  # fmt: skip
    assert (refused(asked), asked.json()["due"]) == ((422, "payments.wrong_amount"), float(OWED))
    second = await pay(live_db, its_id, OWED)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["refunded"]) == ("paid", str(second), 0)
    [back] = await rows(
        live_db, "select amount from refunds where payment_id = $1 and status = 'pending'", first
    )
    assert back["amount"] == TOTAL - GIVEN - LOST
    assert (await company(live_db))["revenue"] == OWED
    assert await balance_of(live_db, CARL) == GIVEN


async def test_the_wallet_pays_no_more_than_that(live_db: Live) -> None:
    _, payment = await lost_after_refund(live_db)
    await give_back(live_db, payment, destination="wallet")
    assert await balance_of(live_db, CARL) == TOTAL - LOST
    await collect(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["to_pay"]) == ("paid", OWED)
    assert await balance_of(live_db, CARL) == TOTAL - LOST - OWED
    assert (await company(live_db))["revenue"] == OWED


async def test_what_is_forgiven_stays_so(live_db: Live) -> None:
    """Also where what was paid instead bounces; staff then still ask for no more."""
    its_id, _ = await lost_after_refund(live_db, lost=TOTAL - GIVEN)
    for _ in range(2):
        second = await pay(live_db, its_id, OWED)
        assert (await invoice(live_db))["status"] == "paid"
        await bounce(live_db, second)
        await hear(live_db)
        found = await invoice(live_db)
        assert (found["status"], found["to_pay"]) == ("open", OWED)
    third = await pay(live_db, its_id, OWED)
    await give_back(live_db, third, destination="wallet")
    again = await reopen(live_db, its_id)
    assert (again.status_code, again.json()["toPay"]) == (200, float(OWED))
    with pytest.raises(asyncpg.PostgresError, match="by the whole of what is to be paid"):
        await rows(
            live_db, "update invoices set status = 'paid', paid_at = now(), payment_id = $1", third
        )


async def test_a_refund_that_is_still_under_way_counts_as_given(live_db: Live) -> None:
    _, payment = await paid(live_db, **CARD)
    asked = "insert into refunds (payment_id, amount, requested_by) values ($1, $2, 'staff')"
    await rows(live_db, asked, payment, GIVEN)
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    assert (await invoice(live_db))["to_pay"] == OWED


async def test_nobody_forgives_by_hand(live_db: Live) -> None:
    await paid(live_db)
    await rows(live_db, "update invoices set forgiven = 1")
    assert (await invoice(live_db))["to_pay"] == TOTAL


# What the mail says


async def told(live: Live) -> str:
    found = await mails(live, "carl@example.com")
    [mail] = [each for each in found if each.template == "invoice_reopened"]
    return " ".join(str(mail.words).split())


async def test_it_says_that_a_part_keeps_the_wallet_waiting(live_db: Live) -> None:
    await lost_after_refund(live_db)
    words = await told(live_db)
    assert "nothing is taken from your wallet" in words
    assert "1.02 USD is to be paid again" in words


async def test_it_says_that_another_payment_is_under_way(live_db: Live) -> None:
    its_id, payment = await paid(live_db)
    await intend(live_db, CARL, TOTAL, purpose="invoice", invoice_id=UUID(its_id))
    await bounce(live_db, payment)
    await hear(live_db)
    words = await told(live_db)
    assert "Another payment of it is under way" in words
    await fund(live_db, CARL, 5)
    await collect(live_db)
    assert (await invoice(live_db))["status"] == "open"  # as it has said


@pytest.mark.parametrize("contested", [False, True])
async def test_it_says_whether_the_saved_method_is_tried(shop: Shop, contested: bool) -> None:
    live = shop.live
    await month_over(live)
    await save_method(live, CARL, "pm_ok")
    await collect(live)
    await collect(live)
    payment = UUID((await invoice(live))["payment_id"])
    if contested:
        await dispute(live, payment, What.DISPUTE_LOST)
    else:
        gone = fact(payment, What.REFUNDED, "re_1", TOTAL, is_reversal=True, happened_at=LONG_AGO)
        await tell(live, gone)
        await hear(live)
    words = await told(live)
    [row] = await rows(live, "select next_try_at from invoices")
    tried = f"your default payment method from {row['next_try_at']:%Y-%m-%d} on"
    assert (tried in words) is not contested


# Money that was taken before that opened an invoice


async def as_of_0030(live: Live) -> None:
    """And upgraded from there."""
    gone = ("forgiven", "taken_before", "taken_known")
    for column in gone:
        await rows(live, f"alter table invoices drop column {column}")
    await rows(live, "update alembic_version set version_num = '20261129_0030'")
    await databases.advance(live.url, "20261129_0033")  # what came later is there already
    await rows(live, "update alembic_version set version_num = $1", head())
    await rows(live, "grant update (taken_known) on invoices to worker_user")  # as its file does


async def overlooked(live: Live, **given: Any) -> list[str]:
    answer = await ask(live, "GET", f"{ADMIN}/invoices?taken=true", **given)
    assert answer.status_code == 200, answer.text
    return [each["id"] for each in answer.json()["invoices"]]


REVERSED = r"""
insert into payment_events (provider, event_id, type, payload, status)
values ('paypal', 'WH-1', $1, '{"resource": {"id": "re_1"}}', 'done'),
  ('paypal', 'WH-2', $1, '{"note": "\u0000", "resource": {"id": "re_2"}}', 'done')
"""  # JSON of which PostgreSQL reads nothing stops no upgrade


@pytest.mark.parametrize("what", ["REVERSED", "REFUNDED"])
async def test_staff_find_what_paypal_had_reversed(live_db: Live, what: str) -> None:
    its_id, payment = await paid(live_db, payment_method="paypal", provider="paypal")
    gone = fact(payment, What.REFUNDED, "re_1", "1.00", provider="paypal")
    await tell(live_db, gone)  # all that older releases knew of it
    await rows(live_db, REVERSED, f"PAYMENT.CAPTURE.{what}")
    await hear(live_db)
    assert (await invoice(live_db))["status"] == "paid"
    await as_of_0030(live_db)
    assert (await invoice(live_db))["status"] == "paid"
    answer = await reopen(live_db, its_id)
    if what == "REFUNDED":
        assert refused(answer) == (409, "billing.still_paid")
        assert await overlooked(live_db) == []
    else:
        assert (answer.status_code, answer.json()["toPay"]) == (200, float(TOTAL))


@pytest.mark.parametrize("how", ["bounced", "lost"])
async def test_staff_find_what_was_taken_and_nobody_heard_of(live_db: Live, how: str) -> None:
    """As it was before 0020: a bounce and a lost dispute opened nothing."""
    given = CARD if how == "lost" else {}
    its_id, payment = await paid(live_db, **given)
    if how == "lost":
        await tell(live_db, fact(payment, What.DISPUTE_LOST, "dp_1", "0.50"))
    else:
        await bounce(live_db, payment)
    await as_of_0030(live_db)
    assert await overlooked(live_db, who=ANNA) == [its_id]
    mine = await ask(live_db, "GET", "/api/v1/invoices?taken=true", who=CARL)
    assert len(mine.json()["invoices"]) == 1  # customers see their own as ever
    done = await reopen(live_db, its_id)
    assert (done.status_code, done.json()["status"]) == (200, "open")
    assert done.json()["reopenReason"] == BECAUSE["reason"]
    assert await overlooked(live_db) == []
    second = await payment_for(live_db, its_id)
    assert (await invoice(live_db))["payment_id"] == str(second)
    assert (await state(live_db, second))[0] == "completed"
