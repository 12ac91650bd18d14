"""PayPal's own books beside ours: they agree, and each way in which they do not is listed."""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.payments import reconciliation
from bursar.payments.providers import NotShown
from bursar.payments.providers.paypal_report import read
from bursar.payments.providers.registry import Providers
from bursar.payments.reconciliation import BooksRefused, BooksUnread
from tests.accounts.people import rows
from tests.payments.paypal_program import CLIENT, SECRET, Account, paypal_server
from tests.payments.paypal_shop import PAYMENTS, Till, paypal_till
from tests.payments.test_bank import bursar
from tests.payments.test_reconciliation import Books, charge, compare, damage_by_hand, found
from tests.payments.tills import captured, intend, row_of, tell
from tests.world import CARL

REPORT = "/v1/reporting/transactions"
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def paypal_process() -> Iterator[Account]:
    with paypal_server() as account:
        yield account


@pytest.fixture
async def till(paypal_process: Account, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Till]:
    monkeypatch.setenv("SSL_CERT_FILE", str(paypal_process.roots))
    async with paypal_till(paypal_process) as till:
        yield till


async def differences(till: Till, **period: datetime) -> list[tuple[str, str]]:
    """What is open after one more comparison."""
    provider = till.live.app.state.providers.known["paypal"]
    number = await compare(till.live, provider, **period)
    listed = await found(till.live)
    assert number == len(listed)
    return listed


def entry(name: str, code: str = "T0006", value: str = "20.00", **more: Any) -> dict[str, Any]:
    """A line that PayPal has, and nobody here knows of."""
    return {
        "transaction_id": name,
        "transaction_event_code": code,
        "transaction_initiation_date": f"{NOW:%Y-%m-%dT%H:%M:%S}+0000",
        "transaction_amount": {"currency_code": "USD", "value": value},
        "transaction_status": "S",
        **more,
    }


async def paid(till: Till) -> str:
    """A payment of 20; PayPal's name for its capture."""
    payment = (await till.paid())["id"]
    return str((await row_of(till.live, payment))["paypal_payment_id"])


async def id_of(till: Till) -> str:
    [row] = await rows(till.live, "select id from payments")
    return str(row["id"])


async def dispute(till: Till, capture: str, outcome: str | None = None) -> None:
    till.paypal.side("dispute", capture=capture, outcome=outcome)
    await till.hear("CUSTOMER.DISPUTE")


async def test_what_was_paid_refunded_and_contested_agrees(till: Till) -> None:
    one = (await till.paid())["id"]
    two, three = await paid(till), await paid(till)
    await till.post(f"{PAYMENTS}/{one}/refunds", {"amount": 5}, status=201)
    assert await differences(till) == []
    await dispute(till, two)
    assert await differences(till) == []
    await dispute(till, two, "RESOLVED_SELLER_FAVOUR")
    await dispute(till, three)
    await dispute(till, three, "RESOLVED_BUYER_FAVOUR")
    assert await differences(till) == []


async def test_each_way_in_which_they_differ(till: Till) -> None:
    capture = await paid(till)
    refunds = f"{PAYMENTS}/{await id_of(till)}/refunds"
    await till.post(refunds, {"amount": 5}, status=201)
    [name] = till.paypal.books("refunds")
    real = till.paypal.books("captures")[capture]
    fee = {"paypal_fee": {"currency_code": "USD", "value": "0.91"}}
    euros = {"currency_code": "EUR", "value": "20.00"}
    for change, kind in (
        ({"amount": {**real["amount"], "value": "19.99"}}, "other_amount"),
        ({"amount": euros}, "other_currency"),
        ({"seller_receivable_breakdown": fee}, "other_fee"),
        ({"status": "PENDING"}, "missing_there"),
    ):
        till.paypal.side("change", capture=capture, to=change)
        assert await differences(till) == [(kind, capture)]
        till.paypal.side("change", capture=capture, to=real)
        assert await differences(till) == []
    till.paypal.side("reports", other_lines=[entry("CAP999"), entry("REF999", "T1107", "-3.00")])
    assert await differences(till) == [("missing_here", "CAP999"), ("missing_here", "REF999")]
    till.paypal.side("reports", other_lines=[])
    till.paypal.side("lose", kind="refunds", name=name)
    assert await differences(till) == [("missing_there", name)]


async def test_our_own_books_damaged(till: Till) -> None:
    capture = await paid(till)
    await damage_by_hand(till.live, "update operations set scope = 'x' where key like '%captured'")
    assert await differences(till) == [("payment_without_ledger", await id_of(till))]
    await damage_by_hand(till.live, "update operations set scope = 'payments' where scope = 'x'")
    await damage_by_hand(till.live, "update payments set captured = 19")
    key = f"paypal:{capture}:captured"
    assert await differences(till) == [
        ("ledger_differs", key),
        ("other_amount", capture),
    ]


