"""What the database itself refuses: rows forged by a superuser, SQL in a customer's hand."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.actor import Actor
from bursar.core.database import NOBODY, WORKER, Claim, Role
from tests.accounts.people import rows
from tests.conftest import Live
from tests.payments.surroundings import save_method
from tests.payments.tills import captured, fact, intend, refunded, row_of, tell
from tests.wallets.purses import move_in
from tests.world import CARL, DORA, OLIVIA

FORGED = [
    "update payments set status = 'pending' where captured > 0",
    "update payments set status = 'failed' where captured > 0",
    "update payments set captured = 0 where captured > 0",
    "update payments set captured = 5 where captured > 0",
    "update payments set captured = 21 where captured > 0",
    "update payments set status = 'completed' where captured = 0",
    "update payments set status = 'refunded' where captured > 0",
    "update payments set refunded = 0 where refunded > 0",
    "update payments set refunded = 21 where captured > 0",
    "update payments set refunded = 1 where captured = 0",
    "update payments set refund_pending = 19 where captured > 0",
    "update payments set disputed = 19 where captured > 0",
    "update payments set disputed = -1",
    "update payments set amount = 40",
    "update payments set currency = 'POINTS'",
    "update payments set provider = 'demo', test_mode = true",
    "update payments set purpose = 'service', service_id = uuid7() where captured > 0",
    "update payments set user_id = uuid7()",
    "update payments set created_at = now() - interval '1 year'",
    "update payments set stripe_payment_intent_id = 'pi_x' where captured > 0",
    "update payments set fee = -1",
    "delete from payments",
    "truncate payments cascade",
    "update refunds set status = 'pending', settled_at = null",
    "update refunds set status = 'failed'",
    "update refunds set amount = 1",
    "insert into refunds (payment_id, amount, requested_by) select payment_id, 19, '' from refunds",
    "insert into refunds (payment_id, amount, requested_by)"
    " select id, 1, '' from payments where captured = 0",
    "insert into refunds (payment_id, amount, requested_by, status, settled_at)"
    " select payment_id, 1, '', 'completed', now() from refunds",
    "delete from refunds",
    "truncate refunds",
    "update payment_audits set new_status = 'pending'",
    "delete from payment_audits",
    "truncate payment_audits",
    "delete from disputes",
    "update disputes set amount = 1, counted = 1",
    "insert into payments (user_id, amount, payment_method, provider, status, captured)"
    " select user_id, 20, 'cash', 'manual', 'completed', 20 from payments limit 1",
    "insert into payments (user_id, amount, payment_method) select user_id, 0, 'cash'"
    " from payments limit 1",
    "insert into payments (user_id, amount, payment_method, provider)"
    " select user_id, 20, 'cash', 'stripe' from payments limit 1",
    "insert into payments (user_id, amount, payment_method, currency)"
    " select user_id, 20, 'cash', 'ZZZ' from payments limit 1",
]


@pytest.fixture
async def lived(live_db: Live) -> Live:
    """One of Carl's is asked for, one has come, went back in part, and a part is contested; one of
    Dora's has come."""
    await move_in(live_db)
    await intend(live_db, CARL, 20)
    paid = await intend(live_db, CARL, 20, stripe_payment_intent_id="pi_1")
    await tell(
        live_db,
        captured(paid, 20),
        refunded(paid, "re_1", 2),
        fact(paid, "dispute_opened", "dp_1", 3),  # type: ignore[arg-type]
    )
    hers = await intend(live_db, DORA, 30)
    await tell(live_db, captured(hers, 30))
    return live_db


async def everything(live: Live) -> list[str]:
    tables = ("payments", "refunds", "disputes", "payment_audits", "payment_totals")
    found: list[str] = []
    for table in tables:
        found += [
            str(row) for row in await rows(live, f"select * from {table} order by 1, 2, 3, 4")
        ]
    return found


async def test_no_statement_of_a_superuser_turns_a_payment_back(lived: Live) -> None:
    before = await everything(lived)
    assert [each for each in FORGED if not await is_refused(lived, each)] == []
    assert await everything(lived) == before


async def is_refused(live: Live, statement: str) -> bool:
    try:
        await rows(live, statement)
    except asyncpg.IntegrityConstraintViolationError:
        return True
    return False


async def test_an_open_dispute_ends_once(lived: Live) -> None:
    await rows(lived, "update disputes set status = 'won', closed_at = now()")
    for change in ("status = 'lost'", "status = 'open', closed_at = null"):
        with pytest.raises(asyncpg.IntegrityConstraintViolationError):
            await rows(lived, f"update disputes set {change}")


@asynccontextmanager
async def as_claim(live: Live, claim: Claim) -> AsyncIterator[AsyncSession]:
    async with live.database.transaction(claim) as db:
        yield db


TABLES = ("payments", "refunds", "disputes", "payment_audits")
SEEN = " union all ".join(f"select '{name}', count(*) from {name}" for name in TABLES)


async def seen(live: Live, claim: Claim) -> dict[str, int]:
    async with as_claim(live, claim) as db:
        return {row[0]: row[1] for row in await db.execute(text(SEEN))}


