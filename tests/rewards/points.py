"""Points for tests: rules that staff make, points that are given, and days that have passed.

await rule(live, "1.5", category="models")
await charge(live, CARL, 10, category="models")
await give(live)
assert await points_of(live, CARL) == 15
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg

from bursar.core.database import WORKER
from bursar.rewards import earning
from bursar.wallets import ledger
from bursar.wallets.ledger import Outcome
from tests.accounts.people import rows
from tests.conftest import Live
from tests.databases import raw
from tests.wallets.purses import Amount, Customer, id_of, minor, post
from tests.world import OLIVIA

RULES = "/api/v1/admin/rewards/rules"
TIERS = "/api/v1/admin/rewards/tiers"


async def rule(live: Live, points: Amount, **given: Any) -> dict[str, Any]:
    """As the owner makes one, by the route."""
    body = {"name": "Points for all", "pointsPerUnit": str(points), **given}
    async with live.api(OLIVIA) as api:
        answer = await api.post(RULES, json=body)
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def made_long_ago(live: Live) -> None:
    """As though every rule had been there before anything was charged."""
    await rows(live, "update reward_rules set created_at = '2020-01-01Z'")


async def no_tiers(live: Live) -> None:
    """Points as the rules say, nothing multiplied."""
    await rows(live, "delete from reward_tiers")


async def give(live: Live, most: int = earning.MOST) -> int:
    """As the job does, until every entry has been read; answers how many those were."""
    read = 0
    while True:
        async with live.database.transaction(WORKER) as db:
            found = await earning.give(db, most=most)
        read += found
        if not found:
            return read


async def points_of(live: Live, who: Customer) -> int:
    """The balance; who has no account for points has none."""
    query = "select posted from accounts where owner_id = $1 and asset = 'POINTS'"
    return sum(row["posted"] for row in await rows(live, query, id_of(who)))


async def lines_of(live: Live, who: Customer) -> list[tuple[str, int]]:
    """Kind and points of every entry, the oldest first."""
    query = """
      select kind, amount from accounts cross join lateral wallet_entries(accounts.id)
      where owner_id = $1 and asset = 'POINTS' order by wallet_entries.seq
    """
    return [(row["kind"], row["amount"]) for row in await rows(live, query, id_of(who))]


async def receive(live: Live, who: Customer, points: int, kind: str = "earn") -> Outcome:
    leg = ledger.transfer("rewards", ledger.user(id_of(who)), points, ledger.POINTS, kind=kind)
    return await post(live, leg)


async def spend(live: Live, who: Customer, points: int, kind: str = "redeem") -> Outcome:
    leg = ledger.transfer(ledger.user(id_of(who)), "rewards", points, ledger.POINTS, kind=kind)
    return await post(live, leg)


async def reverse(live: Live, charged: Outcome, amount: Amount | None = None) -> Outcome:
    [moved] = charged.legs
    assert moved.transfer_id
    part = None if amount is None else minor(Decimal(amount))
    return await post(live, ledger.reverse(moved.transfer_id, part))


async def backdate(live: Live, account_id: UUID, moments: Sequence[datetime]) -> None:
    """As though each entry of an account had been posted then; only its owner can do that to a
    ledger, with its guards taken off."""
    connection = await asyncpg.connect(raw(live.url))
    try:
        async with connection.transaction():
            for table in ("transfers", "accounts"):
                await connection.execute(f"alter table {table} disable trigger user")
            await connection.execute(
                """
                update transfers set posted_at = moment
                from unnest($2::timestamptz[]) with ordinality as t (moment, seq)
                where (debit_id, debit_seq) = ($1, seq) or (credit_id, credit_seq) = ($1, seq)
                """,
                account_id,
                list(moments),
            )
            await connection.execute(
                "update accounts set moved_at = $2 where id = $1", account_id, moments[-1]
            )
            for table in ("transfers", "accounts"):
                await connection.execute(f"alter table {table} enable trigger user")
    finally:
        await connection.close()
