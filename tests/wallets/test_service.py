"""The verbs as other domains use them: in their transaction, once for each fact."""

import asyncio
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest

from bursar.auth.actor import Origin
from bursar.core.database import WORKER
from bursar.core.errors import InvalidInput
from bursar.core.idempotency import KeyReused
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Outcome
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import balance_of, move_in, wallet_of
from tests.world import CARL, OLIVIA

assert CARL.id
OWNER: UUID = CARL.id


async def do(live: Live, verb: Any, *arguments: Any, **given: Any) -> Outcome:
    """As a job of the payments would, in a transaction of its own."""
    fact = {"scope": "payments", "key": str(uuid4())}
    async with live.database.transaction(WORKER) as db:
        outcome: Outcome = await verb(db, *arguments, **(fact | given))
        return outcome


def held(outcome: Outcome) -> UUID:
    hold_id = outcome.legs[0].hold_id
    assert hold_id
    return hold_id


async def test_a_fact_that_is_told_twice_is_done_once(live_db: Live) -> None:
    await move_in(live_db)
    key = "stripe:pi_1:captured"
    first = await do(live_db, wallets.fund, OWNER, 5_000_000, key=key)
    again = await asyncio.gather(
        *(do(live_db, wallets.fund, OWNER, 5_000_000, key=key) for _ in range(4))
    )
    assert {each.operation_id for each in again} == {first.operation_id}
    assert all(each.replayed for each in again)
    assert await balance_of(live_db, CARL) == 5


async def test_another_amount_under_the_same_fact_is_refused(live_db: Live) -> None:
    await move_in(live_db)
    key = "stripe:pi_1:captured"
    await do(live_db, wallets.fund, OWNER, 5_000_000, key=key)
    with pytest.raises(KeyReused):
        await do(live_db, wallets.fund, OWNER, 6_000_000, key=key)
    assert await balance_of(live_db, CARL) == 5


async def test_every_verb_does_what_it_says(live_db: Live) -> None:
    await move_in(live_db)
    await do(live_db, wallets.fund, OWNER, 10, category="card", metadata={"intent": "pi_1"})
    spent = await do(live_db, wallets.charge, OWNER, 4, category="api")
    transfer = spent.legs[0].transfer_id
    await do(live_db, wallets.reverse, transfer, 1, metadata={"why": "a refund"})
    await do(live_db, wallets.reverse, transfer)
    first = held(await do(live_db, wallets.hold, OWNER, 5, seconds=60))
    second = held(await do(live_db, wallets.hold, OWNER, 5, seconds=60))
    with pytest.raises(ledger.InsufficientFunds):
        await do(live_db, wallets.hold, OWNER, 1, seconds=60)
    await do(live_db, wallets.capture, first, 2)
    await do(live_db, wallets.capture, first, 1, final=True)
    await do(live_db, wallets.void, second)
    wallet = await wallet_of(live_db, CARL)
    assert (wallet["posted"], wallet["held"], wallet["spent"]) == (7, 0, 3)
    told = await rows(live_db, "select kind, amount, category from transfers order by posted_at")
    assert [(row["kind"], row["amount"], row["category"]) for row in told] == [
        ("funding", 10, "card"),
        ("charge", 4, "api"),
        ("reversal", 1, "api"),
        ("reversal", 3, "api"),
        ("charge", 2, None),
        ("charge", 1, None),
    ]
    assert await rows(live_db, "select from audit_logs where event_type like 'wallets.%'") == []


async def test_money_and_what_goes_with_it_are_there_together_or_not(live_db: Live) -> None:
    await move_in(live_db)
    with pytest.raises(RuntimeError, match="the rest went wrong"):
        await fund_and_fail(live_db, key="p1")
    assert await balance_of(live_db, CARL) == 0
    assert not (await do(live_db, wallets.fund, OWNER, 10, key="p1")).replayed


async def fund_and_fail(live: Live, *, key: str) -> None:
    async with live.database.transaction(WORKER) as db:
        await wallets.fund(db, OWNER, 10, scope="payments", key=key)
        raise RuntimeError("the rest went wrong")


async def test_what_a_person_does_is_in_the_trail_under_their_name(live_db: Live) -> None:
    await move_in(live_db)
    async with live_db.database.transaction(OLIVIA.claim, origin=Origin(OLIVIA)) as db:
        done = await wallets.fund(db, OWNER, 10, scope="desk", key="cash-1")
    [row] = await rows(live_db, "select * from audit_logs where event_type = 'wallets.funded'")
    assert (row["actor_id"], row["target_id"]) == (OLIVIA.id, str(done.operation_id))


async def test_an_exchange_is_between_two_currencies(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, "insert into assets (code, scale) values ('EUR', 2)")
    with pytest.raises(InvalidInput):
        await do(live_db, wallets.exchange, OWNER, sold=(1, "USD"), bought=(1, "USD"))
    await do(live_db, wallets.fund, OWNER, 1_000_000)
    done = await do(live_db, wallets.exchange, OWNER, sold=(1_000_000, "USD"), bought=(5, "EUR"))
    assert [leg.amount for leg in done.legs] == [1_000_000, 5]
    with pytest.raises(ledger.InsufficientFunds):
        await do(live_db, wallets.exchange, OWNER, sold=(1, "USD"), bought=(5, "EUR"))
    assert await balance_of(live_db, CARL, "EUR") == Decimal("0.05")
    for sold, bought in (((1, "EUR"), (5, "POINTS")), ((5, "POINTS"), (1, "EUR"))):
        with pytest.raises(ledger.UnknownAsset):
            await do(live_db, wallets.exchange, OWNER, sold=sold, bought=bought)


async def test_one_side_of_an_exchange_does_not_go_back_alone(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, "insert into assets (code, scale) values ('EUR', 2)")
    await do(live_db, wallets.fund, OWNER, 10)
    done = await do(live_db, wallets.exchange, OWNER, sold=(10, "USD"), bought=(5, "EUR"))
    gave, got = (leg.transfer_id for leg in done.legs)
    with pytest.raises(wallets.PartOfMore):
        await do(live_db, wallets.reverse, gave, 10)
    back = await do(live_db, wallets.reverse, got)
    assert [(leg.asset, leg.amount) for leg in back.legs] == [("USD", 10), ("EUR", 5)]
    with pytest.raises(ledger.UnknownTransfer):
        await do(live_db, wallets.reverse, uuid4())
