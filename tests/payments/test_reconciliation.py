"""Reconciliation: books that are damaged in every way, each difference listed once, then gone."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.payments import reconciliation
from bursar.payments.providers import Booked, Unknown, What
from bursar.payments.providers.registry import Providers
from bursar.payments.reconciliation import BooksUnread
from tests.accounts.people import rows
from tests.audit.trail import superuser
from tests.conftest import Live
from tests.payments.shop import Shop
from tests.payments.tills import captured, fact, intend, refunded, tell
from tests.wallets.purses import move_in, post, refused
from tests.world import ANNA, CARL, OLIVIA, SUE

NOW = datetime.now(UTC)
SINCE, UNTIL = NOW - timedelta(days=1), NOW + timedelta(days=1)
FEE = Decimal("0.88")


class Books:
    """A provider that shows the lines that a test has written."""

    name = "stripe"
    is_test = False

    def __init__(self, *lines: Booked) -> None:
        self.lines = list(lines)
        self.breaks_after: int | None = None

    async def booked(self, since: datetime, until: datetime) -> AsyncIterator[Booked]:
        for number, line in enumerate(self.lines):
            if number == self.breaks_after:
                raise Unknown("no answer")
            if since <= line.booked_at < until:
                yield line


def line(object_id: str, what: str = "captured", amount: Any = 20, **given: Any) -> Booked:
    facts = {"currency": "USD", "fee": Decimal(0), "booked_at": NOW, "payment": {}, **given}
    return Booked(object_id, what, Decimal(amount), **facts)


async def compare(live: Live, books: Any, since: datetime = SINCE, until: datetime = UNTIL) -> int:
    @asynccontextmanager
    async def transaction() -> AsyncIterator[Any]:
        async with live.database.transaction(WORKER) as db:
            yield db

    known = Providers({books.name: books})
    compared = await reconciliation.compare(transaction, known, since, until)
    if compared.unread:
        raise compared.unread[0]
    return compared.differences


async def found(live: Live, status: str = "open") -> list[tuple[str, str]]:
    query = """
      select kind, subject from reconciliation_differences where status = $1 order by 1, 2
    """
    return [(row["kind"], row["subject"]) for row in await rows(live, query, status)]


async def paid(live: Live, number: int = 1, **given: Any) -> UUID:
    """A payment of 20 by Stripe, with its fee, and its line in Stripe's books."""
    payment = await intend(live, CARL, 20, stripe_payment_intent_id=f"pi_{number}", **given)
    told = captured(
        payment, 20, object_id=f"pi_{number}", fee=FEE, ids={"stripe_charge_id": f"ch_{number}"}
    )
    await tell(live, told)
    return payment


def charge(number: int = 1, amount: Any = 20, fee: Any = FEE, **given: Any) -> Booked:
    reference = {"stripe_payment_intent_id": f"pi_{number}"}
    return line(f"ch_{number}", amount=amount, fee=Decimal(fee), payment=reference, **given)


async def test_books_that_agree_have_no_difference(live_db: Live) -> None:
    await move_in(live_db)
    payment = await paid(live_db)
    await tell(live_db, refunded(payment, "re_1", 5))
    await tell(live_db, fact(payment, What.DISPUTE_OPENED, "du_1", 10))
    cash = await intend(live_db, CARL, 7, payment_method="cash", provider="manual")
    await tell(live_db, captured(cash, 7, object_id=str(cash), provider="manual"))
    books = Books(
        charge(),
        line("re_1", "refunded", -5),
        line("du_1", "disputed", -10),
        line("po_1", "payout", -100),
    )
    assert await compare(live_db, books) == 0
    await tell(live_db, fact(payment, What.DISPUTE_WON, "du_1", 10))
    books.lines.append(line("du_1", "disputed", 10))
    assert await compare(live_db, books) == 0
    [run] = await rows(live_db, "select * from reconciliations order by started_at desc limit 1")
    assert (run["bookings"], run["differences"]) == (4, 0)


