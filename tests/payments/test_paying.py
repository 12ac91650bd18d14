"""Paying by Stripe, from the customer's click to the money in the wallet, through the real API."""

import asyncio
from decimal import Decimal
from typing import Any

import pytest

from tests.accounts.people import actions, change, rows
from tests.payments.shop import PAYMENTS, Shop
from tests.wallets.purses import balance_of, exact, refused
from tests.world import ADAM, ANNA, CARL, DORA, MARK, OLIVIA


async def test_a_top_up_from_the_click_to_the_wallet(shop: Shop) -> None:
    begun = await shop.begin(CARL, 20.50, description="For May")
    assert (begun["status"], begun["amount"], begun["currency"]) == ("pending", 20.5, "USD")
    assert begun["next_action"]["client_secret"].startswith(begun["stripe_payment_intent_id"])
    assert begun["test_mode"] is True
    shop.stripe.pay(begun["stripe_payment_intent_id"])
    await shop.hear()
    payment = await shop.read(begun["id"])
    assert (payment["status"], payment["providerState"]) == ("completed", "done")
    assert payment["fee"] == 0.91  # 3 % and 30 cents
    assert await balance_of(shop.live, CARL) == Decimal("20.50")
    assert ("payment_intent.succeeded", "done") in await shop.told()
    assert await actions(shop.live, begun["id"]) == ["payments.asked_for"]


async def test_the_browser_comes_back_before_the_webhook(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20)
    answer = await shop.post(CARL, f"{PAYMENTS}/{begun['id']}/confirmation")
    assert (answer.status_code, answer.json()["status"]) == (200, "completed")
    await shop.hear()
    again = await shop.post(CARL, f"{PAYMENTS}/{begun['id']}/confirmation")
    assert again.json()["status"] == "completed"
    assert await balance_of(shop.live, CARL) == 20


async def test_the_amount_is_exact_to_the_digit(shop: Shop) -> None:
    answer = await shop.ask(CARL, "17.10")
    assert exact(answer)["amount"] == Decimal("17.10")
    [intent] = shop.stripe.books("payment_intent")
    assert (intent["amount"], intent["currency"]) == (1710, "usd")


async def test_fifty_equal_posts_with_one_key_are_one_payment_there(shop: Shop) -> None:
    answers = await asyncio.gather(*(shop.ask(CARL, 20, key="one-click") for _ in range(50)))
    statuses = {answer.status_code for answer in answers}
    assert statuses <= {201, 409}
    assert 201 in statuses
    later = await shop.ask(CARL, 20, key="one-click")
    assert later.status_code == 201
    assert later.headers["Idempotent-Replayed"] == "true"
    made = {answer.json()["id"] for answer in (*answers, later) if answer.status_code == 201}
    assert len(made) == 1
    assert len(shop.stripe.books("payment_intent")) == 1
    [count] = await rows(shop.live, "select count(*) as n from payments")
    assert count["n"] == 1


async def test_a_key_is_for_one_request(shop: Shop) -> None:
    await shop.begin(CARL, 20, key="k")
    assert refused(await shop.ask(CARL, 21, key="k")) == (422, "idempotency.key_reused")
    assert (await shop.ask(DORA, 21, key="k")).status_code == 201  # hers is another


async def test_a_key_whose_provider_did_not_answer_is_still_that_payment(shop: Shop) -> None:
    shop.stripe.fail("POST", "/v1/payment_intents", "after")
    first = await shop.ask(CARL, 20, key="k")
    assert (first.status_code, first.json()["status"]) == (201, "pending")
    assert first.json()["next_action"] is None
    assert refused(await shop.ask(CARL, 20, key="k")) == (409, "idempotency.in_flight")
    assert len(shop.stripe.books("payment_intent")) == 1


async def test_a_declined_card_leaves_the_payment_open(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20, card="pm_declined")
    await shop.hear()
    payment = await shop.read(begun["id"])
    assert (payment["status"], payment["failureCode"]) == ("pending", "card_declined")
    shop.stripe.pay(begun["stripe_payment_intent_id"], "pm_other")
    await shop.hear()
    assert (await shop.read(begun["id"]))["status"] == "completed"


