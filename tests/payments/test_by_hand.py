"""Cash, checks and transfers: recorded, confirmed, bounced; and what add-funds is for whom."""

from decimal import Decimal

import pytest

from tests.accounts.people import actions, rows
from tests.conftest import Live
from tests.payments.shop import PAYMENTS, Shop
from tests.payments.test_reconciliation import Books, compare
from tests.payments.tills import company, state
from tests.wallets.purses import balance_of, charge, fund, move_in, refused
from tests.world import CARL, DORA, OLIVIA, SUE

ADMIN = "/api/v1/admin/payments"
CASH = {"userId": str(CARL.id), "paymentMethod": "cash", "amount": 20}


async def test_cash_over_the_counter_is_in_the_wallet_at_once(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA, **{"Idempotency-Key": "counter-1"}) as api:
        first = await api.post(ADMIN, json=CASH)
        again = await api.post(ADMIN, json=CASH)
    assert (first.status_code, first.json()["status"]) == (201, "completed")
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    assert await balance_of(live_db, CARL) == 20
    assert await actions(live_db, first.json()["id"]) == [
        "payments.asked_for",
        "payments.confirmed",
    ]
    [change] = await rows(
        live_db, "select changed_by from payment_audits where new_status = 'completed'"
    )
    assert change["changed_by"] == f"staff:{OLIVIA.id}"


