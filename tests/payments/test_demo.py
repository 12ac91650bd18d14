"""The demo's payments: every way to pay and every end, the same after a second time."""

from decimal import Decimal
from typing import Any

import pytest

from bursar.core.database import WORKER
from bursar.demo import company, payments
from bursar.payments import asking, reconciliation
from bursar.payments.providers.registry import Providers
from bursar.wallets import verification
from tests.accounts.people import rows
from tests.audit.trail import superuser
from tests.conftest import Live
from tests.payments.test_reconciliation import SINCE, UNTIL
from tests.world import OLIVIA

STANDS = """
select payment_method as method, status, count(*) as number, sum(captured) as captured
from payments group by 1, 2 order by 1, 2
"""
EXPECTED = [
    ("bank_transfer", "completed", 1, 500),
    ("bank_transfer", "pending", 1, 0),
    ("cash", "completed", 1, 45),
    ("check", "failed", 1, 0),
    ("check", "pending", 1, 0),
    ("paypal", "completed", 1, 25),
    ("paypal", "refunded", 1, 30),
    ("stripe", "completed", 3, 145),
    ("stripe", "failed", 1, 0),
    ("stripe", "partially_refunded", 1, 40),
    ("stripe", "pending", 1, 0),
]
COUNTS = """
select (select count(*) from payments) as payments,
  (select count(*) from refunds where status = 'completed') as refunds,
  (select count(*) from disputes where status = 'open') as disputes,
  (select count(*) from receipts) as receipts,
  (select count(*) from payment_methods) as methods,
  (select count(*) from auto_topups) as automatic,
  (select count(*) from webhook_endpoints where not enabled) as endpoints,
  (select count(*) from appointments where payment_status = 'paid') as paid_appointments
"""


async def stands(live: Live) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in await rows(live, STANDS)]


async def test_every_way_to_pay_and_every_end_once(live_db: Live) -> None:
    await company.load(live_db.database)
    loaded = await company.load(live_db.database)
    assert loaded["payments"] == payments.NUMBER == 13
    assert await stands(live_db) == EXPECTED
    [counted] = await rows(live_db, COUNTS)
    assert tuple(counted) == (13, 2, 1, 8, 1, 1, 1, 1)


async def test_nothing_of_it_says_that_it_was_real_money(live_db: Live) -> None:
    await company.load(live_db.database)
    [real] = await rows(
        live_db,
        "select count(*) n from payments where provider <> 'manual' and not (provider = 'demo'"
        " and test_mode)",
    )
    assert real["n"] == 0


async def test_its_books_are_in_order(live_db: Live) -> None:
    await company.load(live_db.database)
    async with superuser(live_db.url) as connection:
        assert (await verification.verify(connection)).findings == []

    def transaction() -> Any:
        return live_db.database.transaction(WORKER)

    compared = await reconciliation.compare(transaction, Providers({}), SINCE, UNTIL)
    assert compared.differences == 0


async def test_a_load_that_was_cut_short_is_gone_on_with(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Anywhere between the steps of a payment at a provider."""
    whole = payments.asking.create

    async def dies(*_: Any) -> None:
        raise ConnectionError

    monkeypatch.setattr(asking, "create", dies)
    with pytest.raises(ConnectionError):
        await company.load(live_db.database)
    monkeypatch.setattr(asking, "create", whole)
    await company.load(live_db.database)
    assert await stands(live_db) == EXPECTED


async def test_staff_see_it_as_any_other(live_db: Live) -> None:
    await company.load(live_db.database)
    async with live_db.api(OLIVIA) as api:
        found = (await api.get("/api/v1/admin/payments?status=refunded")).json()["payments"]
        assert [(each["paymentMethod"], each["amount"]) for each in found] == [("paypal", 30)]
        [disputed] = (await api.get("/api/v1/admin/disputes")).json()["disputes"]
        assert Decimal(str(disputed["amount"])) == 60
