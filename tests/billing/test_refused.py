"""What no invoice needs and a provider refuses to give back is in the customer's wallet, once."""

import logging
from decimal import Decimal
from uuid import UUID

import pytest

from bursar.payments.providers import What
from tests.accounts.people import rows
from tests.billing.meterman import collect, hear
from tests.billing.payers import TOTAL, an_hour_later, bounce, paid, payment_for
from tests.billing.test_invoices import invoice
from tests.billing.test_surplus import by_an_old_page, hear_again
from tests.billing.test_taken import CARD, GIVEN, OWED
from tests.conftest import Live
from tests.payments.tills import company, fact, state, tell
from tests.wallets.purses import balance_of
from tests.world import CARL

ASKED = "select id from refunds where payment_id = $1 and destination = 'provider'"


async def asked_for(live: Live, payment: UUID) -> UUID:
    """The one refund that the provider was asked for: it is never asked again."""
    [asked] = await rows(live, ASKED, payment)
    found: UUID = asked["id"]
    return found


async def says(live: Live, payment: UUID, what: What) -> str:
    its_id = await asked_for(live, payment)
    given = {"refund_id": str(its_id), "reason": "expired_or_canceled_card"}
    [applied] = await tell(live, fact(payment, what, f"re_{its_id}", **given))
    return applied.what


async def refuses(live: Live, payment: UUID) -> None:
    """Told twice, and heard at each time and once more."""
    for _ in range(2):
        await says(live, payment, What.REFUND_FAILED)
        await hear_again(live)
    await an_hour_later(live)
    await hear_again(live)
    await collect(live)


async def second_of(live: Live, its_id: str) -> UUID:
    """It comes when the invoice is settled already, and is on its way back."""
    second = await payment_for(live, its_id, **CARD)
    assert (await state(live, second))[0] == "completed"
    return second


async def test_a_surplus_that_is_refused_goes_into_the_wallet_once(live_db: Live) -> None:
    _, old = await by_an_old_page(live_db)
    before = await balance_of(live_db, CARL)
    await refuses(live_db, old)
    assert await balance_of(live_db, CARL) == before + GIVEN
    assert await asked_for(live_db, old)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["refunded"]) == ("paid", str(old), 0)
    assert (await company(live_db))["revenue"] == OWED


async def test_so_does_a_second_payment(live_db: Live) -> None:
    its_id, first = await paid(live_db)
    second = await second_of(live_db, its_id)
    await refuses(live_db, second)
    assert await balance_of(live_db, CARL) == TOTAL
    assert await asked_for(live_db, second)
    assert (await state(live_db, second))[0] == "refunded"
    assert (await invoice(live_db))["payment_id"] == str(first)
    assert (await company(live_db))["revenue"] == TOTAL


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("ends", [(), (What.DISPUTE_LOST,), (What.DISPUTE_WON,)])
async def test_what_is_refused_for_being_contested_is_no_gift(
    live_db: Live, is_first: bool, ends: tuple[What, ...]
) -> None:
    """All of it was on its way back, so that nothing of it counts as contested. Who wins it back at
    the provider has it from there; where we win, the provider is asked again."""
    its_id, _ = await paid(live_db)
    second = await second_of(live_db, its_id)
    its_name = "update refunds set provider_refund_id = 're_' || id where payment_id = $1"
    await rows(live_db, its_name, second)  # Stripe has taken it on
    told = [What.DISPUTE_OPENED, What.REFUND_FAILED]
    for what in (*(told if is_first else reversed(told)), *ends):
        if what == What.REFUND_FAILED:
            assert await says(live_db, second, what) == "done"
        else:
            [applied] = await tell(live_db, fact(second, what, "dp_1", TOTAL))
            assert applied.what == "done", applied
        await hear(live_db)
    await an_hour_later(live_db)
    await hear_again(live_db)
    assert await balance_of(live_db, CARL) == 0
    asked = await rows(live_db, ASKED, second)
    assert len(asked) == (2 if ends == (What.DISPUTE_WON,) else 1)


async def test_what_was_done_before_it_was_refused_is_no_second_gift(live_db: Live) -> None:
    """Told backwards: the bank had sent it back, and the wallet has it already."""
    its_id, _ = await paid(live_db)
    second = await second_of(live_db, its_id)
    await refuses(live_db, second)
    for _ in range(2):
        assert await says(live_db, second, What.REFUNDED) == "known"
        await hear_again(live_db)
    assert await balance_of(live_db, CARL) == TOTAL
    assert (await company(live_db))["revenue"] == TOTAL


@pytest.mark.parametrize("backwards", [False, True])
async def test_what_a_bank_sends_back_is_in_the_wallet_once(live_db: Live, backwards: bool) -> None:
    its_id, _ = await paid(live_db)
    second = await second_of(live_db, its_id)
    order = [What.REFUNDED, What.REFUND_FAILED]
    for what in reversed(order) if backwards else order:
        await says(live_db, second, what)
    await hear(live_db)
    await hear_again(live_db)
    assert await balance_of(live_db, CARL) == TOTAL
    assert (await state(live_db, second))[0] == "refunded"


async def test_one_that_is_needed_meanwhile_pays_at_once(live_db: Live) -> None:
    """The first one bounced while the second was on its way back."""
    its_id, first = await paid(live_db)
    second = await second_of(live_db, its_id)
    await bounce(live_db, first)
    await hear(live_db)
    assert (await invoice(live_db))["status"] == "open"
    await says(live_db, second, What.REFUND_FAILED)
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(second))
    assert await balance_of(live_db, CARL) == 0


async def test_a_refund_by_staff_that_is_refused_stays_with_the_invoice(live_db: Live) -> None:
    _, payment = await paid(live_db, **CARD)
    asked = "insert into refunds (payment_id, amount, requested_by) values ($1, 1, 'staff')"
    await rows(live_db, asked, payment)
    await refuses(live_db, payment)
    assert await balance_of(live_db, CARL) == 0
    assert (await state(live_db, payment))[2] == Decimal(0)


async def test_where_the_customer_is_gone_it_waits_for_staff(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    its_id, _ = await paid(live_db)
    second = await second_of(live_db, its_id)
    for table in ("payments", "invoices"):
        await rows(live_db, f"update {table} set user_id = null")
    caplog.set_level(logging.WARNING)
    await says(live_db, second, What.REFUND_FAILED)
    await hear(live_db)
    await an_hour_later(live_db)
    assert f"1.72 USD of the payment {second} is nobody's" in caplog.text
    assert await asked_for(live_db, second)
    assert (await state(live_db, second))[2] == Decimal(0)
