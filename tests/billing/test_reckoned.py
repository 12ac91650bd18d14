"""A taking opens an invoice once, whatever is told afterwards: what staff give back never does."""

import itertools
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from bursar.payments.providers import What
from tests.accounts.people import rows
from tests.billing.meterman import collect, hear
from tests.billing.payers import TOTAL, an_hour_later, dispute, give_back, letters, paid, reopen
from tests.billing.test_invoices import invoice
from tests.billing.test_surplus import going_back, hear_again, page
from tests.billing.test_taken import CARD, GIVEN, LOST, OWED, as_of_0030, overlooked, pay
from tests.conftest import Live
from tests.payments.tills import captured, company, fact, tell
from tests.wallets.purses import balance_of, refused
from tests.world import CARL

HALF = Decimal("0.50")
GOODWILL = Decimal("0.30")


async def settled_by_a_rest(live: Live) -> tuple[str, UUID]:
    """1.02 is asked for. An old page has brought 1.72: 0.50 of it is lost, and 0.20 goes back."""
    its_id, payment = await paid(live, **CARD)
    old = await page(live, its_id)
    await give_back(live, payment, str(GIVEN), destination="wallet")
    await dispute(live, payment, What.DISPUTE_LOST, amount=LOST)
    await tell(live, captured(old, TOTAL))
    await lose(live, old, "dp_2", HALF)
    await hear(live)
    found = await invoice(live)
    assert (found["status"], found["payment_id"], found["to_pay"]) == ("paid", str(old), OWED)
    assert await going_back(live, old) == [GIVEN - HALF]
    return its_id, old


async def lose(live: Live, payment: UUID, named: str, amount: Decimal) -> None:
    for what in (What.DISPUTE_OPENED, What.DISPUTE_LOST):
        await tell(live, fact(payment, what, named, amount))


async def ends(live: Live, payment: UUID, what: What) -> None:
    """Of the surplus that is on its way back."""
    asked = "select id from refunds where payment_id = $1 and destination = 'provider'"
    [row] = await rows(live, asked, payment)
    await tell(live, fact(payment, what, "re_surplus", refund_id=str(row["id"])))
    await hear(live)


async def stays_paid(live: Live) -> None:
    for _ in range(2):
        assert (await invoice(live))["status"] == "paid"
        await hear_again(live)
    await collect(live)
    assert (await invoice(live))["status"] == "paid"


@pytest.mark.parametrize("done", [False, True])
async def test_what_staff_give_back_of_a_rest_leaves_it_paid(live_db: Live, done: bool) -> None:
    its_id, old = await settled_by_a_rest(live_db)
    mails = await letters(live_db, "invoice_reopened")
    if done:
        await ends(live_db, old, What.REFUNDED)
    await give_back(live_db, old, str(GOODWILL), destination="wallet")
    await stays_paid(live_db)
    await tell(live_db, fact(old, What.DISPUTE_OPENED, "dp_3", "0.10"))
    await hear(live_db)
    await stays_paid(live_db)
    assert await letters(live_db, "invoice_reopened") == mails
    assert await overlooked(live_db) == []
    assert refused(await reopen(live_db, its_id)) == (409, "billing.still_paid")


async def test_what_is_lost_later_opens_it_less_what_was_given(live_db: Live) -> None:
    _, old = await settled_by_a_rest(live_db)
    await give_back(live_db, old, str(GOODWILL), destination="wallet")
    await lose(live_db, old, "dp_3", LOST)
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["to_pay"]) == ("open", OWED - GOODWILL)


async def test_where_all_is_given_back_the_same_is_asked_for(live_db: Live) -> None:
    its_id, old = await settled_by_a_rest(live_db)
    await give_back(live_db, old, destination="wallet")
    await stays_paid(live_db)
    await ends(live_db, old, What.REFUNDED)
    answer = await reopen(live_db, its_id)
    assert (answer.status_code, answer.json()["toPay"]) == (200, float(OWED))


@pytest.mark.parametrize("then", [What.REFUNDED, What.REFUND_FAILED])
async def test_a_loss_is_heard_while_a_surplus_is_on_its_way_back(
    live_db: Live, then: What
) -> None:
    """0.20 is on its way back when 0.10 more is lost: what is left is not enough."""
    _, old = await settled_by_a_rest(live_db)
    await lose(live_db, old, "dp_3", LOST)
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["to_pay"]) == ("open", OWED)
    before = await balance_of(live_db, CARL)
    await ends(live_db, old, then)
    await hear_again(live_db)
    found = await invoice(live_db)
    if then == What.REFUNDED:
        assert found["status"] == "open"
    else:  # it is enough after all, and what is more goes into the wallet
        assert (found["status"], found["payment_id"]) == ("paid", str(old))
        await an_hour_later(live_db)
        assert await balance_of(live_db, CARL) == before + GIVEN - HALF - LOST
        assert (await company(live_db))["revenue"] == OWED