async def test_a_customer_sees_their_own_rows_and_nobody_sees_none(lived: Live) -> None:
    carls = {"payments": 2, "refunds": 1, "disputes": 1, "payment_audits": 5}
    assert await seen(lived, CARL.claim) == carls
    assert (await seen(lived, DORA.claim))["payments"] == 1
    nothing = dict.fromkeys(TABLES, 0)
    stranger = Claim(Role.CUSTOMER, str(uuid4()))
    for claim in (NOBODY, stranger, Claim(Role.STAFF)):
        assert await seen(lived, claim) == nothing
    assert (await seen(lived, OLIVIA.claim))["payments"] == 3
    assert (await seen(lived, WORKER))["payments"] == 3


async def summed(live: Live, claim: Claim) -> dict[str, tuple[int, Any]]:
    query = text("select status, payment_count, total_amount from payment_summary")
    async with as_claim(live, claim) as db:
        return {status: (number, total) for status, number, total in await db.execute(query)}


async def test_the_summary_is_of_what_one_may_see(lived: Live) -> None:
    assert await summed(lived, CARL.claim) == {"pending": (1, 20), "partially_refunded": (1, 20)}
    assert await summed(lived, DORA.claim) == {"completed": (1, 30)}
    everybodys = {"pending": (1, 20), "partially_refunded": (1, 20), "completed": (1, 30)}
    for claim in (OLIVIA.claim, Claim(Role.ANALYTICS)):
        assert await summed(lived, claim) == everybodys
    for claim in (NOBODY, Claim(Role.STAFF)):
        assert await summed(lived, claim) == {}


NOT_FOR_CUSTOMERS = [
    "update payments set captured = 20",
    "update payments set status = 'completed'",
    "update payments set change_reason = 'x'",
    "insert into payments (user_id, amount, payment_method, status) values (:carl, 20, 'cash',"
    " 'completed')",
    "insert into payments (user_id, amount, payment_method, captured) values (:carl, 20, 'cash',"
    " 20)",
    "insert into payments (user_id, amount, payment_method) values (:dora, 20, 'cash')",
    "delete from payments",
    "insert into refunds (payment_id, amount, requested_by) select id, 1, 'me' from payments",
    "update refunds set status = 'failed'",
    "insert into payment_audits (payment_id, new_status, changed_by, captured, refunded)"
    " select id, 'completed', 'me', 20, 0 from payments",
    "update disputes set status = 'won'",
    "select * from payment_events",
    "insert into payment_methods (user_id, provider, token) values (:carl, 'stripe', 'pm_1')",
    "update payment_totals set amount = 0",
    "select take_payment_events('[]')",
]


async def test_sql_in_a_customers_hand_moves_no_money(lived: Live) -> None:
    ids: dict[str, UUID | None] = {"carl": CARL.id, "dora": DORA.id}
    before = await everything(lived)
    for statement in NOT_FOR_CUSTOMERS:
        given = {name: value for name, value in ids.items() if f":{name}" in statement}
        assert await is_forbidden(lived, statement, given), statement
    assert await everything(lived) == before


async def is_forbidden(live: Live, statement: str, given: dict[str, Any]) -> bool:
    try:
        async with as_claim(live, CARL.claim) as db:
            await db.execute(text(statement), given)
    except ProgrammingError as error:
        return "permission denied" in str(error) or "row-level security" in str(error)
    return False


OTHERS_CARD = """
  insert into payments (user_id, amount, payment_method, provider, method_id)
  values (:payer, 20, 'stripe', 'stripe', :method)
"""


@pytest.mark.parametrize("who", [CARL, OLIVIA])
async def test_nobody_pays_by_somebody_elses_card_with_sql_in_hand(lived: Live, who: Actor) -> None:
    """The sweeper would have it charged: a payment that was asked for is gone on with."""
    hers = await save_method(lived, DORA)
    for method in (hers, uuid4()):
        with pytest.raises(IntegrityError, match="its own customer"):
            async with as_claim(lived, who.claim) as db:
                await db.execute(text(OTHERS_CARD), {"payer": CARL.id, "method": method})
    own = await save_method(lived, CARL, "pm_2")
    async with as_claim(lived, who.claim) as db:
        await db.execute(text(OTHERS_CARD), {"payer": CARL.id, "method": own})


async def test_staff_with_sql_in_hand_refund_nothing_past_the_ledger(lived: Live) -> None:
    with pytest.raises(ProgrammingError, match="permission denied"):
        async with as_claim(lived, OLIVIA.claim) as db:
            await db.execute(
                text(
                    "insert into refunds (payment_id, amount, requested_by)"
                    " select id, 1, 'me' from payments where captured = 30"
                )
            )


async def test_a_payment_keeps_its_history_when_its_customer_goes(lived: Live) -> None:
    """Money and its trail never go with a row of somebody."""
    [hers] = await rows(lived, "select id from payments where captured = 30")
    audits = "select count(*) as n from payment_audits where payment_id = $1"
    [before] = await rows(lived, audits, hers["id"])
    await rows(lived, "update payments set user_id = null where id = $1", hers["id"])
    assert (await row_of(lived, hers["id"]))["captured"] == 30
    [after] = await rows(lived, audits, hers["id"])
    assert after["n"] == before["n"]
