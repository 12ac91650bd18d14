"""The provider for show: its page approves or declines, for whoever holds the link."""

import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest

from bursar.app import create_app
from bursar.commands.serve import with_demo_payments
from bursar.core.settings import Settings
from tests import databases
from tests.accounts.people import rows
from tests.conftest import Live
from tests.payments.tills import state
from tests.wallets.purses import balance_of, move_in, refused
from tests.world import CARL, OLIVIA

PAYMENTS = "/api/v1/payments"


@pytest.fixture
async def show() -> AsyncIterator[Live]:
    settings = databases.test_settings(demo_payments=True)
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await move_in(live)
    yield live
    await live.app.state.till.close()
    await live.database.close()
    await databases.discard(url)


async def begin(show: Live, method: str = "stripe") -> tuple[str, str, str]:
    """Its id, the path of its page and the token in that."""
    async with show.api(CARL) as api:
        answer = await api.post(PAYMENTS, json={"payment_method": method, "amount": 20})
    assert answer.status_code == 201, answer.text
    begun = answer.json()
    assert begun["test_mode"] is True
    path, _, token = begun["next_action"]["url"].partition("?token=")
    return begun["id"], path.removeprefix(show.settings.public_url), token


async def decide(show: Live, path: str, token: str, decision: str) -> int:
    async with show.api() as api:
        answer = await api.post(path, data={"token": token, "decision": decision})
        return answer.status_code


@pytest.mark.parametrize("method", ["stripe", "paypal"])
async def test_approved_on_its_page(show: Live, method: str) -> None:
    payment, path, token = await begin(show, method)
    assert await decide(show, path, token, "approve") == 303
    assert (await state(show, payment))[0] == "completed"
    assert await decide(show, path, token, "approve") == 303
    assert await balance_of(show, CARL) == 20
    [row] = await rows(show, "select provider, test_mode from payments")
    assert (row["provider"], row["test_mode"]) == ("demo", True)


async def test_declined_it_can_be_tried_again(show: Live) -> None:
    payment, path, token = await begin(show)
    assert await decide(show, path, token, "decline") == 303
    async with show.api(CARL) as api:
        seen = (await api.get(f"{PAYMENTS}/{payment}")).json()
    assert (seen["status"], seen["failure_code"]) == ("pending", "card_declined")
    assert await decide(show, path, token, "approve") == 303
    assert await balance_of(show, CARL) == 20


async def test_its_page_is_plain_and_says_what_it_is(show: Live) -> None:
    _, path, token = await begin(show)
    async with show.api() as api:
        page = await api.get(path, params={"token": token})
        style = await api.get("/demo-payments/page.css")
    assert "TEST MODE" in page.text
    assert "20.00 USD" in page.text
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in page.text
    assert " style=" not in page.text
    assert page.headers["referrer-policy"] == "no-referrer"
    assert style.headers["content-type"].startswith("text/css")
    HTMLParser().feed(page.text)


async def test_nobody_without_the_link_can_use_it(show: Live) -> None:
    payment, path, token = await begin(show)
    _, _, other = await begin(show)
    for wrong in ("", "0" * 64, other, token[:-1], token.upper()):
        async with show.api(OLIVIA) as api:
            assert (await api.get(path, params={"token": wrong})).status_code == 404
        assert await decide(show, path, wrong, "approve") == 404
    assert (await state(show, payment))[0] == "pending"
    assert re.fullmatch(r"[0-9a-f]{64}", token)


async def test_a_refund_goes_back_at_once(show: Live) -> None:
    payment, path, token = await begin(show)
    await decide(show, path, token, "approve")
    async with show.api(OLIVIA) as api:
        answer = await api.post(f"{PAYMENTS}/{payment}/refunds", json={"amount": 5})
    assert answer.json()["status"] == "completed"
    assert await balance_of(show, CARL) == 15


async def test_without_the_setting_there_is_no_page(live_db: Live) -> None:
    async with live_db.api() as api:
        path = "/demo-payments/00000000-0000-7000-8000-000000000001?token=x"
        assert (await api.get(path)).status_code == 404
    await move_in(live_db)
    async with live_db.api(CARL) as api:
        answer = await api.post(PAYMENTS, json={"payment_method": "stripe", "amount": 20})
    assert refused(answer) == (422, "payments.provider_missing")


LIVE = {"public_url": "https://pay.example.com"}


@pytest.mark.parametrize(
    "given", [LIVE, {"stripe_secret_key": "sk_live_1"}, {"stripe_secret_key": "sk_test_1"}]
)
def test_it_is_refused_where_real_money_may_be_meant(given: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="for trying things out"):
        databases.test_settings(demo_payments=True, **given)


@pytest.mark.parametrize(
    ("given", "on"),
    [
        ({}, True),
        (LIVE, False),
        ({"host": "0.0.0.0"}, False),
        ({"stripe_secret_key": "sk_test_1"}, False),
        ({"demo_payments": False}, False),
    ],
)
def test_serve_demo_turns_it_on_where_it_may(given: dict[str, object], on: bool) -> None:
    settings: Settings = databases.test_settings(**given)
    assert with_demo_payments(settings).demo_payments is on
