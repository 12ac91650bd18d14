"""Facts that contradict each other, or come backwards: no money twice, and staff see it."""

from decimal import Decimal

import pytest

from bursar.core.database import WORKER
from bursar.payments import asking, refunds
from bursar.payments.models import Destination, ProviderState
from bursar.payments.providers import Answer, What
from tests.accounts.people import rows
from tests.conftest import Live
from tests.payments.tills import (
    cancelled,
    captured,
    company,
    fact,
    intend,
    refunded,
    row_of,
    service,
    state,
    tell,
)
from tests.wallets.purses import balance_of, freeze, move_in
from tests.world import CARL


async def test_a_second_order_for_the_same_payment_credits_nothing(live_db: Live) -> None:
    """Two intents were made for it, and both were paid: the second is for staff to send back."""
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, stripe_payment_intent_id="pi_1")
    second = {"stripe_payment_intent_id": "pi_2", "id": str(payment)}
    told = await tell(
        live_db,
        captured(payment, 20, object_id="pi_2", payment=second),
        captured(payment, 20, object_id="pi_1"),
        captured(payment, 20, object_id="pi_2", payment=second),
        fact(payment, What.REFUNDED, "re_2", 20, payment=second),
    )
    assert [each.what for each in told] == ["differs", "done", "differs", "differs"]
    assert await balance_of(live_db, CARL) == 20


async def test_what_becomes_of_a_second_order_does_not_end_the_first(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, stripe_payment_intent_id="pi_1")
    second = {"stripe_payment_intent_id": "pi_2", "id": str(payment)}
    told = await tell(live_db, cancelled(payment, payment=second))
    assert [each.what for each in told] == ["known"]
    assert await state(live_db, payment) == ("pending", Decimal(0), Decimal(0))


@pytest.mark.parametrize("amount", [0, -1])
async def test_no_money_is_no_payment(live_db: Live, amount: int) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    assert [each.what for each in await tell(live_db, captured(payment, amount))] == ["differs"]
    assert await company(live_db) == {}


async def test_staff_see_on_the_payment_what_differs(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await tell(live_db, captured(payment, 21))
    row = await row_of(live_db, payment)
    assert (row["failure_code"], row["failure_reason"]) == (
        "differs",
        "21 USD came, 20 USD was asked for",
    )


async def test_the_attempt_that_took_the_money_is_the_one_that_stays(live_db: Live) -> None:
    """Refunds and disputes name the charge; one that was declined is none."""
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    first, second = ({"stripe_charge_id": name} for name in ("ch_1", "ch_2"))
    await tell(
        live_db,
        fact(payment, What.DECLINED, "pi_1", code="card_declined", ids=first),
        captured(payment, 20, ids=second),
        captured(payment, 20, ids=first),
    )
    assert (await row_of(live_db, payment))["stripe_charge_id"] == "ch_2"


async def test_a_dispute_that_is_won_before_it_is_told_takes_nothing(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    won = fact(payment, What.DISPUTE_WON, "dp_1", 20)
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    told = await tell(live_db, captured(payment, 20), won, opened, won)
    assert [each.what for each in told] == ["done", "done", "known", "known"]
    assert await balance_of(live_db, CARL) == 20
    assert await company(live_db) == {"clearing": -20}
    [row] = await rows(live_db, "select status, held from disputes")
    assert tuple(row) == ("won", 0)


async def test_a_refund_that_may_be_ours_waits_for_our_answer(live_db: Live) -> None:
    """A provider that does not tell our id back: its webhook overtakes the answer to our call."""
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await tell(live_db, captured(payment, 20))
    async with live_db.database.transaction(WORKER) as db:
        ours, _ = await refunds.request(db, payment, Decimal(20))
    overtaking = refunded(payment, "re_1", 20)
    assert [each.what for each in await tell(live_db, overtaking)] == ["not_here"]
    answer = Answer(ProviderState.DONE, (overtaking,), {"provider_refund_id": "re_1"})
    async with live_db.database.transaction(WORKER) as db:
        await asking.hear_refund(db, ours.id, "stripe", answer)
    assert [each.what for each in await tell(live_db, overtaking)] == ["known"]
    assert await state(live_db, payment) == ("refunded", Decimal(20), Decimal(20))
    assert await balance_of(live_db, CARL) == 0


@pytest.mark.parametrize("shut", [False, True])
async def test_a_refund_that_failed_before_it_was_done(live_db: Live, *, shut: bool) -> None:
    """Told backwards, it ends as if it had been told in order: the customer has the money."""
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, purpose="service", service_id=await service(live_db))
    await tell(live_db, captured(payment, 20))
    async with live_db.database.transaction(WORKER) as db:
        ours, _ = await refunds.request(db, payment, Decimal(5))
    if shut:
        await freeze(live_db, CARL, "closed")
    mine = {"refund_id": str(ours.id)}
    done = refunded(payment, "re_1", 5, **mine)
    sent_back = fact(payment, What.REFUND_FAILED, "re_1", 5, **mine)
    told = await tell(live_db, sent_back, done, done, sent_back)
    assert [each.what for each in told] == ["done", "done", "known", "known"]
    assert await state(live_db, payment) == ("partially_refunded", Decimal(20), Decimal(5))
    assert await balance_of(live_db, CARL) == (0 if shut else 5)
    kept = {"suspense": Decimal(5)} if shut else {}
    assert await company(live_db) == {"clearing": -20, "revenue": 15, **kept}


async def test_what_the_provider_refused_cannot_be_done(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await tell(live_db, captured(payment, 20))
    async with live_db.database.transaction(WORKER) as db:
        ours, _ = await refunds.request(db, payment, Decimal(5), destination=Destination.PROVIDER)
    async with live_db.database.transaction(WORKER) as db:
        await asking.hear_refund(db, ours.id, "stripe", Answer(ProviderState.GONE, code="no"))
    assert await balance_of(live_db, CARL) == 20
    [told] = await tell(live_db, refunded(payment, "re_1", 5, refund_id=str(ours.id)))
    assert told.what == "differs"


async def test_a_refund_during_a_dispute_waits_for_its_end(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    there = refunded(payment, "re_1", 5)
    won = fact(payment, What.DISPUTE_WON, "dp_1", 20)
    told = await tell(live_db, captured(payment, 20), opened, there, won, there)
    assert [each.what for each in told] == ["done", "done", "not_here", "done", "done"]
    assert await balance_of(live_db, CARL) == 15
