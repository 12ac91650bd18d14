"""Refunds: never more than was paid, each once, and the wallet and the provider agree."""

import asyncio
from decimal import Decimal

from bursar.core.database import WORKER
from bursar.payments import tasks
from bursar.wallets import spending
from tests.accounts.people import actions, rows
from tests.payments.shop import Shop
from tests.payments.tills import company, intend, service, state
from tests.wallets.purses import balance_of, charge, freeze, refused
from tests.world import CARL, DORA, OLIVIA, SUE


async def test_a_part_and_then_the_rest(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    part = await shop.refund(paid["id"], "5.50", reason="One of three was broken")
    assert (part.status_code, part.json()["status"]) == (201, "completed")
    assert await state(shop.live, paid["id"]) == ("partially_refunded", 20, Decimal("5.5"))
    rest = await shop.refund(paid["id"])
    assert rest.json()["amount"] == 14.5
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)
    assert await balance_of(shop.live, CARL) == 0
    assert sum(each["amount"] for each in shop.stripe.books("refund")) == 2000
    assert refused(await shop.refund(paid["id"])) == (422, "payments.refund_too_large")
    assert await actions(shop.live, paid["id"]) == [
        "payments.asked_for",
        "payments.refund_asked_for",
        "payments.refund_asked_for",
    ]


