"""The verbs as other domains use them: in their transaction, once for each fact."""

import asyncio
from typing import Any
from uuid import UUID, uuid4

import pytest

from bursar.auth.actor import Origin
from bursar.core.database import WORKER
from bursar.core.idempotency import KeyReused
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Outcome
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import balance_of, charge, fund, move_in, post
from tests.world import CARL, OLIVIA

assert CARL.id
OWNER: UUID = CARL.id


async def do(live: Live, verb: Any, *arguments: Any, **given: Any) -> Outcome:
    """As a job of the payments would, in a transaction of its own."""
    fact = {"scope": "payments", "key": str(uuid4())}
    async with live.database.transaction(WORKER) as db:
        outcome: Outcome = await verb(db, *arguments, **(fact | given))
        return outcome


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


async def test_a_charge_goes_back_in_parts_and_never_twice(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 10)
    spent = await charge(live_db, CARL, 4, category="api")
    transfer = spent.legs[0].transfer_id
    await do(live_db, wallets.reverse, transfer, 1_000_000, metadata={"why": "a refund"})
    await do(live_db, wallets.reverse, transfer)
    with pytest.raises(ledger.ReversalTooLarge):
        await do(live_db, wallets.reverse, transfer)
    assert await balance_of(live_db, CARL) == 10
    told = await rows(live_db, "select kind, amount, category from transfers order by posted_at")
    assert [(row["kind"], row["amount"], row["category"]) for row in told] == [
        ("funding", 10_000_000, None),
        ("charge", 4_000_000, "api"),
        ("reversal", 1_000_000, "api"),
        ("reversal", 3_000_000, "api"),
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


async def test_one_of_two_that_were_made_together_does_not_go_back_alone(live_db: Live) -> None:
    await move_in(live_db)
    await rows(live_db, "insert into assets (code, scale) values ('EUR', 2)")
    await fund(live_db, CARL, 10)
    purse = ledger.user(OWNER)
    done = await post(
        live_db,
        ledger.transfer(purse, "exchange", 10, kind="exchange"),
        ledger.transfer("exchange", purse, 5, "EUR", kind="exchange"),
    )
    gave, got = (leg.transfer_id for leg in done.legs)
    with pytest.raises(wallets.PartOfMore):
        await do(live_db, wallets.reverse, gave, 10)
    back = await do(live_db, wallets.reverse, got)
    assert [(leg.asset, leg.amount) for leg in back.legs] == [("USD", 10), ("EUR", 5)]
    with pytest.raises(ledger.UnknownTransfer):
        await do(live_db, wallets.reverse, uuid4())
