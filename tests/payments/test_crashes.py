"""Killed between any two steps: afterwards the provider's books and ours agree, and a client that
asks again with its key gets what it had asked for, once."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.payments import tasks
from tests.accounts.people import rows
from tests.databases import SECRET
from tests.payments.shop import KEY, PAYMENTS, Shop
from tests.payments.tills import company
from tests.wallets.purses import balance_of
from tests.world import CARL, OLIVIA

ROOT = Path(__file__).parents[2]
MOST_MOMENTS = 40


class Mortal:
    """The program that is killed; a child for each request."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.payments.mortal_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )

    def post(self, who: str, path: str, body: Any, *, kill_at: int, **headers: str) -> str | None:
        """What was answered, or None where it was killed."""
        order = {
            "url": self._shop.live.url,
            "settings": {
                "secret_key": SECRET,
                "stripe_secret_key": KEY,
                "stripe_api_base": self._shop.stripe.url,
            },
            "who": who,
            "path": path,
            "body": body,
            "headers": headers,
            "kill_at": kill_at,
        }
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.write(json.dumps(order) + "\n")
        self._program.stdin.flush()
        said = self._program.stdout.readline().split()
        assert said, "the program has ended"
        if said == ["killed"]:
            return None
        assert int(said[0]) < MOST_MOMENTS
        return said[1]

    def end(self) -> None:
        self._program.communicate()


@pytest.fixture
def mortal(shop: Shop) -> Iterator[Mortal]:
    program = Mortal(shop)
    yield program
    program.end()


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
    for moment in range(1, MOST_MOMENTS):
        key = f"click-{moment}"
        answered = mortal.post("carl", PAYMENTS, body, kill_at=moment, **{"Idempotency-Key": key})
        await recover(shop)
        await agree(shop)
        again = await shop.post(CARL, PAYMENTS, body, **{"Idempotency-Key": key})
        assert again.status_code == 201
        assert again.json()["next_action"]["client_secret"]
        await agree(shop)
        assert len(shop.stripe.books("payment_intent")) == moment
        if answered:
            assert (answered, again.headers["Idempotent-Replayed"]) == ("201", "true")
            break
    assert moment > 8


async def test_taking_the_money_is_killed_between_any_two_steps(shop: Shop, mortal: Mortal) -> None:
    for moment in range(1, MOST_MOMENTS):
        begun = await shop.pay(CARL, 20)
        path = f"{PAYMENTS}/{begun['id']}/confirmation"
        answered = mortal.post("carl", path, None, kill_at=moment)
        await recover(shop)
        again = await shop.post(CARL, path)
        assert again.json()["status"] == "completed"
        await shop.work()
        await agree(shop)
        if answered:
            break
    assert moment > 6
    assert await balance_of(shop.live, CARL) == 20 * moment


async def test_giving_back_is_killed_between_any_two_steps(shop: Shop, mortal: Mortal) -> None:
    paid = await shop.paid(CARL, 500)
    path = f"{PAYMENTS}/{paid['id']}/refunds"
    for moment in range(1, MOST_MOMENTS):
        key = f"refund-{moment}"
        answered = mortal.post(
            "olivia", path, {"amount": 3}, kill_at=moment, **{"Idempotency-Key": key}
        )
        await recover(shop)
        await agree(shop)
        again = await shop.post(OLIVIA, path, {"amount": 3}, **{"Idempotency-Key": key})
        assert (again.status_code, again.json()["status"]) == (201, "completed")
        await agree(shop)
        assert len(shop.stripe.books("refund")) == moment
        if answered:
            break
    assert moment > 6
    assert await balance_of(shop.live, CARL) == 500 - 3 * moment
