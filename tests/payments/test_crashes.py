"""Killed between any two steps: afterwards the provider's books and ours agree, each thing once."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from bursar.core.database import WORKER
from bursar.payments import tasks
from tests.accounts.people import rows
from tests.databases import SECRET
from tests.payments.mortals import Mortal
from tests.payments.shop import KEY, PAYMENTS, Shop
from tests.payments.tills import company
from tests.wallets.purses import balance_of
from tests.world import CARL, OLIVIA


@pytest.fixture(scope="module")
def program() -> Iterator[Mortal]:
    mortal = Mortal()
    yield mortal
    mortal.end()


@pytest.fixture
def mortal(program: Mortal, shop: Shop) -> Mortal:
    program.at(
        shop.live.url, stripe_secret_key=KEY, stripe_api_base=shop.stripe.url, secret_key=SECRET
    )
    return program


async def recover(shop: Shop) -> None:
    """A minute later: the sweeper of whatever process is there asks again."""
    for table in ("payments", "refunds"):
        await rows(
            shop.live,
            f"update {table} set asked_at = now() - interval '3 hours'"
            " where provider_state in ('intended', 'unknown')",
        )
    async with shop.live.database.transaction(WORKER) as db:
        await tasks.sweep(db, {})
    await shop.work()


async def agree(shop: Shop) -> None:
    """Each payment has one intent there, and each refund one; nothing is there that is not here;
    what Stripe owes us by its own books is what our ledger says."""
    ours = await rows(shop.live, "select * from payments")
    intents = {each["id"]: each for each in shop.stripe.books("payment_intent")}
    assert {row["stripe_payment_intent_id"] for row in ours} == set(intents)
    for row in ours:
        intent = intents[row["stripe_payment_intent_id"]]
        assert intent["metadata"]["payment_id"] == str(row["id"])
        assert intent["amount_received"] == row["captured"] * 100
    refunds = await rows(shop.live, "select * from refunds")
    there = shop.stripe.books("refund")
    assert {(row["provider_refund_id"], row["amount"] * 100) for row in refunds} == {
        (each["id"], each["amount"]) for each in there
    }
    assert all(row["status"] == "completed" for row in refunds)
    entries = shop.stripe.books("balance_transaction")
    has = Decimal(sum(each["net"] for each in entries)) / 100
    assert -(await company(shop.live)).get("clearing", Decimal(0)) == has
    assert "refunds" not in await company(shop.live)
    [sums] = await rows(
        shop.live, "select coalesce(sum(captured - refunded), 0) as rest from payments"
    )
    assert await balance_of(shop.live, CARL) == sums["rest"]


async def test_asking_for_a_payment_is_killed_between_any_two_steps(
    shop: Shop, mortal: Mortal
) -> None:
    body = {"payment_method": "stripe", "amount": 20}
    killed = mortal.kill_everywhere(lambda moment: ("carl", PAYMENTS, body, f"click-{moment}"))
    assert len(killed) > 8
    await recover(shop)
    await agree(shop)
    for _, path, _, key in killed:
        again = await shop.post(CARL, path, body, **{"Idempotency-Key": key})
        assert again.status_code == 201
        assert again.json()["next_action"]["client_secret"]
    await agree(shop)
    assert len(shop.stripe.books("payment_intent")) == len(killed)


async def test_taking_the_money_is_killed_between_any_two_steps(shop: Shop, mortal: Mortal) -> None:
    paths = [f"{PAYMENTS}/{(await shop.pay(CARL, 20))['id']}/confirmation" for _ in range(20)]
    killed = mortal.kill_everywhere(lambda moment: ("carl", paths[moment - 1], None, str(moment)))
    assert len(killed) > 6
    await recover(shop)
    for path in paths:
        assert (await shop.post(CARL, path)).json()["status"] == "completed"
    await shop.work()
    await agree(shop)
    assert await balance_of(shop.live, CARL) == 20 * len(paths)


async def test_what_was_killed_after_the_customer_has_paid_is_found_without_them(
    shop: Shop, mortal: Mortal
) -> None:
    begun = await shop.pay(CARL, 20)
    path = f"{PAYMENTS}/{begun['id']}/confirmation"
    assert mortal.post("carl", path, None, "", kill_at=6) is None  # it has claimed the payment
    await recover(shop)
    assert (await shop.read(begun["id"]))["status"] == "completed"
    await agree(shop)


async def test_giving_back_is_killed_between_any_two_steps(shop: Shop, mortal: Mortal) -> None:
    paid = await shop.paid(CARL, 500)
    path = f"{PAYMENTS}/{paid['id']}/refunds"
    body = {"amount": 3}
    killed = mortal.kill_everywhere(lambda moment: ("olivia", path, body, f"refund-{moment}"))
    assert len(killed) > 6
    await recover(shop)
    await agree(shop)
    for *_, key in killed:
        again = await shop.post(OLIVIA, path, body, **{"Idempotency-Key": key})
        assert (again.status_code, again.json()["status"]) == (201, "completed")
    await agree(shop)
    assert len(shop.stripe.books("refund")) == len(killed)
    assert await balance_of(shop.live, CARL) == 500 - 3 * len(killed)


async def test_recording_cash_is_killed_between_any_two_steps(shop: Shop, mortal: Mortal) -> None:
    path = "/api/v1/admin/payments"
    body = {"userId": str(CARL.id), "paymentMethod": "cash", "amount": 3}
    killed = mortal.kill_everywhere(lambda moment: ("olivia", path, body, f"cash-{moment}"))
    for *_, key in killed:
        again = await shop.post(OLIVIA, path, body, **{"Idempotency-Key": key})
        assert (again.status_code, again.json()["status"]) == (201, "completed")
    assert await balance_of(shop.live, CARL) == 3 * len(killed)
    [made] = await rows(shop.live, "select count(*) as n from payments")
    assert made["n"] == len(killed)