async def test_three_d_secure_asks_the_owner(shop: Shop) -> None:
    begun = await shop.pay(CARL, 20, card="pm_3ds")
    answer = await shop.post(CARL, f"{PAYMENTS}/{begun['id']}/confirmation")
    assert answer.json()["status"] == "pending"
    assert answer.json()["next_action"]["url"].startswith("https://hooks.stripe")


async def test_what_waits_to_be_taken_is_taken_once(shop: Shop) -> None:
    """An intent that only holds the money: by the customer's confirmation, or a lost answer's."""
    one, two = await shop.pay(CARL, 20, card="pm_held"), await shop.pay(CARL, 30, card="pm_held")
    await shop.hear()
    assert await balance_of(shop.live, CARL) == 0
    for _ in range(2):
        answer = await shop.post(CARL, f"{PAYMENTS}/{one['id']}/confirmation")
        assert answer.json()["status"] == "completed"
    path = f"/v1/payment_intents/{two['stripe_payment_intent_id']}/capture"
    shop.stripe.fail("POST", path, "after")
    answer = await shop.post(CARL, f"{PAYMENTS}/{two['id']}/confirmation")
    assert answer.json()["status"] == "pending"
    await shop.hear()
    assert (await shop.read(two["id"]))["status"] == "completed"
    assert (await shop.read(two["id"]))["failureReason"] is None
    assert await balance_of(shop.live, CARL) == 50


async def test_giving_up_and_giving_up_too_late(shop: Shop) -> None:
    one, two = await shop.begin(CARL, 20), await shop.pay(CARL, 30)
    given_up = await shop.post(CARL, f"{PAYMENTS}/{one['id']}/cancellation")
    assert given_up.json()["status"] == "failed"
    too_late = await shop.post(CARL, f"{PAYMENTS}/{two['id']}/cancellation")
    assert too_late.json()["status"] == "completed"
    assert await balance_of(shop.live, CARL) == 30


async def test_a_saved_card_pays_the_next_time(shop: Shop) -> None:
    await shop.paid(CARL, 20, save_method=True)
    [method] = await rows(shop.live, "select id, brand, last_four, is_default from payment_methods")
    assert (method["brand"], method["last_four"], method["is_default"]) == ("visa", "4242", True)
    again = await shop.begin(CARL, 30, method_id=str(method["id"]))
    assert again["status"] == "completed"
    assert await balance_of(shop.live, CARL) == 50
    stranger = await shop.ask(DORA, 30, method_id=str(method["id"]))
    assert refused(stranger) == (404, "payments.unknown_method")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"amount": 0}, "money.not_positive"),
    ({"amount": -5}, "money.not_positive"),
    ({"amount": "20.001"}, "money.too_many_digits"),
    ({"amount": 20000000000000}, "money.too_large"),
    ({"amount": None}, "invalid_input"),
    ({"currency": "JPY", "amount": "5.5"}, "money.too_many_digits"),
    ({"currency": "XXQ"}, "payments.unknown_currency"),
    ({"currency": "EUR"}, "payments.unknown_currency"),
    ({"currency": "usd"}, "invalid_input"),
    ({"payment_method": "gold"}, "invalid_input"),
    ({"payment_method": "paypal"}, "payments.provider_missing"),
    ({"user_id": str(DORA.id)}, "invalid_input"),
    ({"amount": "0.99"}, "payments.top_up_limit"),
    ({"amount": 10001}, "payments.top_up_limit"),
    ({"appointment_id": str(CARL.id)}, "not_found"),
    ({"invoice_id": str(CARL.id)}, "not_found"),
    ({"service_id": str(CARL.id), "training_id": str(CARL.id)}, "invalid_input"),
    ({"method_id": str(CARL.id)}, "payments.unknown_method"),
    ({"description": "card 4242 4242 4242 4242"}, "payments.card_number"),
    ({"reference": "4242-4242-4242-4242"}, "payments.card_number"),
    ({"metadata": {"note": ["378282246310005"]}}, "payments.card_number"),
    ({"metadata": {"x": "y" * 9000}}, "invalid_input"),
]


