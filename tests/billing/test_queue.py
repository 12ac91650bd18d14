"""Who cannot be asked for money just now keeps nobody behind them waiting, however many."""

from decimal import Decimal
from typing import Any

import pytest

from bursar.billing import charging, tasks
from tests.accounts.people import rows
from tests.billing.meterman import (
    charges,
    collect,
    hear,
    hour,
    invoices,
    last_month,
    minute,
    use,
)
from tests.billing.payers import letters
from tests.billing.test_charging import opened
from tests.billing.test_invoices import month_over
from tests.conftest import Live
from tests.keys.keyholders import set_terms
from tests.payments.shop import Shop
from tests.payments.surroundings import save_method
from tests.payments.tills import captured, intend, tell
from tests.wallets.purses import balance_of, charge, fund, move_in
from tests.world import CARL, DORA


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if so many stood before Dora that a run has no time for her."""
    monkeypatch.setattr(tasks, "MOST_INVOICES", 1)
    monkeypatch.setattr(charging, "MOST_UNPAID", 1)


async def both_owe(live: Live) -> Any:
    """Carl's invoice stands before Dora's; it is answered."""
    await month_over(live, settled=False)
    await use(live, DORA, 150, month=last_month())
    await hour(live)
    await rows(live, "update invoices set next_try_at = '2020-01-01' where user_id = $1", CARL.id)
    [found] = await invoices(live)
    return found["id"]


async def status(live: Live, who: Any) -> str:
    [found] = await invoices(live, who)
    return str(found["status"])


async def page_opened(live: Live, its_id: Any) -> None:
    await intend(live, CARL, "1.72", purpose="invoice", invoice_id=its_id)


async def part_paid(live: Live, its_id: Any) -> None:
    by_hand = {"payment_method": "bank_transfer", "provider": "manual"}
    payment = await intend(live, CARL, "1.72", purpose="invoice", invoice_id=its_id, **by_hand)
    told = {"provider": "manual", "object_id": str(payment)}
    await tell(live, captured(payment, "1.70", **told))
    await hear(live)


@pytest.mark.usefixtures("one_at_a_time")
@pytest.mark.parametrize("coming", [page_opened, part_paid])
@pytest.mark.parametrize("has", [0, 5])
async def test_whose_money_is_on_its_way_keeps_no_other_waiting(
    live_db: Live, coming: Any, has: int
) -> None:
    """Nor where their wallet has enough all the while: that is not taken either."""
    await move_in(live_db)
    its_id = await both_owe(live_db)
    await coming(live_db, its_id)
    later = "update invoices set next_try_at = now() + interval '3 days' where user_id = $1"
    await rows(live_db, later, DORA.id)
    if has:
        await fund(live_db, CARL, has)
    await fund(live_db, DORA, 5)
    await collect(live_db)
    await collect(live_db)
    assert (await status(live_db, CARL), await status(live_db, DORA)) == ("open", "paid")
    assert await balance_of(live_db, CARL) == has


@pytest.mark.usefixtures("one_at_a_time")
async def test_who_is_overdue_is_told_though_money_is_on_its_way(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, invoice_due_days=0)
    its_id = await both_owe(live_db)
    await part_paid(live_db, its_id)
    for _ in range(3):
        await collect(live_db)
    assert await letters(live_db, "invoice_overdue") == 1
    told = await rows(live_db, "select from invoices where overdue_mailed_at is not null")
    assert len(told) == 2


@pytest.mark.usefixtures("one_at_a_time")
async def test_who_has_a_payment_pending_keeps_no_other_waiting(shop: Shop) -> None:
    """By their method, which is asked for one thing at a time."""
    await both_owe(shop.live)
    method = await save_method(shop.live, CARL, "pm_ok")
    await intend(shop.live, CARL, 20, automatic=True, method_id=method)
    await fund(shop.live, DORA, 5)
    await collect(shop.live)
    await collect(shop.live)
    assert await status(shop.live, DORA) == "paid"


@pytest.mark.usefixtures("one_at_a_time")
async def test_who_has_points_alone_keeps_no_other_waiting(live_db: Live) -> None:
    await opened(live_db)
    for who in (CARL, DORA):
        await charge(live_db, who, 10)
        await use(live_db, who)
        await minute(live_db)
    await fund(live_db, CARL, 100, "POINTS")
    await fund(live_db, DORA, 10)
    await rows(live_db, "update billing_looks set upto = now() + interval '1 hour'")
    await minute(live_db)
    assert await charges(live_db, DORA) == [(0, 1, Decimal("0.01"))]


@pytest.mark.usefixtures("one_at_a_time")
async def test_who_has_something_but_not_enough_keeps_no_other_waiting(live_db: Live) -> None:
    await opened(live_db)
    for who in (CARL, DORA):
        await charge(live_db, who, 10)
        await use(live_db, who, 100)
        await minute(live_db)
    await fund(live_db, CARL, "0.5")
    await fund(live_db, DORA, 10)
    for _ in range(2):
        await rows(live_db, "update billing_looks set upto = now() + interval '1 hour'")
        await minute(live_db)
    assert await charges(live_db, DORA) == [(0, 100, Decimal(1))]
    await fund(live_db, CARL, 10)
    await minute(live_db)
    assert await charges(live_db) == [(0, 100, Decimal(1))]