async def test_of_two_that_race_for_the_whole_one_succeeds(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    answers = await asyncio.gather(*(shop.refund(paid["id"], 20) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201, *[422] * 7]
    assert len(shop.stripe.books("refund")) == 1
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)


async def test_a_key_is_one_refund(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    answers = [await shop.refund(paid["id"], 5, key="r1") for _ in range(3)]
    assert {answer.json()["id"] for answer in answers} == {answers[0].json()["id"]}
    assert answers[1].headers["Idempotent-Replayed"] == "true"
    other = await shop.refund(paid["id"], 6, key="r1")
    assert refused(other) == (422, "idempotency.key_reused")
    assert len(shop.stripe.books("refund")) == 1


async def test_what_the_wallet_has_spent_does_not_go_back(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    await charge(shop.live, CARL, 15)
    answer = await shop.refund(paid["id"], 6)
    assert refused(answer) == (402, "wallet.insufficient_funds")
    assert answer.json()["available"] == 5
    assert await rows(shop.live, "select id from refunds") == []
    assert (await shop.refund(paid["id"], 5)).status_code == 201


async def test_a_frozen_wallet_gives_nothing_back(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    await freeze(shop.live, CARL)
    assert refused(await shop.refund(paid["id"])) == (409, "wallet.account_frozen")


async def test_what_is_on_its_way_cannot_be_spent(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    shop.stripe.fail("POST", "/v1/refunds", "after")
    answer = await shop.refund(paid["id"], 20)
    assert (answer.status_code, answer.json()["status"]) == (201, "pending")
    assert await balance_of(shop.live, CARL) == 0
    assert (await company(shop.live))["refunds"] == 20
    assert refused(await shop.refund(paid["id"], 1)) == (422, "payments.refund_too_large")
    await rows(shop.live, "update refunds set asked_at = now() - interval '2 minutes'")
    await sweep(shop)
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)
    assert len(shop.stripe.books("refund")) == 1
    assert "refunds" not in await company(shop.live)


async def sweep(shop: Shop) -> None:
    """What a minute of the worker's clock does."""
    async with shop.live.database.transaction(WORKER) as db:
        await tasks.sweep(db, {})
    await shop.work()


async def test_the_webhook_overtakes_the_answer(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    shop.stripe.fail("POST", "/v1/refunds", "after")
    await shop.refund(paid["id"], 20)
    await shop.hear("refund")
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)
    await rows(shop.live, "update refunds set asked_at = now() - interval '2 minutes'")
    await sweep(shop)
    [row] = await rows(shop.live, "select status, provider_refund_id from refunds")
    assert row["status"] == "completed"
    assert row["provider_refund_id"] == shop.stripe.books("refund")[0]["id"]


async def test_a_refund_that_fails_later_comes_back_to_the_wallet(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    await shop.refund(paid["id"], 20)
    shop.stripe.fail_refund(shop.stripe.books("refund")[0]["id"])
    await shop.hear()
    [row] = await rows(shop.live, "select status, failure_reason from refunds")
    assert (row["status"], row["failure_reason"]) == ("returned", "expired_or_canceled_card")
    assert await balance_of(shop.live, CARL) == 20
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)  # it does not go back


async def sums(shop: Shop) -> list[Decimal]:
    """In all, spent, and spent again; the follower has read about half of it."""
    async with shop.live.database.transaction(WORKER) as db:
        await spending.add_up(db, most=2)
    async with shop.live.api(CARL) as api:
        balance = (await api.get(f"/api/v1/balance/{CARL.id}")).json()
        told = (await api.get("/api/v1/users/me/analytics/spending")).json()
    return [balance["total_balance"], balance["spent_balance"], told["total_spent"]]


async def test_what_goes_back_and_what_is_contested_is_not_spent(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    await charge(shop.live, CARL, 3)
    assert await sums(shop) == [20, 3, 3]
    await shop.refund(paid["id"], 5)
    assert await sums(shop) == [15, 3, 3]
    shop.stripe.fail_refund(shop.stripe.books("refund")[0]["id"])
    await shop.hear()
    assert await sums(shop) == [20, 3, 3]
    other = await shop.paid(CARL, 10)
    dispute = shop.stripe.dispute(other["stripePaymentIntentId"])
    await shop.hear("charge.dispute")
    assert await sums(shop) == [20, 3, 3]
    shop.stripe.close(dispute, "won")
    await shop.hear("charge.dispute")
    assert await sums(shop) == [30, 3, 3]


async def test_a_disputed_payment_is_not_refunded(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    dispute = shop.stripe.dispute(paid["stripePaymentIntentId"])
    await shop.hear("charge.dispute")
    assert refused(await shop.refund(paid["id"], 1)) == (409, "payments.disputed")
    async with shop.live.api(SUE) as api:
        [seen] = (await api.get("/api/v1/admin/disputes")).json()["disputes"]
    assert (seen["providerDisputeId"], seen["status"], seen["held"]) == (dispute, "open", 20)
    shop.stripe.close(dispute, "won")
    await shop.hear("charge.dispute")
    assert (await shop.refund(paid["id"], 1)).status_code == 201


async def test_nothing_goes_back_of_what_has_not_come(shop: Shop) -> None:
    begun = await shop.begin(CARL, 20)
    assert refused(await shop.refund(begun["id"])) == (409, "payments.not_captured")
    nowhere = await shop.refund("00000000-0000-7000-8000-00000000dead")
    assert refused(nowhere) == (404, "payments.unknown_payment")


async def test_bad_amounts(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    for amount, code in (
        (0, "invalid_input"),
        (-1, "invalid_input"),
        ("1.001", "money.too_many_digits"),
        ("20.01", "payments.refund_too_large"),
    ):
        assert refused(await shop.refund(paid["id"], amount)) == (422, code), amount
    assert shop.stripe.books("refund") == []


async def test_only_staff_refund(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    for who in (CARL, DORA, SUE):
        answer = await shop.post(who, f"/api/v1/payments/{paid['id']}/refunds", {})
        assert answer.status_code == 403


async def test_what_was_paid_for_something_may_go_to_the_wallet(shop: Shop) -> None:
    payment = await intend(
        shop.live, CARL, 20, purpose="service", service_id=await service(shop.live),
        payment_method="cash", provider="manual",
    )  # fmt: skip
    confirmed = await shop.post(OLIVIA, f"/api/v1/admin/payments/{payment}/confirmation")
    assert confirmed.json()["status"] == "completed"
    answer = await shop.refund(str(payment), 8, destination="wallet")
    assert answer.json()["status"] == "completed"
    assert await balance_of(shop.live, CARL) == 8
    assert (await shop.refund(str(payment), 12)).json()["status"] == "completed"  # cash, by hand
    assert await company(shop.live) == {"clearing": -8}


async def test_a_top_up_does_not_go_to_the_wallet_it_is_in(shop: Shop) -> None:
    paid = await shop.paid(CARL, 20)
    answer = await shop.refund(paid["id"], destination="wallet")
    assert refused(answer) == (422, "payments.not_to_wallet")


async def test_what_stripe_refuses_goes_back_to_the_wallet(shop: Shop) -> None:
    """Somebody has refunded there, and we have not heard of it yet."""
    paid = await shop.paid(CARL, 20)
    shop.stripe.refund(paid["stripePaymentIntentId"], 2000)
    answer = await shop.refund(paid["id"], 20)
    assert answer.json()["status"] == "failed"
    assert await balance_of(shop.live, CARL) == 20
    await shop.hear()
    assert await state(shop.live, paid["id"]) == ("refunded", 20, 20)
    assert await balance_of(shop.live, CARL) == 0
