"""Killed between any two steps of a payment by PayPal: afterwards its books and ours agree."""

from collections.abc import AsyncIterator, Iterator
from decimal import Decimal

import pytest

from tests.accounts.people import rows
from tests.databases import SECRET
from tests.payments import paypal_program
from tests.payments.mortals import Mortal
from tests.payments.paypal_program import Account, paypal_server
from tests.payments.paypal_shop import PAYMENTS, Till, paypal_till
from tests.payments.test_reconciliation import compare
from tests.payments.tills import company
from tests.wallets.purses import balance_of
from tests.world import CARL, OLIVIA


@pytest.fixture(scope="module")
def paypal_process() -> Iterator[Account]:
    with paypal_server() as account:
        yield account


@pytest.fixture(scope="module")
def program(paypal_process: Account) -> Iterator[Mortal]:
    mortal = Mortal(SSL_CERT_FILE=str(paypal_process.roots))
    yield mortal
    mortal.end()


@pytest.fixture
async def till(paypal_process: Account, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    monkeypatch.setenv("SSL_CERT_FILE", str(paypal_process.roots))
    async with paypal_till(paypal_process) as till:
        yield till


@pytest.fixture
def mortal(program: Mortal, till: Till) -> Mortal:
    program.at(
        till.live.url,
        paypal_client_id=paypal_program.CLIENT,
        paypal_client_secret=paypal_program.SECRET,
        paypal_api_base=till.paypal.url,
        secret_key=SECRET,
    )
    return program


async def agree(till: Till) -> None:
    """By the daily comparison with PayPal's report; and what it owes us is in the ledger."""
    assert await compare(till.live, till.live.app.state.providers.known["paypal"]) == 0
    captures, refunds = till.paypal.books("captures"), till.paypal.books("refunds")
    fees = [each["seller_receivable_breakdown"]["paypal_fee"] for each in captures.values()]
    has = sum(Decimal(each["amount"]["value"]) for each in captures.values())
    has -= sum(Decimal(each["amount"]["value"]) for each in refunds.values())
    has -= sum(Decimal(each["value"]) for each in fees)
    now = await company(till.live)
    assert -now.get("clearing", Decimal(0)) == has
    assert "refunds" not in now


async def test_asking_for_a_payment_is_killed_between_any_two_steps(
    till: Till, mortal: Mortal
) -> None:
    body = {"payment_method": "paypal", "amount": 20}
    killed = mortal.kill_everywhere(lambda moment: ("carl", PAYMENTS, body, f"click-{moment}"))
    assert len(killed) > 8
    await till.sweep()
    for _, path, _, key in killed:
        async with till.live.api(CARL, **{"Idempotency-Key": key}) as api:
            again = await api.post(path, json=body)
        assert again.status_code == 201
        assert again.json()["next_action"]["url"]
    ours = await rows(till.live, "select paypal_order_id from payments")
    assert {row["paypal_order_id"] for row in ours} == set(till.paypal.books("orders"))
    assert len(ours) == len(killed)
    await agree(till)


async def test_taking_the_money_is_killed_between_any_two_steps(till: Till, mortal: Mortal) -> None:
    begun = [await till.begin(20) for _ in range(20)]
    for each in begun:
        till.paypal.approve(each["paypal_order_id"])
    paths = [f"{PAYMENTS}/{each['id']}/confirmation" for each in begun]
    killed = mortal.kill_everywhere(lambda moment: ("carl", paths[moment - 1], None, str(moment)))
    assert len(killed) > 7
    await till.sweep()
    for each in begun:
        assert (await till.confirm(each))["status"] == "completed"
    assert len(till.paypal.books("captures")) == len(begun)
    assert await balance_of(till.live, CARL) == 20 * len(begun)
    await agree(till)


async def test_giving_back_is_killed_between_any_two_steps(till: Till, mortal: Mortal) -> None:
    path = f"{PAYMENTS}/{(await till.paid(500))['id']}/refunds"
    body = {"amount": 3}
    killed = mortal.kill_everywhere(lambda moment: ("olivia", path, body, f"refund-{moment}"))
    assert len(killed) > 6
    await till.sweep()
    for *_, key in killed:
        async with till.live.api(OLIVIA, **{"Idempotency-Key": key}) as api:
            again = await api.post(path, json=body)
        assert (again.status_code, again.json()["status"]) == (201, "completed")
    assert len(till.paypal.books("refunds")) == len(killed)
    assert await balance_of(till.live, CARL) == 500 - 3 * len(killed)
    await agree(till)
