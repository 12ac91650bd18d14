"""What a payment brings beyond what its invoice asks for goes back, once, whatever the order."""

import asyncio
import itertools
from collections.abc import Awaitable
from decimal import Decimal
from uuid import UUID

import asyncpg
import pytest

from bursar.billing import paying, tasks
from bursar.core.database import WORKER
from bursar.payments import refunds
from bursar.payments.providers import Fact, What
from bursar.payments.providers.registry import providers
from tests.accounts.people import rows, run_jobs
from tests.billing.meterman import ADMIN, ask, collect, hear
from tests.billing.payers import (
    BECAUSE,
    TOTAL,
    an_hour_later,
    bounce,
    dispute,
    dispute_ends,
    give_back,
    paid,
    reopen,
)
from tests.billing.test_invoices import invoice
from tests.billing.test_taken import CARD, GIVEN, LONG_AGO, LOST, OWED, lost_after_refund
from tests.conftest import Live
from tests.payments.tills import captured, company, fact, intend, row_of, tell
from tests.wallets.purses import balance_of, fund
from tests.world import CARL

BACK = "select amount, status from refunds where payment_id = $1 and destination = 'provider'"


async def page(live: Live, its_id: str, amount: Decimal = TOTAL, **given: str) -> UUID:
    """Opened by the customer while the invoice asks for the whole."""
    facts = {**CARD, **given}
    return await intend(live, CARL, amount, purpose="invoice", invoice_id=UUID(its_id), **facts)


async def hear_again(live: Live) -> None:
    await rows(live, "update event_positions set xid = '0', event_id = 0")
    await hear(live)


async def going_back(live: Live, payment: UUID) -> list[Decimal]:
    found = await rows(live, BACK, payment)
    return [row["amount"] for row in found if row["status"] != "failed"]


async def by_an_old_page(live: Live, **given: str) -> tuple[str, UUID]:
    """1.02 is asked for, 1.72 comes by a page that was opened when the invoice was paid."""
    its_id, payment = await paid(live, **CARD)
    old = await page(live, its_id, **given)
    await give_back(live, payment, str(GIVEN), destination="wallet")
    await dispute(live, payment, What.DISPUTE_LOST, amount=LOST)
    await tell(live, captured(old, TOTAL, provider=given.get("provider", "stripe")))
    await hear(live)
    return its_id, old


async def test_the_surplus_of_an_old_page_goes_back_once(live_db: Live) -> None:
    _, old = await by_an_old_page(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["to_pay"]) == ("paid", str(old), OWED)
    assert found["refunded"] == 0
    for _ in range(2):
        await tell(live_db, captured(old, TOTAL))
        await hear_again(live_db)
        assert await going_back(live_db, old) == [GIVEN]
    [asked] = await rows(live_db, "select id from refunds where payment_id = $1", old)
    for _ in range(2):
        done = fact(old, What.REFUNDED, "re_surplus", GIVEN, refund_id=str(asked["id"]))
        await tell(live_db, done)
        await hear_again(live_db)
    assert await going_back(live_db, old) == [GIVEN]
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["refunded"]) == ("paid", str(old), 0)
    assert (await company(live_db))["revenue"] == OWED


async def test_what_came_by_hand_goes_into_the_wallet(live_db: Live) -> None:
    given = {"payment_method": "bank_transfer", "provider": "manual"}
    _, old = await by_an_old_page(live_db, **given)
    assert (await row_of(live_db, old))["refunded"] == GIVEN
    assert await balance_of(live_db, CARL) == GIVEN * 2  # the refund, and the surplus
    found = await invoice(live_db)
    assert (found["status"], found["refunded"]) == ("paid", 0)
    await bounce(live_db, old)  # so nothing of it was a surplus either
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["to_pay"]) == ("open", OWED)
    assert await balance_of(live_db, CARL) == GIVEN


async def test_a_surplus_that_is_contested_waits_for_the_decision(live_db: Live) -> None:
    its_id, payment = await paid(live_db, **CARD)
    old = await page(live_db, its_id)
    await give_back(live_db, payment, str(GIVEN), destination="wallet")
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    await tell(live_db, captured(old, TOTAL), fact(old, What.DISPUTE_OPENED, f"dp_{old}", TOTAL))
    await hear(live_db)
    assert ((await invoice(live_db))["status"], await going_back(live_db, old)) == ("paid", [])
    await dispute_ends(live_db, old, What.DISPUTE_WON)
    await hear_again(live_db)
    assert await going_back(live_db, old) == [GIVEN]


