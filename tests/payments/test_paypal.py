"""PayPal: approved there, taken once here; refunds, disputes, declines, lost answers."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.payments import inbox
from bursar.payments.providers import Unknown
from bursar.payments.providers.paypal import worded
from bursar.payments.providers.paypal_api import Api, Refused
from tests.accounts.people import rows, run_jobs
from tests.payments.paypal_program import CLIENT, SECRET, Account, paypal_server
from tests.payments.paypal_shop import PAYMENTS, Till, paypal_till
from tests.payments.tills import changes, company, state
from tests.wallets.purses import balance_of, refused
from tests.world import CARL, OLIVIA

ORDERS = "/v2/checkout/orders"


@pytest.fixture(scope="module")
def paypal_process() -> Iterator[Account]:
    with paypal_server() as account:
        yield account


@pytest.fixture
def paypal(paypal_process: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setenv("SSL_CERT_FILE", str(paypal_process.roots))
    paypal_process.side("start_anew")
    return paypal_process


@pytest.fixture
async def till(paypal: Account) -> AsyncIterator[Till]:
    async with paypal_till(paypal) as till:
        yield till


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


@pytest.mark.parametrize("how", ["before", "after", "503"])
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


@pytest.mark.parametrize("order", [("PAYMENT", "CUSTOMER"), ("CUSTOMER", "PAYMENT")])
@pytest.mark.parametrize("amount", ["20.00", "12.00"])
async def test_what_paypal_takes_back_by_a_dispute_is_taken_once(
    till: Till, order: tuple[str, str], amount: str
) -> None:
    """It tells the reversal of the capture and the lost dispute: that is one and the same money."""
    paid = await till.paid(20)
    [capture] = till.paypal.books("captures")
    till.paypal.side("dispute", capture=capture, amount=amount)
    await till.hear("CUSTOMER.DISPUTE")
    till.paypal.side("dispute", capture=capture, outcome="RESOLVED_BUYER_FAVOUR")
    names = {"PAYMENT": "PAYMENT.CAPTURE.REVERSED", "CUSTOMER": "CUSTOMER.DISPUTE.RESOLVED"}
    for kind in order:
        await till.hear(names[kind])
    await rows(till.live, "update payment_events set next_try_at = now() where status = 'parked'")
    async with till.live.database.transaction(WORKER) as db:
        await inbox.retry_events(db, {})
    await run_jobs(till.live)
    assert await balance_of(till.live, CARL) == 20 - Decimal(amount)
    _, captured, refunded = await state(till.live, paid["id"])
    assert (captured, refunded) == (20, Decimal(amount))
    assert set((await till.told()).values()) == {"done"}
    [told] = await rows(
        till.live, "select outcome from payment_events where type = 'PAYMENT.CAPTURE.REVERSED'"
    )
    assert told["outcome"] == "it is the money that a dispute has taken already"


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


@pytest.mark.parametrize(
    "resource", [[], {"status": "COMPLETED"}, {"id": "c", "status": "DECLINED"}]
)
async def test_a_resource_that_cannot_be_read_is_for_staff(till: Till, resource: Any) -> None:
    event = {"id": "WH-1", "event_type": "PAYMENT.CAPTURE.COMPLETED", "resource": resource}
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
    assert {each.payment["paypal_payment_id"] for each in booked} == set(
        till.paypal.books("captures")
    )


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


@pytest.mark.parametrize("how", ["401", "403", "408", "409", "429", "500"])
async def test_what_leaves_it_open_is_unknown(paypal: Account, how: str) -> None:
    api = Api(paypal.url, CLIENT, SECRET)
    paypal.fail("GET", f"{ORDERS}/x", how)
    with pytest.raises(Unknown):
        await api.get(f"{ORDERS}/x")
    with pytest.raises(Refused, match="404 INVALID_RESOURCE_ID"):
        await api.get(f"{ORDERS}/x")
    await api.close()


async def test_a_wrong_secret_is_unknown_and_says_so(paypal: Account) -> None:
    api = Api(paypal.url, CLIENT, "wrong")
    with pytest.raises(Unknown, match="401 to our client id and secret"):
        await api.get(f"{ORDERS}/x")
    await api.close()