@pytest.mark.parametrize(("given", "code"), BAD, ids=lambda value: str(value)[:50])
async def test_bad_input_has_a_code_and_writes_nothing(
    shop: Shop, given: dict[str, Any], code: str
) -> None:
    async with shop.live.api(OLIVIA) as api:
        await api.post("/api/v1/admin/assets", json={"code": "JPY", "scale": 0})
    answer = await shop.ask(CARL, **{"amount": 20, **given})
    assert answer.json()["code"] == code, answer.text
    assert await rows(shop.live, "select id from payments") == []
    assert shop.stripe.books("payment_intent") == []
    assert "4242 4242" not in answer.text


async def test_limits_are_what_staff_have_set(shop: Shop) -> None:
    await change(shop.live, "top_up_most", 25)
    answer = await shop.ask(CARL, 26)
    assert refused(answer) == (422, "payments.top_up_limit")
    assert answer.json()["most"] == 25
    async with shop.live.api(OLIVIA) as api:  # staff are not bound by it
        body = {"payment_method": "cash", "amount": 26, "user_id": str(CARL.id)}
        assert (await api.post(PAYMENTS, json=body)).status_code == 201


async def test_everybody_sees_their_own_and_staff_see_all(shop: Shop) -> None:
    mine, hers = await shop.paid(CARL, 20), await shop.begin(DORA, 30)
    async with shop.live.api(CARL) as api:
        listed = (await api.get(PAYMENTS, params={"user_id": str(DORA.id)})).json()
        assert [each["id"] for each in listed["payments"]] == [mine["id"]]
        assert (await api.get(f"{PAYMENTS}/{hers['id']}")).status_code == 404
        assert (await api.get(f"{PAYMENTS}/{hers['id']}/audit")).status_code == 404
        summed = (await api.get(f"{PAYMENTS}/summary")).json()["summary"]
        assert [(s["status"], s["payment_count"], s["total_amount"]) for s in summed] == [
            ("completed", 1, 20)
        ]
        for path in ("confirmation", "cancellation"):
            assert (await api.post(f"{PAYMENTS}/{hers['id']}/{path}")).status_code == 404
    for staff in (OLIVIA, ADAM, ANNA):
        async with shop.live.api(staff) as api:
            listed = (await api.get(PAYMENTS)).json()
            assert {each["id"] for each in listed["payments"]} == {mine["id"], hers["id"]}
            summed = (await api.get(f"{PAYMENTS}/summary")).json()["summary"]
            assert {(s["status"], s["total_amount"]) for s in summed} == {
                ("completed", 20),
                ("pending", 30),
            }
    async with shop.live.api(MARK) as api:
        assert (await api.get(PAYMENTS)).status_code == 403


async def test_the_trail_of_a_payment(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    async with shop.live.api(CARL) as api:
        trail = (await api.get(f"{PAYMENTS}/{paid['id']}/audit")).json()["audits"]
    changes = [(each["old_status"], each["new_status"]) for each in trail]
    assert changes == [(None, "pending"), ("pending", "completed")]
    assert trail[0]["changed_by"] == f"customer:{CARL.id}"
    assert trail[1]["provider_data"]["status"] == "succeeded"
    assert "client_secret" not in str(trail)


async def test_filters_find_what_they_say(shop: Shop) -> None:
    await shop.paid(CARL, 20)
    await shop.begin(CARL, 30)
    async with shop.live.api(OLIVIA) as api:
        for params, found in (
            ({"status": "completed"}, [20]),
            ({"status": "pending"}, [30]),
            ({"method": "cash"}, []),
            ({"user_id": str(DORA.id)}, []),
            ({"sort": "amount"}, [20, 30]),
            ({"from": "2100-01-01"}, []),
        ):
            answer = await api.get("/api/v1/admin/payments", params=params)
            assert [each["amount"] for each in answer.json()["payments"]] == found, params
        bad = await api.get("/api/v1/admin/payments", params={"status": "paid"})
        assert bad.status_code == 422
        assert "completed" in bad.text