async def test_of_a_surplus_that_is_lost_only_the_rest_goes_back(live_db: Live) -> None:
    its_id, payment = await paid(live_db, **CARD)
    old = await page(live_db, its_id)
    await give_back(live_db, payment, str(GIVEN), destination="wallet")
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    await tell(live_db, captured(old, TOTAL), fact(old, What.DISPUTE_OPENED, "dp_2", "0.50"))
    await tell(live_db, fact(old, What.DISPUTE_LOST, "dp_2", "0.50"))
    await hear(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["refunded"]) == ("paid", str(old), 0)
    assert await going_back(live_db, old) == [GIVEN - Decimal("0.50")]


async def test_a_refund_that_fails_was_given_all_the_same(live_db: Live) -> None:
    """The provider refused it after the rest was taken. What is here is enough for what is asked
    for, so nobody pays again, and the surplus goes into the wallet."""
    _, payment = await paid(live_db, **CARD)
    async with live_db.database.transaction(WORKER) as db:
        asked, _ = await refunds.request(db, payment, GIVEN)
        asked.provider_refund_id, its_id = "re_1", str(asked.id)
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    assert (await invoice(live_db))["to_pay"] == OWED
    failed = fact(payment, What.REFUND_FAILED, "re_1", refund_id=its_id, reason="closed_account")
    await tell(live_db, failed)
    await fund(live_db, CARL, 5)
    await collect(live_db)
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["refunded"]) == ("paid", str(payment), 0)
    await an_hour_later(live_db)
    assert await going_back(live_db, payment) == []
    assert await balance_of(live_db, CARL) == 5 + GIVEN - LOST


async def test_what_a_bank_took_and_sent_again_was_not_given(live_db: Live) -> None:
    _, payment = await paid(live_db, **CARD)
    gone = fact(payment, What.REFUNDED, "re_1", "1.00", is_reversal=True, happened_at=LONG_AGO)
    await tell(live_db, gone, fact(payment, What.REFUND_FAILED, "re_1"))
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    found = await invoice(live_db)
    assert (found["status"], found["to_pay"]) == ("open", TOTAL)


STEPS = ("given", "lost", "came")


@pytest.mark.parametrize("at_once", [False, True], ids=["heard each", "heard at the end"])
@pytest.mark.parametrize("order", list(itertools.permutations(STEPS)), ids="-".join)
async def test_in_whatever_order_it_comes_nobody_has_too_much(
    live_db: Live, order: tuple[str, ...], at_once: bool
) -> None:
    its_id, first = await paid(live_db, **CARD)
    second = await page(live_db, its_id)
    told: dict[str, list[Fact]] = {
        "given": [fact(first, What.REFUNDED, "re_1", GIVEN)],  # at the provider's own page
        "lost": [
            fact(first, What.DISPUTE_LOST, "dp_1", LOST),
            fact(first, What.DISPUTE_OPENED, "dp_1", LOST),
        ],
        "came": [captured(second, TOTAL)],
    }
    for step in order:
        await tell(live_db, *told[step], *told[step])
        if not at_once:
            await hear(live_db)
    await hear(live_db)
    once = await rows(live_db, "select id, amount, status from refunds order by id")
    for step in reversed(order):
        await tell(live_db, *told[step])
        await hear_again(live_db)
    await collect(live_db)
    assert await rows(live_db, "select id, amount, status from refunds order by id") == once
    found = await invoice(live_db)
    assert 0 <= found["refunded"] <= found["to_pay"] <= TOTAL
    for payment in (first, second):
        row = await row_of(live_db, payment)
        left = row["captured"] - row["refunded"] - row["refund_pending"]
        if found["status"] == "paid":
            assert left == (found["to_pay"] if found["payment_id"] == str(payment) else 0)
        else:
            assert left < found["to_pay"]


async def go_back(live: Live, not_needed: list[UUID]) -> None:
    """Each in a transaction of its own, as its job has."""
    for each in not_needed:
        async with live.database.transaction(WORKER) as db:
            await tasks.give_back(db, {"payment_id": str(each)})


async def heed_and_go_back(live: Live, payment: UUID) -> None:
    async with live.database.transaction(WORKER) as db:
        not_needed = await paying.heed(db, payment)
    await go_back(live, not_needed)


async def test_many_at_once_give_a_surplus_back_once(live_db: Live) -> None:
    its_id, payment = await paid(live_db, **CARD)
    old = await page(live_db, its_id)
    await give_back(live_db, payment, str(GIVEN), destination="wallet")
    await dispute(live_db, payment, What.DISPUTE_LOST, amount=LOST)
    await tell(live_db, captured(old, TOTAL))

    async def job() -> None:
        await go_back(live_db, [old])

    async def heed() -> None:
        await heed_and_go_back(live_db, old)

    async def by_staff() -> None:
        assert (await reopen(live_db, its_id)).status_code in (200, 409)

    tries: list[Awaitable[None]] = [each() for _ in range(3) for each in (job, heed, by_staff)]
    await asyncio.gather(*tries)
    await run_jobs(live_db)
    await hear_again(live_db)
    assert await going_back(live_db, old) == [GIVEN]
    found = await invoice(live_db)
    assert (found["status"], found["payment_id"], found["to_pay"]) == ("paid", str(old), OWED)
    assert await going_back(live_db, payment) == [TOTAL - GIVEN - LOST]