DAMAGES = {
    "missing here": ([charge(), charge(9)], [("missing_here", "ch_9")]),
    "a refund missing here": (
        [charge(), line("re_9", "refunded", -1)],
        [("missing_here", "re_9")],
    ),
    "a dispute missing here": (
        [charge(), line("du_9", "disputed", -1)],
        [("missing_here", "du_9")],
    ),
    "a fee of the provider's own": (
        [charge(), line("fee_1", "stripe_fee", -2)],
        [("missing_here", "fee_1")],
    ),
    "missing there": ([], [("missing_there", "ch_1")]),
    "another amount": ([charge(amount="19.99")], [("other_amount", "ch_1")]),
    "booked twice": ([charge(), charge(fee=0)], [("other_amount", "ch_1")]),
    "another currency": ([charge(currency="EUR")], [("other_currency", "ch_1")]),
    "another fee": ([charge(fee="0.89")], [("other_fee", "ch_1")]),
    "a fee in a line of its own": (
        [charge(fee=0), line("fee_1", "fee", "-0.88", payment={"stripe_charge_id": "ch_1"})],
        [],
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_the_providers_books_damaged_in_each_way(live_db: Live, damage: str) -> None:
    lines, expected = DAMAGES[damage]
    await move_in(live_db)
    await paid(live_db)
    for _ in range(2):  # listed once, however often it is found
        assert await compare(live_db, Books(*lines)) == len(expected)
        assert await found(live_db) == expected
    assert await compare(live_db, Books(charge())) == 0  # put right, and gone
    assert await found(live_db, "gone") == expected
    assert await compare(live_db, Books(*lines)) == len(expected)  # and open again
    assert await found(live_db) == expected


OURS = {
    "a payment less": (
        "update payments set captured = 19",
        {("other_amount", "ch_1"), ("ledger_differs", "stripe:pi_1:captured")},
    ),
    "a payment nobody has in the ledger": (
        "update operations set key = 'x' where key = 'stripe:pi_1:captured'",
        {("ledger_without_payment", "x"), ("payment_without_ledger", "{payment}")},
    ),
    "a fee nobody has in the ledger": (
        "update operations set scope = 'x' where key = 'stripe:pi_1:fee'",
        {("payment_without_ledger", "{payment}:fee")},
    ),
    "a ledger entry more": (
        "update transfers set amount = amount + 1000000 where kind = 'funding'",
        {("ledger_differs", "stripe:pi_1:captured")},
    ),
    "a payment that was never captured": (
        "update payments set captured = 0, refunded = 0, fee = 0, status = 'pending'",
        {
            ("missing_here", "ch_1"),
            ("ledger_without_payment", "stripe:pi_1:captured"),
            ("ledger_without_payment", "stripe:pi_1:fee"),
        },
    ),
    "a refund less": (
        "update refunds set amount = 4",
        {("other_amount", "re_1"), ("ledger_differs", "refund:{refund}")},
    ),
    "a refund the ledger does not know": (
        "update operations set scope = 'x' where key like 'refund:%'",
        {("payment_without_ledger", "refund:{refund}")},
    ),
}


@pytest.mark.parametrize("damage", OURS)
async def test_our_own_rows_damaged_in_each_way(live_db: Live, damage: str) -> None:
    statement, expected = OURS[damage]
    await move_in(live_db)
    payment = await paid(live_db)
    await tell(live_db, refunded(payment, "re_1", 5))
    books = Books(charge(), line("re_1", "refunded", -5))
    assert await compare(live_db, books) == 0
    [refund] = await rows(live_db, "select id from refunds")
    await damage_by_hand(live_db, statement)
    names = {"payment": payment, "refund": refund["id"]}
    wanted = {(kind, subject.format(**names)) for kind, subject in expected}
    assert await compare(live_db, books) == len(wanted)
    assert set(await found(live_db)) == wanted


async def damage_by_hand(live: Live, statement: str) -> None:
    """As whoever may switch off triggers."""
    async with superuser(live.url) as connection:
        await connection.execute(f"set session_replication_role = replica; {statement}")


async def test_an_entry_of_the_ledger_without_any_payment(live_db: Live) -> None:
    from bursar.wallets import ledger

    await move_in(live_db)
    leg = ledger.transfer("clearing", ledger.user(CARL.id), 1, kind="funding")
    await post(live_db, leg, key="stripe:pi_7:captured", scope="payments")
    assert await compare(live_db, Books()) == 1
    assert await found(live_db) == [("ledger_without_payment", "stripe:pi_7:captured")]


async def test_a_period_does_not_touch_another(live_db: Live) -> None:
    await move_in(live_db)
    await paid(live_db)
    assert await compare(live_db, Books()) == 1
    early = (SINCE - timedelta(days=5), SINCE - timedelta(days=2))
    assert await compare(live_db, Books(), *early) == 0
    assert await found(live_db) == [("missing_there", "ch_1")]
    old = charge(8, booked_at=early[0] + timedelta(hours=1))
    assert await compare(live_db, Books(charge(), old), *early) == 1
    assert await compare(live_db, Books(charge(), old)) == 0
    assert await found(live_db) == [("missing_here", "ch_8")]


async def test_books_that_break_off_change_nothing(live_db: Live) -> None:
    await move_in(live_db)
    await paid(live_db)
    assert await compare(live_db, Books(charge())) == 0
    broken = Books(charge(), charge(9))
    broken.breaks_after = 1
    with pytest.raises(BooksUnread):
        await compare(live_db, broken)
    assert await found(live_db) == []
    assert await compare(live_db, Books(charge())) == 0  # and what was read is not counted twice


async def test_many_lines_are_read_a_few_at_a_time(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciliation, "AT_ONCE", 7)
    await move_in(live_db)
    lines = [charge(number) for number in range(100, 150)]
    assert await compare(live_db, Books(*lines)) == 50


async def test_staff_close_what_may_be_so(live_db: Live) -> None:
    await move_in(live_db)
    await paid(live_db)
    books = Books(charge(amount=21))
    await compare(live_db, books)
    base = "/api/v1/admin/reconciliation"
    async with live_db.api(ANNA) as api:
        [shown] = (await api.get(f"{base}/differences?status=open")).json()["differences"]
        assert (shown["ours"], shown["theirs"]) == (20, 21)
        assert len((await api.get(f"{base}/runs")).json()["runs"]) == 1
        closing = f"{base}/differences/{shown['id']}/closure"
        assert (await api.post(closing, json={"note": "because"})).status_code == 403
    async with live_db.api(SUE) as api:
        assert (await api.get(f"{base}/differences")).status_code == 403
    async with live_db.api(OLIVIA) as api:
        card = {"note": "4242 4242 4242 4242"}
        assert refused(await api.post(closing, json=card)) == (422, "payments.card_number")
        stale = {"If-Match": '"9"'}
        answer = await api.post(closing, json={"note": "ours"}, headers=stale)
        assert answer.status_code == 412
        closed = (await api.post(closing, json={"note": "a gift of theirs"})).json()
        assert (closed["status"], closed["closedBy"]) == ("closed", f"staff:{OLIVIA.id}")
        answer = await api.post(closing, json={"note": "again"})
        assert refused(answer) == (409, "payments.difference_not_open")
    assert await compare(live_db, books) == 0  # it stays closed
    assert await compare(live_db, Books(charge(amount=22))) == 1  # and opens when it is another
    assert await rows(live_db, "select note from reconciliation_differences") == [(None,)]


async def test_customers_see_none_of_it(live_db: Live) -> None:
    for table in ("provider_bookings", "reconciliations", "reconciliation_differences"):
        with pytest.raises(Exception, match="permission denied"):
            async with live_db.database.transaction(CARL.claim) as db:
                await db.execute(text(f"select * from {table}"))


async def test_what_was_paid_at_stripe_agrees_with_stripes_own_books(shop: Shop) -> None:
    from tests.payments.test_auto_topups import providers

    payment = await shop.paid(CARL, 20)
    await shop.refund(payment["id"], 5)
    await shop.work()
    real = providers(shop.live.settings).of("stripe")
    assert await compare(shop.live, real) == 0, await found(shop.live)
    query = "update payments set fee = fee + 0.01"
    await damage_by_hand(shop.live, query)
    assert await compare(shop.live, real) == 2
    assert json.dumps(await found(shop.live)).count("fee") == 2