async def test_a_transfer_that_was_announced_comes_in_part(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(CARL) as api:
        body = {"payment_method": "bank_transfer", "amount": 50, "reference": "INV 7"}
        announced = (await api.post(PAYMENTS, json=body)).json()
        assert announced["status"] == "pending"
        path = f"{ADMIN}/{announced['id']}/confirmation"
        assert (await api.post(path)).status_code == 403
    async with live_db.api(SUE) as api:
        assert (await api.post(path)).status_code == 403
    async with live_db.api(OLIVIA) as api:
        [found] = (await api.get(ADMIN, params={"reference": "INV 7"})).json()["payments"]
        assert found["id"] == announced["id"]
        more = await api.post(path, json={"amount": "50.01"})
        assert refused(more) == (422, "payments.amount_differs")
        confirmed = await api.post(path, json={"amount": 45, "reason": "5 less than announced"})
        assert (confirmed.json()["status"], confirmed.json()["capturedAmount"]) == ("completed", 45)
        await api.post(path)
    assert await balance_of(live_db, CARL) == 45


async def test_a_check_that_bounces_before_and_after_it_was_credited(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        body = {"payment_method": "check", "amount": 20, "user_id": str(CARL.id)}
        one = (await api.post(PAYMENTS, json=body)).json()["id"]
        two = (await api.post(PAYMENTS, json=body)).json()["id"]
        gone = await api.post(f"{ADMIN}/{one}/bounce", json={"reason": "No funds"})
        assert gone.json()["status"] == "failed"
        await api.post(f"{ADMIN}/{two}/confirmation")
        await charge(live_db, CARL, 15)
        for _ in range(2):
            gone = await api.post(f"{ADMIN}/{two}/bounce", json={"reason": "No funds"})
            assert gone.json()["status"] == "refunded"
    assert await balance_of(live_db, CARL) == 0
    assert await company(live_db) == {"revenue": 15, "adjustments": -15}
    assert await state(live_db, two) == ("refunded", 20, 20)


async def test_what_a_provider_carries_out_nobody_confirms(shop: Shop) -> None:
    begun = await shop.begin(CARL, 20)
    for path, body in (("confirmation", {}), ("bounce", {"reason": "No funds"})):
        answer = await shop.post(OLIVIA, f"{ADMIN}/{begun['id']}/{path}", body)
        assert refused(answer) == (409, "payments.not_by_hand")


@pytest.mark.parametrize(
    ("given", "code"),
    [
        ({"paymentMethod": "stripe"}, "invalid_input"),
        ({"amount": 0}, "money.not_positive"),
        ({"userId": "00000000-0000-7000-8000-00000000dead"}, "not_found"),
        ({"reference": "5500 0000 0000 0004"}, "payments.card_number"),
    ],
)
async def test_bad_records(live_db: Live, given: dict[str, object], code: str) -> None:
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        answer = await api.post(ADMIN, json={**CASH, **given})
    assert answer.json()["code"] == code, answer.text
    assert await rows(live_db, "select id from payments") == []


async def test_a_customers_own_call_of_add_funds_begins_a_payment(shop: Shop) -> None:
    body = {"user_id": str(CARL.id), "amount": "20.50"}
    answer = await shop.post(CARL, "/api/v1/add-funds", body, **{"Idempotency-Key": "a1"})
    topping = answer.json()
    assert (answer.status_code, topping["balance"], topping["amount"]) == (201, 0, 20.5)
    assert topping["payment"]["next_action"]["client_secret"]
    again = await shop.post(CARL, "/api/v1/add-funds", body, **{"Idempotency-Key": "a1"})
    assert again.json()["payment"]["id"] == topping["payment"]["id"]
    assert await balance_of(shop.live, CARL) == 0
    shop.stripe.pay(topping["payment"]["stripe_payment_intent_id"])
    await shop.hear()
    assert await balance_of(shop.live, CARL) == Decimal("20.50")
    stranger = await shop.post(DORA, "/api/v1/add-funds", body)
    assert refused(stranger) == (422, "invalid_input")
    at_once = await shop.post(OLIVIA, "/api/v1/add-funds", body)
    assert (at_once.status_code, at_once.json()["balance"]) == (200, 41)


@pytest.mark.parametrize("spent", [0, 15])
async def test_what_was_given_back_of_a_check_that_bounces_is_fetched_back(
    live_db: Live, spent: int
) -> None:
    """Staff have handed out a part of it; that it never came, they hear later."""
    await move_in(live_db)
    async with live_db.api(OLIVIA) as api:
        body = {"payment_method": "check", "amount": 20, "user_id": str(CARL.id)}
        check = (await api.post(PAYMENTS, json=body)).json()["id"]
        await api.post(f"{ADMIN}/{check}/confirmation")
        given = await api.post(f"{PAYMENTS}/{check}/refunds", json={"amount": 5})
        assert given.status_code == 201, given.text
        await fund(live_db, CARL, 10)
        if spent:
            await charge(live_db, CARL, spent)
        for _ in range(2):
            gone = await api.post(f"{ADMIN}/{check}/bounce", json={"reason": "No funds"})
            assert gone.json()["status"] == "refunded"
    refunds = await rows(live_db, "select amount, status, taken from refunds order by amount")
    assert [tuple(each) for each in refunds] == [(5, "returned", False), (15, "completed", True)]
    short = max(0, spent - 10 + 5)  # 10 were the customer's own, of which 5 make up for the cash
    assert await balance_of(live_db, CARL) == 5 - spent + short
    told = {"clearing": 5 - 10, "revenue": spent, "adjustments": -short}
    assert await company(live_db) == {name: much for name, much in told.items() if much}
    assert await compare(live_db, Books()) == 0


async def test_a_check_of_somebody_who_is_gone_bounces_at_the_companys_loss(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    await charge(live_db, CARL, 10)  # the company's own accounts are no wallet to take from
    async with live_db.api(OLIVIA) as api:
        body = {"payment_method": "check", "amount": 20, "user_id": str(CARL.id)}
        check = (await api.post(PAYMENTS, json=body)).json()["id"]
        await api.post(f"{ADMIN}/{check}/confirmation")
        await api.post(f"{PAYMENTS}/{check}/refunds", json={"amount": 5})
        await rows(live_db, "update payments set user_id = null")
        gone = await api.post(f"{ADMIN}/{check}/bounce", json={"reason": "No funds"})
    assert (gone.status_code, gone.json()["status"]) == (200, "refunded")
    told = {"clearing": 5 - 10, "revenue": 10, "adjustments": -20}
    assert await company(live_db) == told
    assert await balance_of(live_db, CARL) == 15
