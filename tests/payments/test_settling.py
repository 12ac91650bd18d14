"""Facts: each has one effect, in whatever order and however often it is told."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from bursar.payments.providers import SavedMethod, What
from tests.accounts.people import rows
from tests.conftest import Live
from tests.payments.tills import (
    cancelled,
    captured,
    changes,
    company,
    fact,
    intend,
    refunded,
    row_of,
    service,
    state,
    tell,
)
from tests.wallets.purses import balance_of, charge, freeze, fund, move_in
from tests.world import CARL, DORA


async def test_what_was_captured_is_in_the_wallet(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    [applied] = await tell(live_db, captured(payment, 20, fee=Decimal("0.88")))
    assert (applied.what, applied.payment_id) == ("done", payment)
    assert await state(live_db, payment) == ("completed", 20, 0)
    assert await balance_of(live_db, CARL) == 20
    assert await company(live_db) == {"clearing": Decimal("-19.12"), "fees": Decimal("-0.88")}
    assert await changes(live_db, payment) == ["pending", "completed"]
    assert (await row_of(live_db, payment))["payment_date"] is not None
    query = "select payload ->> 'purpose' as purpose from events where name = 'payments.completed'"
    assert [row["purpose"] for row in await rows(live_db, query)] == ["top_up"]


async def test_what_is_paid_for_something_is_revenue(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, purpose="service", service_id=await service(live_db))
    await tell(live_db, captured(payment, 20))
    assert await balance_of(live_db, CARL) == 0
    assert await company(live_db) == {"clearing": -20, "revenue": 20}


async def test_the_same_fact_at_once_from_many_sides_is_one_credit(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    told = await asyncio.gather(*(tell(live_db, captured(payment, 20)) for _ in range(12)))
    effects = sorted(applied.what for [applied] in told)
    assert effects == ["done", *["known"] * 11]
    assert await balance_of(live_db, CARL) == 20
    assert await changes(live_db, payment) == ["pending", "completed"]


async def test_any_order_of_facts_ends_the_same(live_db: Live) -> None:
    await move_in(live_db)
    for order in itertools.permutations(range(4)):
        payment = await intend(live_db, CARL, 20)
        told = [
            captured(payment, 20, fee=Decimal(1)),
            fact(payment, What.DECLINED, f"pi_{payment}", code="card_declined"),
            cancelled(payment),
            refunded(payment, f"re_{payment}", 5),
        ]
        waiting = [told[place] for place in order]
        while (
            waiting
        ):  # what is about something that is not here yet is told again, as the inbox does
            again = []
            for each in waiting:
                [applied] = await tell(live_db, each)
                if applied.what == "not_here":
                    again.append(each)
            waiting = again
        assert await state(live_db, payment) == ("partially_refunded", 20, 5), order
    assert await balance_of(live_db, CARL) == 15 * 24


@pytest.mark.parametrize(("amount", "currency"), [(21, "USD"), (20, "EUR"), ("20.01", "USD")])
async def test_what_was_not_asked_for_is_not_credited(
    live_db: Live, amount: int | str, currency: str
) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    [applied] = await tell(live_db, captured(payment, amount, currency=currency))
    assert applied.what == "differs"
    assert await state(live_db, payment) == ("pending", 0, 0)
    assert await company(live_db) == {}


async def test_less_than_was_asked_for_is_what_is_credited(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await tell(live_db, captured(payment, 12))
    assert await state(live_db, payment) == ("completed", 12, 0)
    assert await balance_of(live_db, CARL) == 12


async def test_a_fact_finds_its_payment_by_the_providers_ids(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, stripe_payment_intent_id="pi_77")
    by_intent = {"stripe_payment_intent_id": "pi_77"}
    told = captured(payment, 20, payment=by_intent, ids={"stripe_charge_id": "ch_1"})
    assert [each.what for each in await tell(live_db, told)] == ["done"]
    assert (await row_of(live_db, payment))["stripe_charge_id"] == "ch_1"


@pytest.mark.parametrize(
    "payment", [{}, {"id": "no uuid"}, {"id": str(CARL.id)}, {"stripe_charge_id": "ch_0"}]
)
async def test_a_fact_about_nothing_that_is_here_waits(
    live_db: Live, payment: dict[str, str]
) -> None:
    [applied] = await tell(live_db, captured(CARL.id, 20, payment=payment))  # type: ignore[arg-type]
    assert (applied.what, applied.payment_id) == ("not_here", None)


async def test_another_providers_fact_does_not_touch_a_payment(live_db: Live) -> None:
    """Whoever can sign as one provider says nothing about the payments of another."""
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    [applied] = await tell(live_db, captured(payment, 20, provider="demo"))
    assert applied.what == "not_here"
    assert await state(live_db, payment) == ("pending", 0, 0)


async def test_money_for_a_closed_wallet_waits_for_staff(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await freeze(live_db, CARL, "closed")
    await tell(live_db, captured(payment, 20))
    row = await row_of(live_db, payment)
    assert (row["status"], row["unclaimed"]) == ("completed", True)
    assert await company(live_db) == {"clearing": -20, "suspense": 20}


async def test_money_for_a_frozen_wallet_comes_in(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await freeze(live_db, CARL)
    await tell(live_db, captured(payment, 20))
    assert await balance_of(live_db, CARL) == 20


async def test_a_fee_that_is_told_late_is_paid_once(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    late = captured(payment, 20, fee=Decimal("0.50"))
    told = await tell(live_db, captured(payment, 20), late, late)
    assert [each.what for each in told] == ["done", "done", "known"]
    assert await company(live_db) == {"clearing": Decimal("-19.5"), "fees": Decimal("-0.5")}


async def test_money_counts_although_the_payment_was_given_up(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    told = await tell(live_db, cancelled(payment), cancelled(payment), captured(payment, 20))
    assert [each.what for each in told] == ["done", "known", "done"]
    assert await changes(live_db, payment) == ["pending", "failed", "completed"]
    assert await balance_of(live_db, CARL) == 20


async def test_a_declined_attempt_leaves_the_payment_open(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    no = fact(
        payment, What.DECLINED, "pi_1", code="card_declined", reason="Your card was declined."
    )
    await tell(live_db, no)
    row = await row_of(live_db, payment)
    assert (row["status"], row["failure_code"]) == ("pending", "card_declined")
    await tell(live_db, captured(payment, 20))
    row = await row_of(live_db, payment)
    assert (row["status"], row["failure_code"]) == ("completed", None)


async def test_a_saved_method_is_kept_once_and_the_first_is_the_default(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)

    def saved(token: str) -> SavedMethod:
        return SavedMethod(token, "card", "visa", "4242", 12, 2030)

    for token in ("pm_1", "pm_1", "pm_2"):
        await tell(
            live_db,
            fact(payment, What.METHOD_SAVED, token, method=saved(token), customer_id="cus_1"),
        )
    query = "select token, last_four, is_default from payment_methods order by created_at, id"
    assert [tuple(row) for row in await rows(live_db, query)] == [
        ("pm_1", "4242", True),
        ("pm_2", "4242", False),
    ]
    [customer] = await rows(live_db, "select customer_id from provider_customers")
    assert customer["customer_id"] == "cus_1"


async def test_a_refund_at_the_providers_own_page_is_a_refund(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    again = refunded(payment, "re_1", 8)
    told = await tell(live_db, captured(payment, 20), again, again)
    assert [each.what for each in told] == ["done", "done", "known"]
    assert await state(live_db, payment) == ("partially_refunded", 20, 8)
    assert await balance_of(live_db, CARL) == 12
    assert await company(live_db) == {"clearing": -12}


async def test_what_the_wallet_has_spent_already_is_the_companys_loss(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await tell(live_db, captured(payment, 20))
    await charge(live_db, CARL, 15)
    await tell(live_db, refunded(payment, "re_1", 20))
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await balance_of(live_db, CARL) == 0
    assert await company(live_db) == {"revenue": 15, "adjustments": -15}


async def test_more_than_was_left_did_not_go_back(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    told = await tell(
        live_db, captured(payment, 20), refunded(payment, "re_1", 15), refunded(payment, "re_2", 6)
    )
    assert [each.what for each in told] == ["done", "done", "differs"]
    assert await state(live_db, payment) == ("partially_refunded", 20, 15)


async def test_a_refund_without_room_beside_a_lost_dispute_is_its_money(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    again, late = refunded(payment, "re_1", 20), refunded(payment, "re_2", 20)
    opened, lost = (
        fact(payment, what, "dp_1", 20) for what in (What.DISPUTE_OPENED, What.DISPUTE_LOST)
    )
    told = await tell(live_db, captured(payment, 20), opened, again, lost, again, late)
    assert [each.what for each in told] == ["done", "done", "not_here", "done", "known", "known"]
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await company(live_db) == {}


@pytest.mark.parametrize("end", [What.DISPUTE_LOST, What.DISPUTE_WON])
async def test_a_reversal_that_overtakes_its_dispute_waits_for_it(live_db: Live, end: What) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    taken = refunded(payment, "re_1", 20, is_reversal=True, happened_at=datetime.now(UTC))
    told = await tell(live_db, captured(payment, 20), taken, fact(payment, end, "dp_1", 20), taken)
    won = end == What.DISPUTE_WON
    effects = ["done", "not_here", "done", "done" if won else "known"]
    assert [each.what for each in told] == effects
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await balance_of(live_db, CARL) == 0
    assert await company(live_db) == {}


async def test_a_reversal_without_a_dispute_is_a_refund(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    hours_ago = datetime.now(UTC) - timedelta(hours=2)
    taken = refunded(payment, "re_1", 20, is_reversal=True, happened_at=hours_ago)
    told = await tell(live_db, captured(payment, 20), taken)
    assert [each.what for each in told] == ["done", "done"]
    assert await state(live_db, payment) == ("refunded", 20, 20)


async def test_the_rest_of_a_payment_is_refunded_after_a_lost_dispute(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    opened, lost = (
        fact(payment, what, "dp_1", 12) for what in (What.DISPUTE_OPENED, What.DISPUTE_LOST)
    )
    twice = refunded(payment, "re_1", 12, is_reversal=True)
    rest = refunded(payment, "re_2", 8)
    told = await tell(live_db, captured(payment, 20), opened, lost, twice, rest)
    assert [each.what for each in told] == ["done", "done", "done", "known", "done"]
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await company(live_db) == {}


async def test_a_dispute_holds_and_releases(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    won = fact(payment, What.DISPUTE_WON, "dp_1", 20)
    await tell(live_db, captured(payment, 20), opened, opened)
    assert await balance_of(live_db, CARL) == 0
    assert (await row_of(live_db, payment))["disputed"] == 20
    assert await company(live_db) == {}
    told = await tell(live_db, won, won, opened)
    assert [each.what for each in told] == ["done", "known", "known"]
    assert await balance_of(live_db, CARL) == 20
    assert (await row_of(live_db, payment))["disputed"] == 0
    assert await company(live_db) == {"clearing": -20}


async def test_a_lost_dispute_takes(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    await fund(live_db, CARL, 3)
    await tell(live_db, captured(payment, 20))
    await charge(live_db, CARL, 18)
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    lost = fact(payment, What.DISPUTE_LOST, "dp_1", 20)
    await tell(live_db, opened)
    assert await balance_of(live_db, CARL) == 0  # 5 was there
    await tell(live_db, lost, lost)
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await company(live_db) == {"clearing": -3, "revenue": 18, "disputes": -15}


async def test_a_dispute_that_is_told_backwards(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    lost = fact(payment, What.DISPUTE_LOST, "dp_1", 20)
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    told = await tell(live_db, lost, captured(payment, 20), lost, opened)
    assert [each.what for each in told] == ["not_here", "done", "done", "known"]
    assert await state(live_db, payment) == ("refunded", 20, 20)


async def test_a_dispute_about_what_went_back_already_counts_the_rest(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, DORA, 20, purpose="service", service_id=await service(live_db))
    opened = fact(payment, What.DISPUTE_OPENED, "dp_1", 20)
    lost = fact(payment, What.DISPUTE_LOST, "dp_1", 20)
    await tell(live_db, captured(payment, 20), refunded(payment, "re_1", 5), opened)
    row = await row_of(live_db, payment)
    assert (row["refunded"], row["disputed"]) == (5, 15)
    await tell(live_db, lost)
    assert await state(live_db, payment) == ("refunded", 20, 20)
    assert await company(live_db) == {"clearing": 5, "disputes": -5}