async def test_what_is_lost_of_a_surplus_opens_nothing_later(live_db: Live) -> None:
    """0.70 more than is asked for is here, and 0.50 of that is lost before it goes back."""
    its_id, payment = await paid(live_db, **CARD)
    old = await page(live_db, its_id)
    await give_back(live_db, payment, str(GIVEN), destination="wallet")
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    facts = captured(old, TOTAL), fact(old, What.DISPUTE_OPENED, "dp_2", HALF)
    await tell(live_db, *facts)
    await hear(live_db)
    await tell(live_db, fact(old, What.DISPUTE_LOST, "dp_2", HALF))
    await hear(live_db)
    assert await going_back(live_db, old) == [GIVEN - HALF]
    await give_back(live_db, old, str(GOODWILL), destination="wallet")
    await stays_paid(live_db)
    await ends(live_db, old, What.REFUNDED)
    await stays_paid(live_db)


@pytest.mark.parametrize("at_once", [False, True], ids=["heard each", "heard at the end"])
@pytest.mark.parametrize("order", list(itertools.permutations(["lost", "given", "opened"])))
async def test_a_loss_opens_it_once_in_every_order(
    live_db: Live, order: tuple[str, ...], at_once: bool
) -> None:
    its_id, payment = await paid(live_db, **CARD)
    told = {
        "lost": [
            fact(payment, each, "dp_1", LOST) for each in (What.DISPUTE_OPENED, What.DISPUTE_LOST)
        ],
        "given": [fact(payment, What.REFUNDED, "re_1", GOODWILL)],
        "opened": [fact(payment, What.DISPUTE_OPENED, "dp_2", "0.20")],
    }
    for step in order:
        await tell(live_db, *told[step])
        if not at_once:
            await hear(live_db)
    await hear(live_db)
    found = await invoice(live_db)
    assert found["status"] == "open"
    early = not at_once and order.index("lost") < order.index("given")
    owed = TOTAL if early else TOTAL - GOODWILL  # given after it was open, it is not forgiven
    assert found["to_pay"] == owed
    second = await pay(live_db, its_id, owed)
    await tell(live_db, *itertools.chain(*told.values()))
    await hear_again(live_db)
    await tell(live_db, fact(payment, What.DISPUTE_LOST, "dp_2", "0.20"))
    await hear_again(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"]) == ("paid", str(second))
    assert await letters(live_db, "invoice_reopened") == 1


# What was taken before that opened an invoice


@pytest.mark.parametrize("then", ["given", "opened"])
async def test_what_staff_have_left_paid_stays_so(live_db: Live, then: str) -> None:
    its_id, payment = await paid(live_db, **CARD)
    await left_by_an_old_release(live_db, payment)
    if then == "given":
        await give_back(live_db, payment, str(GOODWILL), destination="wallet")
    else:
        await tell(live_db, fact(payment, What.DISPUTE_OPENED, "dp_2", "0.20"))
        await hear(live_db)
    assert (await invoice(live_db))["status"] == "paid"
    assert await overlooked(live_db) == [its_id]
    if then == "given":
        answer = await reopen(live_db, its_id)
        assert (answer.status_code, answer.json()["toPay"]) == (200, float(TOTAL - GOODWILL))
    else:
        await tell(live_db, fact(payment, What.DISPUTE_LOST, "dp_2", "0.20"))
        await hear(live_db)
        assert ((await invoice(live_db))["status"], (await invoice(live_db))["to_pay"]) == (
            "open", TOTAL,
        )  # fmt: skip


async def left_by_an_old_release(live: Live, payment: UUID) -> None:
    await lose(live, payment, "dp_1", HALF)
    await rows(live, "update event_positions set xid = pg_current_xact_id(), event_id = 0")
    await as_of_0030(live)
    await hear(live)
    assert (await invoice(live))["status"] == "paid"


async def test_what_was_not_told_before_an_upgrade_is_told_after_it(live_db: Live) -> None:
    _, payment = await paid(live_db, **CARD)
    await lose(live_db, payment, "dp_1", HALF)
    await as_of_0030(live_db)
    await hear(live_db)
    assert (await invoice(live_db))["status"] == "open"


async def test_nobody_says_by_hand_what_is_known(live_db: Live) -> None:
    _, payment = await paid(live_db, **CARD)
    await rows(live_db, "update invoices set taken_known = 1, taken_before = 1")
    await lose(live_db, payment, "dp_1", HALF)
    await rows(live_db, "update invoices set taken_known = 0.5")
    await hear(live_db)
    assert (await invoice(live_db))["status"] == "open"


async def test_what_staff_gave_back_in_part_opens_nothing_whoever_asks(live_db: Live) -> None:
    its_id, payment = await paid(live_db, **CARD)
    await give_back(live_db, payment, str(GOODWILL), destination="wallet")
    assert refused(await reopen(live_db, its_id)) == (409, "billing.still_paid")
    again = "update invoices set status = 'open', reopen_reason = 'because'"
    with pytest.raises(asyncpg.PostgresError, match="unless the money for it is gone"):
        await rows(live_db, again)
    await give_back(live_db, payment, destination="wallet")
    await rows(live_db, again)
    assert (await invoice(live_db))["to_pay"] == TOTAL
