"""Stripe's own library: digits of currencies, keys that are forgotten, and PyPI's localstripe."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from uuid import uuid4

import pytest

from bursar.core.errors import BursarError
from bursar.payments.models import ProviderState
from bursar.payments.providers import Charge, Return, Unknown, What
from bursar.payments.providers.stripe import Stripe, minor
from tests.accounts.people import rows
from tests.payments.shop import Shop
from tests.payments.test_refunds import sweep
from tests.payments.tills import state
from tests.programs import until
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
    away = "update refunds set created_at = now() - interval '2 days', asked_at = created_at"
    await rows(shop.live, "alter table refunds disable trigger user")
    await rows(shop.live, away)
    await rows(shop.live, "alter table refunds enable trigger user")
    await sweep(shop)
    assert len(shop.stripe.books("refund")) == 1
    assert await state(shop.live, paid["id"]) == ("partially_refunded", 20, 5)


@pytest.fixture(scope="module")
def localstripe() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
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


async def test_the_plain_flow_at_localstripe(stripe: Stripe) -> None:
    asked = charge()
    begun = await stripe.create(asked)
    assert begun.state == ProviderState.WAITING
    assert begun.next_action is not None
    assert begun.next_action["client_secret"]
    known = charge(payment_id=asked.payment_id, ids=begun.ids)
    assert (await stripe.look(known)).state == ProviderState.WAITING
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
