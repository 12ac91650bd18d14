"""Many at once: of what excludes each other one happens, and what is one thing happens once."""

import asyncio
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, TypeVar

from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.payments.providers import What
from tests.accounts.people import rows
from tests.conftest import Live
from tests.listeners import count, lock_waits, until
from tests.payments.shop import PAYMENTS, Shop
from tests.payments.test_reconciliation import Books, compare
from tests.payments.tills import captured, company, fact, intend, refunded, row_of, state, tell
from tests.wallets.purses import balance_of, fund, move_in
from tests.world import ADAM, CARL, DORA, OLIVIA

T = TypeVar("T")
ADMIN = "/api/v1/admin/payments"
WIDTH = 10  # at once: as many as there are connections for


async def together(*calls: Awaitable[T]) -> list[T]:
    """All of them, WIDTH at a time, so that none waits in vain for a connection."""
    room = asyncio.Semaphore(WIDTH)

    async def one(call: Awaitable[T]) -> T:
        async with room:
            return await call

    return list(await asyncio.gather(*(one(call) for call in calls)))


async def test_a_dispute_and_refunds_at_once_never_take_more_than_came(shop: Shop) -> None:
    for _ in range(4):
        paid = await shop.paid(CARL, 20)
        contested = fact(paid["id"], What.DISPUTE_OPENED, f"dp_{paid['id']}", 20)
        await asyncio.gather(
            tell(shop.live, contested), *(shop.refund(paid["id"], 20) for _ in range(3))
        )
        await tell(shop.live, contested)  # what had to wait for the refund's answer
        row = await row_of(shop.live, paid["id"])
        assert row["refunded"] + row["refund_pending"] + row["disputed"] == 20
        assert await balance_of(shop.live, CARL) == 0


async def test_the_same_cash_confirmed_by_many_is_one_credit(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, payment_method="cash", provider="manual")

    async def confirm(amount: int) -> int:
        async with live_db.api(OLIVIA if amount % 2 else ADAM) as api:
            path = f"{ADMIN}/{payment}/confirmation"
            return (await api.post(path, json={"amount": amount})).status_code

    assert set(await asyncio.gather(*(confirm(amount) for amount in range(11, 21)))) == {200}
    row = await row_of(live_db, payment)
    assert await balance_of(live_db, CARL) == row["captured"]
    query = "select count(*) as n from audit_logs where event_type = 'payments.confirmed'"
    assert [each["n"] for each in await rows(live_db, query)] == [1]


async def test_confirming_and_bouncing_at_once_ends_in_one_of_both(live_db: Live) -> None:
    await move_in(live_db)
    for _ in range(6):
        payment = await intend(live_db, CARL, 20, payment_method="check", provider="manual")
        async with live_db.api(OLIVIA) as api:
            one, two = await asyncio.gather(
                api.post(f"{ADMIN}/{payment}/confirmation"),
                api.post(f"{ADMIN}/{payment}/bounce", json={"reason": "returned by the bank"}),
            )
        assert (one.status_code, two.status_code) == (200, 200)
        status, _, refund = await state(live_db, payment)
        assert (status, int(refund)) in (("completed", 0), ("refunded", 20))
    [sums] = await rows(live_db, "select sum(captured - refunded) as rest from payments")
    assert await balance_of(live_db, CARL) == sums["rest"]


async def test_what_is_spent_while_a_check_bounces_is_not_taken_twice(live_db: Live) -> None:
    """The wallet had enough for both of what is taken: the check, and what was handed out of it."""
    await move_in(live_db)
    check = await intend(live_db, CARL, 20, payment_method="check", provider="manual")
    async with live_db.api(OLIVIA) as api:
        await api.post(f"{ADMIN}/{check}/confirmation")
        await api.post(f"{PAYMENTS}/{check}/refunds", json={"amount": 5})
        await fund(live_db, CARL, 10)
        async with live_db.database.transaction(WORKER) as db:
            await db.execute(text("select deduct_user_balance(:who, 18)"), {"who": CARL.id})
            bounces = asyncio.create_task(
                api.post(f"{ADMIN}/{check}/bounce", json={"reason": "No funds"})
            )
            waits = lock_waits(live_db)
            await until(lambda: count(waits), "the bounce to wait for the wallet")
        assert (await bounces).status_code == 200
    assert await balance_of(live_db, CARL) == 0
    assert (await company(live_db))["adjustments"] == -(5 + 15 - 7)
    assert await compare(live_db, Books()) == 0


async def test_much_cash_at_once_is_all_there_and_nobody_waits_in_a_circle(live_db: Live) -> None:
    await move_in(live_db)

    async def record(number: int) -> int:
        who = CARL if number % 2 else DORA
        body = {"userId": str(who.id), "paymentMethod": "cash", "amount": 3}
        async with live_db.api(OLIVIA) as api:
            return (await api.post(ADMIN, json=body)).status_code

    async def confirm(payment: Any) -> int:
        async with live_db.api(ADAM) as api:
            return (await api.post(f"{ADMIN}/{payment}/confirmation")).status_code

    asked = [
        await intend(live_db, DORA, 5, payment_method="cash", provider="manual") for _ in range(20)
    ]
    answers = await together(
        *(record(number) for number in range(40)), *(confirm(each) for each in asked)
    )
    assert set(answers) == {200, 201}
    assert await balance_of(live_db, CARL) == 60
    assert await balance_of(live_db, DORA) == 60 + 100
    [summed] = await rows(live_db, "select * from payment_summary where status = 'completed'")
    assert (summed["payment_count"], summed["total_amount"]) == (60, 220)


async def test_giving_up_and_paying_at_once_loses_no_money(shop: Shop) -> None:
    for _ in range(4):
        begun = await shop.begin(CARL, 20)
        path = f"{PAYMENTS}/{begun['id']}"
        await asyncio.gather(
            asyncio.to_thread(shop.stripe.pay, begun["stripe_payment_intent_id"]),
            shop.post(CARL, f"{path}/cancellation"),
            shop.post(CARL, f"{path}/confirmation"),
            return_exceptions=True,
        )
    await shop.hear()
    intents = shop.stripe.books("payment_intent")
    paid = sum(each["amount_received"] for each in intents)
    assert await balance_of(shop.live, CARL) == Decimal(paid) / 100
    states = {row["status"] for row in await rows(shop.live, "select status from payments")}
    assert states <= {"completed", "failed"}


async def test_facts_of_many_payments_at_once_are_each_done_once(live_db: Live) -> None:
    await move_in(live_db)
    payments = [await intend(live_db, CARL, 20) for _ in range(8)]
    told = [
        each
        for payment in payments
        for each in (
            captured(payment, 20, fee=Decimal(1)),
            refunded(payment, f"re_{payment}", 5),
            fact(payment, What.DISPUTE_OPENED, f"dp_{payment}", 10),
        )
    ]
    for _ in range(3):
        await together(*(tell(live_db, each) for each in told * 2))
    assert {await state(live_db, payment) for payment in payments} == {
        ("partially_refunded", Decimal(20), Decimal(5))
    }
    assert await balance_of(live_db, CARL) == 8 * 5
    assert await company(live_db) == {"clearing": -8 * 4, "fees": -8}