@pytest.mark.parametrize("by_wallet", [False, True])
async def test_all_of_it_at_once_leaves_nobody_with_too_much(
    live_db: Live, by_wallet: bool
) -> None:
    """A refund, a lost dispute, an old page, the collecting and giving up, in any order."""
    its_id, first = await paid(live_db, **CARD)
    second = await page(live_db, its_id)
    if by_wallet:
        await fund(live_db, CARL, 5)
    lost = fact(first, What.DISPUTE_LOST, "dp_1", LOST)
    given = {"amount": str(GIVEN), "destination": "wallet"}
    giving_up = f"{ADMIN}/invoices/{its_id}/cancellation"

    def heed(payment: UUID) -> Awaitable[None]:
        return heed_and_go_back(live_db, payment)

    async def take() -> None:
        async with live_db.database.transaction(WORKER) as db:
            await paying.collect(db, providers(live_db.settings), UUID(its_id))

    async def by_staff() -> None:
        answer = await ask(live_db, "POST", giving_up, BECAUSE)
        assert answer.status_code in (200, 409), answer.text

    await asyncio.gather(
        tell(live_db, lost), ask(live_db, "POST", f"/api/v1/payments/{first}/refunds", given),
        heed(first), tell(live_db, captured(second, TOTAL)), by_staff(), heed(second), take(),
        heed(first), take(), reopen(live_db, its_id), tell(live_db, lost), heed(second),
    )  # fmt: skip
    await hear(live_db)
    await collect(live_db)
    await hear_again(live_db)
    found = await invoice(live_db)
    assert 0 <= found["refunded"] <= found["to_pay"] <= TOTAL
    kept = Decimal(0)
    for payment in (first, second):
        row = await row_of(live_db, payment)
        left = row["captured"] - row["refunded"] - row["refund_pending"]
        kept += left
        if found["status"] != "open":
            is_its = found["payment_id"] == str(payment)
            assert left == (found["to_pay"] - found["refunded"] if is_its else 0)
    if found["operation_id"]:
        kept += found["to_pay"]
    assert (await company(live_db))["revenue"] == kept


async def test_what_staff_give_back_of_it_is_no_surplus(live_db: Live) -> None:
    _, old = await by_an_old_page(live_db)
    await give_back(live_db, old, "0.30", destination="wallet")
    await hear_again(live_db)
    assert await going_back(live_db, old) == [GIVEN]
    [asked] = await rows(live_db, BACK.replace("amount", "id"), old)
    told = {"refund_id": str(asked["id"])}
    await tell(live_db, fact(old, What.REFUNDED, "re_surplus", GIVEN, **told))
    assert (await invoice(live_db))["refunded"] == Decimal("0.30")


# Who may forgive


@pytest.mark.parametrize("who", ["app_user", "staff_user", "worker_user", "analytics_user"])
async def test_no_role_may_set_what_is_forgiven(live_db: Live, who: str) -> None:
    query = """
      select has_column_privilege($1, 'invoices', 'forgiven', 'update')
        or has_column_privilege($1, 'invoices', 'forgiven', 'insert') as may
    """
    assert not (await rows(live_db, query, who))[0]["may"]


@pytest.mark.parametrize("much", ["-0.01", "0.01", "1.72"])
async def test_an_invoice_begins_with_nothing_forgiven(live_db: Live, much: str) -> None:
    await paid(live_db)
    issue = f"""
      insert into invoices (user_id, month, currency, total, due_at, forgiven)
      select user_id, month, currency, total, due_at, {much} from invoices
    """
    with pytest.raises(asyncpg.PostgresError, match="ck_invoices_forgiven"):
        await rows(live_db, issue)


async def test_what_is_asked_for_is_said_where_the_old_total_is_offered(live_db: Live) -> None:
    its_id, _ = await lost_after_refund(live_db)
    for amount, status in ((TOTAL, 422), (OWED, 201)):
        body = {"invoice_id": its_id, "amount": str(amount), "payment_method": "bank_transfer"}
        answer = await ask(live_db, "POST", "/api/v1/payments", body, who=CARL)
        assert answer.status_code == status, answer.text