async def test_many_pages_and_more_than_one_report_may_hold(till: Till) -> None:
    till.paypal.side("reports", other_lines=[entry(f"MANY{n}") for n in range(1_203)])
    assert len(await differences(till)) == 1_203
    assert till.paypal.books("calls")[f"GET {REPORT}"] == 3
    spread = [
        entry(f"MANY{n}", transaction_initiation_date=f"{NOW - timedelta(hours=n):%FT%T}+0000")
        for n in range(50)
    ]
    till.paypal.side("reports", other_lines=spread, most_reported=7)
    period = {"since": NOW - timedelta(days=40), "until": NOW + timedelta(days=1)}
    assert len(await differences(till, **period)) == 50  # in halves, none lost, none twice


async def test_what_is_nobodys_payment_is_passed_over(till: Till) -> None:
    lines = [
        entry("OUT1", "T0403", "-900.00"),
        entry("IN1", "T0300", "50.00"),
        entry("FX1", "T0200", "-10.00"),
        entry("HOLD1", "T2103", "-2.00"),
        entry("FREE1", "T1105", "2.00"),
        entry("NO1", transaction_status="D"),
        entry("LATER1", transaction_status="P"),
    ]
    till.paypal.side("reports", other_lines=lines)
    assert await differences(till) == []
    fee = entry("FEE1", "T0106", "-20.00")  # for a chargeback: that is ours to pay
    till.paypal.side("reports", other_lines=[*lines, fee])
    assert await differences(till) == [("missing_here", "FEE1")]


async def test_a_fee_that_was_given_back(till: Till) -> None:
    capture = await paid(till)
    back = entry("FEE2", "T1108", "0.90", paypal_reference_id=capture)
    till.paypal.side("reports", other_lines=[back])
    assert await differences(till) == [("other_fee", capture)]
    [row] = await rows(till.live, "select ours, theirs from reconciliation_differences")
    assert tuple(row) == (Decimal("0.90"), 0)


async def test_an_app_that_may_not_see_them_is_told_so(till: Till) -> None:
    await till.paid()
    till.paypal.side("reports", shows_transactions=False)
    with pytest.raises(BooksRefused, match="Transaction search"):
        await differences(till)
    till.paypal.side("reports", shows_transactions=True)
    till.paypal.fail("GET", REPORT, "400")
    with pytest.raises(BooksRefused, match="PayPal refuses its report: REFUSED"):
        await differences(till)
    till.paypal.fail("GET", REPORT, "503")
    with pytest.raises(BooksUnread):
        await differences(till)
    till.paypal.side("reports", other_lines=[entry("ODD1", value="much")])
    with pytest.raises(BooksRefused, match="cannot be read"):
        await differences(till)
    till.paypal.side("reports", other_lines=[])
    assert await differences(till) == []


async def test_the_command_says_what_to_do_and_what_it_has_found(till: Till) -> None:
    await paid(till)
    await damage_by_hand(till.live, "update operations set scope = 'x' where key like '%captured'")
    till.paypal.side("reports", shows_transactions=False)
    environment = {
        "BURSAR_PAYPAL_CLIENT_ID": CLIENT,
        "BURSAR_PAYPAL_CLIENT_SECRET": SECRET,
        "BURSAR_PAYPAL_API_BASE": till.paypal.url,
        "SSL_CERT_FILE": str(till.paypal.roots),
    }
    code, said = await bursar(till.live, "reconcile", **environment)
    assert code == 5
    assert f"payment_without_ledger\tpaypal\t{await id_of(till)}" in said
    assert "switch on 'Transaction search'" in said
    assert "Traceback" not in said
    code, said = await bursar(till.live, "reconcile", "--json", **environment)
    assert '"ok": false' in said or '"ok":false' in said


async def test_one_that_does_not_show_its_books_keeps_no_other_from_being_compared(
    till: Till,
) -> None:
    await till.paid()
    payment = await intend(till.live, CARL, 20, stripe_payment_intent_id="pi_1")
    await tell(till.live, captured(payment, 20, object_id="pi_1"))
    till.paypal.side("reports", shows_transactions=False, other_lines=[entry("CAP999")])
    paypal = till.live.app.state.providers.known["paypal"]
    known = Providers({"paypal": paypal, "stripe": Books(charge(9))})
    period = NOW - timedelta(days=1), NOW + timedelta(days=1)
    compared = await reconciliation.compare(
        lambda: till.live.database.transaction(WORKER), known, *period
    )
    assert [type(why) for why in compared.unread] == [BooksRefused]
    assert {kind for kind, _ in await found(till.live)} == {"missing_here", "missing_there"}
    providers = await rows(till.live, "select distinct provider from reconciliation_differences")
    assert [row["provider"] for row in providers] == ["stripe"]
    assert await rows(till.live, "select 1 from provider_bookings where provider = 'paypal'") == []


@pytest.mark.parametrize(
    "damage",
    [
        {"transaction_amount": None},
        {"transaction_amount": {"currency_code": "USD", "value": "NaN"}},
        {"transaction_initiation_date": "yesterday"},
        {"transaction_event_code": "T0006", "fee_amount": {"value": "?"}},
    ],
)
def test_a_line_that_cannot_be_read_is_named(damage: dict[str, Any]) -> None:
    with pytest.raises(NotShown, match="cannot be read"):
        read({"transaction_info": {**entry("CAP1"), **damage}})
    assert read({"transaction_info": entry("CAP1")}) is not None
