"""PayPal: approved there, taken once here; refunds, disputes, declines, lost answers; webhooks."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx2
import pytest

from bursar.app import create_app
from bursar.payments.providers.paypal import worded
from tests import databases
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.paypal_program import CLIENT, SECRET, WEBHOOK_IDS, Account, paypal_server
from tests.payments.tills import changes, company, state
from tests.wallets.purses import balance_of, move_in, refused
from tests.world import CARL, OLIVIA

PAYMENTS = "/api/v1/payments"
WEBHOOK = f"{PAYMENTS}/webhooks/paypal"
ORDERS = "/v2/checkout/orders"


@dataclass
class Till:
    """Bursar and its PayPal."""

    live: Live
    paypal: Account

    async def begin(self, amount: Any = 20, **given: Any) -> dict[str, Any]:
        body = {"payment_method": "paypal", "amount": amount, **given}
        return await self.post(PAYMENTS, body, status=201)

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
        async with self.live.api(OLIVIA if path.endswith("refunds") else CARL) as api:
            answer = await api.post(path, json=body)
        assert answer.status_code == status, answer.text
        answered: dict[str, Any] = answer.json()
        return answered

    async def confirm(self, payment: dict[str, Any]) -> dict[str, Any]:
        return await self.post(f"{PAYMENTS}/{payment['id']}/confirmation")

    async def paid(self, amount: Any = 20) -> dict[str, Any]:
        begun = await self.begin(amount)
        self.paypal.approve(begun["paypal_order_id"])
        return await self.confirm(begun)

    async def tell(self, event: dict[str, Any], **how: Any) -> httpx2.Response:
        body = json.dumps(event)
        return await self.send(body, self.paypal.sign(body, **how))

    async def send(self, body: str, headers: dict[str, str]) -> httpx2.Response:
        async with self.live.api() as api:
            return await api.post(WEBHOOK, content=body, headers=headers)

    async def hear(self, kind: str = "") -> None:
        for event in self.paypal.events(kind):
            assert (await self.tell(event)).status_code == 200
        await run_jobs(self.live)

    async def sweep(self) -> None:
        """A minute and more later."""
        await rows(self.live, "update payments set asked_at = now() - interval '2 hours'")
        await rows(self.live, "update refunds set asked_at = now() - interval '2 hours'")
        await rows(self.live, "select enqueue_job('payments.ask_again', '{}')")
        await run_jobs(self.live)

    async def told(self) -> dict[str, str]:
        found = await rows(self.live, "select type, status from payment_events")
        return {row["type"]: row["status"] for row in found}


@pytest.fixture(scope="module")
def paypal_process() -> Iterator[Account]:
    with paypal_server() as account:
        yield account


@pytest.fixture
async def till(paypal_process: Account, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    monkeypatch.setenv("SSL_CERT_FILE", str(paypal_process.roots))
    paypal_process.side("start_anew")
    settings = databases.test_settings(
        paypal_client_id=CLIENT,
        paypal_client_secret=SECRET,
        paypal_webhook_id=",".join(WEBHOOK_IDS),
        paypal_api_base=paypal_process.url,
    )
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await move_in(live)
    yield Till(live, paypal_process)
    await live.app.state.till.close()
    await live.app.state.providers.close()
    await live.database.close()
    await databases.discard(url)


async def test_approved_at_paypal_and_taken_once(till: Till) -> None:
    begun = await till.begin(20)
    assert begun["status"] == "pending"
    assert begun["next_action"]["url"].startswith("https://www.paypal.example/checkoutnow?token=")
    assert (await till.confirm(begun))["status"] == "pending"
    till.paypal.approve(begun["paypal_order_id"])
    taken = [await till.confirm(begun) for _ in range(2)]
    assert [each["status"] for each in taken] == ["completed"] * 2
    await till.hear()
    assert await state(till.live, begun["id"]) == ("completed", 20, 0)
    assert await balance_of(till.live, CARL) == 20
    assert len(till.paypal.books("captures")) == 1
    [row] = await rows(till.live, "select * from payments")
    assert (row["fee"], row["paypal_payer_id"], row["test_mode"]) == (
        Decimal("0.90"),
        "PAYER7",
        True,
    )
    assert row["paypal_payment_id"] in till.paypal.books("captures")
    assert set((await till.told()).values()) == {"done"}
    assert await changes(till.live, begun["id"]) == ["pending", "completed"]
    assert till.paypal.books("calls")["POST /v1/oauth2/token"] == 1


async def test_a_payer_who_closes_the_page_after_approving_has_paid(till: Till) -> None:
    begun = await till.begin(20)
    till.paypal.approve(begun["paypal_order_id"])
    await till.hear("CHECKOUT.ORDER.APPROVED")
    await till.sweep()
    assert await state(till.live, begun["id"]) == ("completed", 20, 0)


@pytest.mark.parametrize("how", ["before", "after", "500", "503", "429", "409"])
@pytest.mark.parametrize("step", ["create", "capture", "refund"])
async def test_where_no_answer_comes_the_same_key_finds_out(
    till: Till, step: str, how: str
) -> None:
    if step == "create":
        till.paypal.fail("POST", ORDERS, how)
    begun = await till.begin(20)
    if step == "create":
        assert begun["next_action"] is None
        await till.sweep()
        [order] = till.paypal.books("orders")
    else:
        order = begun["paypal_order_id"]
    till.paypal.approve(order)
    if step == "capture":
        till.paypal.fail("POST", f"{ORDERS}/{order}/capture", how)
    assert (await till.confirm(begun))["status"] == (
        "pending" if step == "capture" else "completed"
    )
    await till.sweep()
    [capture] = till.paypal.books("captures")
    if step == "refund":
        till.paypal.fail("POST", f"/v2/payments/captures/{capture}/refund", how)
    made = await till.post(f"{PAYMENTS}/{begun['id']}/refunds", {"amount": 5}, status=201)
    assert made["status"] == ("pending" if step == "refund" else "completed")
    await till.sweep()
    assert len(till.paypal.books("orders")) == len(till.paypal.books("refunds")) == 1
    assert await state(till.live, begun["id"]) == ("partially_refunded", 20, 5)
    assert await balance_of(till.live, CARL) == 15


async def test_a_declined_card_can_be_changed_at_paypal(till: Till) -> None:
    begun = await till.begin(20)
    till.paypal.approve(begun["paypal_order_id"], decline=True)
    declined = await till.confirm(begun)
    assert (declined["status"], declined["failure_code"]) == ("pending", "instrument_declined")
    assert declined["next_action"]["url"] == begun["next_action"]["url"]
    till.paypal.approve(begun["paypal_order_id"])
    assert (await till.confirm(begun))["status"] == "completed"
    assert await balance_of(till.live, CARL) == 20


@pytest.mark.parametrize(("ends", "status"), [("COMPLETED", "completed"), ("DECLINED", "failed")])
async def test_a_capture_that_paypal_looks_at_waits_for_its_end(
    till: Till, ends: str, status: str
) -> None:
    begun = await till.begin(20)
    till.paypal.approve(begun["paypal_order_id"], pending=True)
    assert (await till.confirm(begun))["status"] == "pending"
    cancelled = await till.post(f"{PAYMENTS}/{begun['id']}/cancellation")
    assert cancelled["status"] == "pending"  # the money may be on its way
    [capture] = till.paypal.books("captures")
    till.paypal.side("settle", capture=capture, status=ends)
    await till.hear(f"PAYMENT.CAPTURE.{ends}")
    assert (await state(till.live, begun["id"]))[0] == status


async def test_what_paypal_refuses_is_told(till: Till) -> None:
    await rows(till.live, "insert into assets (code, kind, scale) values ('KWD', 'currency', 6)")
    begun = await till.begin(20, currency="KWD")
    assert begun["status"] == "failed"
    assert begun["failure_code"] == "currency_not_supported"


async def test_an_order_that_has_expired_is_over(till: Till) -> None:
    begun = await till.begin(20)
    till.paypal.side("expire", order=begun["paypal_order_id"])
    assert (await till.confirm(begun))["status"] == "failed"


async def test_given_up_it_is_never_taken(till: Till) -> None:
    begun = await till.begin(20)
    till.paypal.approve(begun["paypal_order_id"])
    await till.post(f"{PAYMENTS}/{begun['id']}/cancellation")
    await till.hear()
    await till.sweep()
    assert await state(till.live, begun["id"]) == ("failed", 0, 0)
    assert till.paypal.books("captures") == {}


async def test_refunds_here_and_at_paypals_own_page(till: Till) -> None:
    paid = await till.paid(20)
    path = f"{PAYMENTS}/{paid['id']}/refunds"
    assert (await till.post(path, {"amount": 5}, status=201))["status"] == "completed"
    [capture] = till.paypal.books("captures")
    amount = {"currency_code": "USD", "value": "7.50"}
    till.paypal.side("refund", capture=capture, amount=amount)
    await till.hear()
    await till.hear()
    assert await state(till.live, paid["id"]) == ("partially_refunded", 20, Decimal("12.5"))
    assert await balance_of(till.live, CARL) == Decimal("7.5")
    assert (await company(till.live))["clearing"] == Decimal("-7.5") + Decimal("0.9")


@pytest.mark.parametrize(
    ("outcome", "balance"), [("RESOLVED_SELLER_FAVOUR", 20), ("RESOLVED_BUYER_FAVOUR", 0)]
)
async def test_a_dispute_holds_the_money_until_it_is_decided(
    till: Till, outcome: str, balance: int
) -> None:
    paid = await till.paid(20)
    [capture] = till.paypal.books("captures")
    till.paypal.side("dispute", capture=capture)
    await till.hear("CUSTOMER.DISPUTE")
    assert await balance_of(till.live, CARL) == 0
    async with till.live.api(OLIVIA) as api:
        answer = await api.post(f"{PAYMENTS}/{paid['id']}/refunds", json={"amount": 1})
    assert refused(answer)[0] == 409
    till.paypal.side("dispute", capture=capture, outcome=outcome)
    await till.hear("CUSTOMER.DISPUTE.RESOLVED")
    assert await balance_of(till.live, CARL) == balance


async def test_a_token_that_was_taken_back_is_fetched_anew(till: Till) -> None:
    begun = await till.begin(20)
    till.paypal.approve(begun["paypal_order_id"])
    till.paypal.side("forget_tokens")
    assert (await till.confirm(begun))["status"] == "pending"
    await till.sweep()
    assert await state(till.live, begun["id"]) == ("completed", 20, 0)


async def test_each_webhook_twenty_times_at_once_has_one_effect(till: Till) -> None:
    paid = await till.paid(20)
    [event] = till.paypal.events("PAYMENT.CAPTURE.COMPLETED")
    answers = await asyncio.gather(*(till.tell(event) for _ in range(20)))
    assert sorted(answer.json()["new"] for answer in answers) == [False] * 19 + [True]
    await run_jobs(till.live)
    assert await balance_of(till.live, CARL) == 20
    assert await changes(till.live, paid["id"]) == ["pending", "completed"]
    assert till.paypal.books("calls")["certificates"] <= 20


EVENT = {"id": "WH-1", "event_type": "X.Y", "create_time": "2026-11-28T10:00:00Z", "resource": {}}


async def unwritten(till: Till, answer: httpx2.Response, code: str) -> None:
    assert refused(answer)[1] == code
    assert await rows(till.live, "select id from payment_events") == []


@pytest.mark.parametrize("webhook_id", WEBHOOK_IDS)
async def test_both_webhook_ids_are_taken_while_one_replaces_the_other(
    till: Till, webhook_id: str
) -> None:
    assert (await till.tell(EVENT, webhook_id=webhook_id)).status_code == 200
    await run_jobs(till.live)
    assert await till.told() == {"X.Y": "ignored"}


@pytest.mark.parametrize(("age", "taken"), [(301, False), (-302, False), (295, True), (-295, True)])
async def test_older_or_newer_than_300_seconds_is_refused(
    till: Till, age: int, taken: bool
) -> None:
    answer = await till.tell(EVENT, age_seconds=age)
    if taken:
        assert answer.status_code == 200
    else:
        await unwritten(till, answer, "payments.bad_clock")


async def test_one_byte_changed_is_refused(till: Till) -> None:
    body = json.dumps(EVENT)
    answer = await till.send(body.replace("X.Y", "X.Z"), till.paypal.sign(body))
    await unwritten(till, answer, "payments.bad_signature")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Auth-Algo", "SHA1withRSA"),
        ("Auth-Algo", ""),
        ("Transmission-Sig", "no base64!"),
        ("Transmission-Sig", ""),
        ("Transmission-Id", "another"),
        ("Transmission-Time", "2026-11-28T10:00:00Z"),
        ("Cert-Url", ""),
        ("Cert-Url", "https://[/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://api.paypal.com/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://evil.example/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "{url}.evil.example/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://user@127.0.0.1/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "{url}/v1/notifications/certs/../../../v2/x"),
        ("Cert-Url", "{url}/v1/notifications/certs/CERT-good?x=1"),
        ("Cert-Url", "http{door}/v1/notifications/certs/CERT-good"),
    ],
)
async def test_a_header_that_is_not_paypals_is_refused(till: Till, name: str, value: str) -> None:
    body = json.dumps(EVENT)
    value = value.format(url=till.paypal.url, door=till.paypal.url.removeprefix("https"))
    headers = till.paypal.sign(body) | {f"PayPal-{name}": value}
    await unwritten(till, await till.send(body, headers), "payments.bad_signature")


@pytest.mark.parametrize(
    "cert", ["expired", "early", "foreign", "another_root", "no_rsa", "garbage", "unknown"]
)
async def test_a_certificate_that_is_not_paypals_is_refused(till: Till, cert: str) -> None:
    answer = await till.tell(EVENT, cert=cert)
    await unwritten(till, answer, "payments.bad_signature")


@pytest.mark.parametrize("cert", ["moved", "away"])
async def test_a_certificate_that_cannot_be_had_is_asked_for_again_later(
    till: Till, cert: str
) -> None:
    answer = await till.tell(EVENT, cert=cert)
    await unwritten(till, answer, "payments.certificate_unavailable")
    assert answer.headers["Retry-After"] == "60"


async def test_ever_new_certificates_are_not_all_fetched(till: Till) -> None:
    answers = [await till.tell(EVENT, cert=f"new{number}") for number in range(25)]
    assert [answer.status_code for answer in answers] == [400] * 20 + [503] * 5
    assert till.paypal.books("calls")["certificates"] == 20


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "{}", '{"id": "x"}'])
async def test_what_is_signed_and_no_event_is_refused(till: Till, body: str) -> None:
    answer = await till.send(body, till.paypal.sign(body))
    await unwritten(till, answer, "payments.bad_event")


@pytest.mark.parametrize(
    "resource", [[], {"status": "COMPLETED"}, {"id": "c", "status": "DECLINED"}]
)
async def test_a_resource_that_cannot_be_read_is_for_staff(till: Till, resource: Any) -> None:
    event = {**EVENT, "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource": resource}
    assert (await till.tell(event)).status_code == 200
    await run_jobs(till.live)
    assert await till.told() == {"PAYMENT.CAPTURE.COMPLETED": "failed"}


async def test_the_books_of_paypal(till: Till) -> None:
    paid = await till.paid(20)
    await till.post(f"{PAYMENTS}/{paid['id']}/refunds", {"amount": 5}, status=201)
    provider = till.live.app.state.providers.of("paypal")
    now = datetime.now(UTC)
    booked = [each async for each in provider.booked(now - timedelta(days=3), now)]
    assert [(each.what, each.amount, each.fee) for each in booked] == [
        ("captured", 20, Decimal("0.90")),
        ("refunded", -5, 0),
    ]
    assert {each.payment["paypal_payment_id"] for each in booked} == {paid["paypal_payment_id"]}


@pytest.mark.parametrize(
    ("amount", "currency", "value"),
    [
        ("20", "USD", "20.00"),
        ("2000", "JPY", "2000"),
        ("20", "HUF", "20"),
        ("20.5", "HUF", "20.50"),
    ],
)
def test_amounts_in_paypals_words(amount: str, currency: str, value: str) -> None:
    assert worded(Decimal(amount), currency)["value"] == value
