"""Stripe's own library: digits of currencies, keys that are forgotten, and PyPI's localstripe."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from stripe import StripeClient

from bursar.core.errors import BursarError
from bursar.payments.models import ProviderState
from bursar.payments.providers import Charge, Return, Unknown, What
from bursar.payments.providers.stripe import Stripe, minor
from tests.accounts.people import rows
from tests.payments.shop import Shop
from tests.payments.test_refunds import sweep
from tests.payments.tills import state
from tests.programs import free_port, until
from tests.world import CARL


@pytest.mark.parametrize(
    ("amount", "currency", "asked"),
    [
        ("20.50", "USD", 2050),
        ("2050", "JPY", 2050),
        ("1.230", "KWD", 1230),
        ("50", "UGX", 5000),
        ("50", "ISK", 5000),
        ("50", "MGA", 50),
    ],
)
def test_amounts_in_stripes_words(amount: str, currency: str, asked: int) -> None:
    assert minor(Decimal(amount), currency) == asked


def test_what_stripe_cannot_say_is_refused() -> None:
    with pytest.raises(BursarError):
        minor(Decimal("50.5"), "MGA")


async def test_a_refund_whose_key_stripe_has_forgotten_is_not_made_again(shop: Shop) -> None:
    """The answer is lost, and this machine is away for two days."""
    paid = await shop.paid(CARL, 20)
    shop.stripe.fail("POST", "/v1/refunds", "after")
    await shop.refund(paid["id"], 5)
    shop.stripe.forget_keys()
    away = "update refunds set created_at = now() - interval '2 days', asked_at = null"
    await rows(shop.live, "alter table refunds disable trigger user")
    await rows(shop.live, away)
    await rows(shop.live, "alter table refunds enable trigger user")
    await sweep(shop)
    assert len(shop.stripe.books("refund")) == 1
    assert await state(shop.live, paid["id"]) == ("partially_refunded", 20, 5)


@pytest.fixture(scope="module")
def localstripe() -> Iterator[str]:
    port = free_port()
    child = subprocess.Popen(
        [sys.executable, "-m", "localstripe", "--port", str(port), "--from-scratch"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(port), "localstripe")
        yield f"http://127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture
async def stripe(localstripe: str) -> AsyncIterator[Stripe]:
    provider = Stripe("sk_test_local", ("whsec_x",), localstripe)
    yield provider
    await provider.close()


def charge(**more: object) -> Charge:
    payment = uuid4()
    given = {"key": f"payment-{payment}", "payment_id": payment, "description": "A test"}
    rest = {"amount": Decimal(20), "currency": "USD", "return_url": "http://127.0.0.1/x"}
    return Charge(**{**given, **rest, **more})  # type: ignore[arg-type]


async def test_looked_at_and_cancelled_at_localstripe(stripe: Stripe, localstripe: str) -> None:
    """It takes no description, so the intent is made by the library itself."""
    asked = charge()
    refusal = await stripe.create(asked)
    assert refusal.state == ProviderState.GONE
    assert "Unexpected description" in str(refusal.reason)
    client = StripeClient("sk_test_local", base_addresses={"api": localstripe})
    own = {"payment_id": str(asked.payment_id)}
    params: Any = {"amount": 2000, "currency": "usd", "metadata": own}
    made = await asyncio.to_thread(client.v1.payment_intents.create, params)
    known = charge(payment_id=asked.payment_id, ids={"stripe_payment_intent_id": made.id})
    waiting = await stripe.look(known)
    assert waiting.state == ProviderState.WAITING
    assert waiting.next_action is not None
    assert waiting.next_action["client_secret"] == made.client_secret
    assert (await stripe.cancel(known)).state == ProviderState.GONE
    [fact] = (await stripe.look(known)).facts
    assert (fact.what, fact.payment["id"]) == (What.CANCELLED, str(asked.payment_id))


async def test_nobody_there_is_unknown() -> None:
    provider = Stripe("sk_test_local", (), "http://127.0.0.1:9")
    with pytest.raises(Unknown):
        await provider.create(charge())
    back = Return("k", uuid4(), uuid4(), Decimal(1), "USD", True, {"stripe_payment_intent_id": "x"})
    with pytest.raises(Unknown):
        await provider.refund(back)
    await provider.close()
