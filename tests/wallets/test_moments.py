"""Where an account stood at any moment: as if every entry were added up, and only for its owner."""

import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from bursar.app import create_app
from bursar.core.database import WORKER, Claim, Role
from bursar.core.settings import Settings
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from tests import databases
from tests.accounts.people import rows
from tests.conftest import Live
from tests.wallets.purses import fund, id_of, move_in, wallet_of
from tests.world import CARL, DORA, OLIVIA

TICK = timedelta(microseconds=1)
HOURS = 40  # how far from now the entries take effect

ADDED_UP = """
  select
    (select coalesce(max(seq), 0) from entries where posted_at <= moment) as seq,
    (select coalesce(sum(delta), 0) from entries where posted_at <= moment) as balance,
    (select coalesce(sum(delta), 0) from entries where effective <= moment) as effective
  from unnest($2::timestamptz[]) with ordinality as asked (moment, n) order by n
"""
ENTRIES = """
  with entries as (
    select debit_seq as seq, -amount as delta, posted_at,
      coalesce(effective_at, posted_at) as effective
    from transfers where debit_id = $1
    union all
    select credit_seq, amount, posted_at, coalesce(effective_at, posted_at)
    from transfers where credit_id = $1
  )
"""
FOUND = """
  select seq_at($1, moment) as seq, balance_at($1, moment) as balance,
    balance_at($1, moment, true) as effective
  from unnest($2::timestamptz[]) with ordinality as asked (moment, n) order by n
"""


@pytest.fixture(scope="module")
async def busy(settings: Settings) -> AsyncIterator[Live]:
    """Some 120 entries of CARL and DORA: one by one and many at a moment, with effect whenever."""
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await move_in(live)
    await fund(live, CARL, 1000)
    await fund(live, DORA, 1000)
    chance = random.Random(4)
    for size in [1, 2, 1, 7, 1, 1, 16, 3, 1, 30, 1, 4, 1, 1, 40]:
        requests = [ledger.Request("moments", str(uuid4()), [leg(chance)]) for _ in range(size)]
        async with live.database.transaction(WORKER) as db:
            await wallets.post_all(db, requests)
    yield live
    await live.database.close()
    await databases.discard(url)


def leg(chance: random.Random) -> ledger.Leg:
    carl, dora = ledger.user(id_of(CARL)), ledger.user(id_of(DORA))
    debit, credit = chance.choice(
        [(carl, "revenue"), (carl, dora), (dora, carl), ("clearing", carl)]
    )
    effective = None
    if chance.random() < 0.6:
        effective = datetime.now(UTC) + timedelta(hours=chance.randint(-HOURS, HOURS))
    return ledger.transfer(
        debit, credit, chance.randint(1, 9_000_000), kind="charge", effective_at=effective
    )


async def moments(live: Live) -> list[datetime]:
    """Every time that means something, and what is just beside it."""
    query = "select posted_at as at from transfers union select effective_at from transfers"
    exact = [row["at"] for row in await rows(live, query) if row["at"]]
    days = [datetime(2000, 1, 1, tzinfo=UTC), datetime(2100, 1, 1, tzinfo=UTC)]
    return [*days, *exact, *(at - TICK for at in exact), *(at + TICK for at in exact)]


@pytest.mark.parametrize("who", [CARL, DORA], ids=["carl", "dora"])
async def test_every_moment_is_what_the_entries_add_up_to(busy: Live, who: Any) -> None:
    account, asked = (await wallet_of(busy, who))["id"], await moments(busy)
    expected = await rows(busy, ENTRIES + ADDED_UP, account, asked)
    found = await rows(busy, FOUND, account, asked)
    assert [tuple(row) for row in found] == [tuple(row) for row in expected]
    assert len({row["seq"] for row in found}) > 10
    assert any(row["balance"] != row["effective"] for row in found)


ENTRY = st.tuples(
    st.integers(1, 50),
    st.booleans(),  # into the wallet, or out of it
    st.none() | st.timedeltas(-timedelta(days=3), timedelta(days=3)),
)


@hypothesis.settings(max_examples=15)
@given(st.lists(st.lists(ENTRY, min_size=1, max_size=6), min_size=1, max_size=5))
async def test_any_mixture_of_late_and_early_entries_adds_up(
    busy: Live, calls: list[list[tuple[int, bool, timedelta | None]]]
) -> None:
    person, wallet = uuid4(), ledger.user
    await move_in(busy, person)
    await fund(busy, person, 9000)
    for call in calls:
        requests = []
        for amount, gains, shift in call:
            sides = ("clearing", wallet(person)) if gains else (wallet(person), "revenue")
            effective = None if shift is None else datetime.now(UTC) + shift
            leg = ledger.transfer(*sides, amount, kind="charge", effective_at=effective)
            requests.append(ledger.Request("moments", str(uuid4()), [leg]))
        async with busy.database.transaction(WORKER) as db:
            await wallets.post_all(db, requests)
    account = (await wallet_of(busy, person))["id"]
    asked = await moments(busy)
    expected = await rows(busy, ENTRIES + ADDED_UP, account, asked)
    assert [tuple(row) for row in await rows(busy, FOUND, account, asked)] == [
        tuple(row) for row in expected
    ]


async def test_a_company_account_is_found_as_well(busy: Live) -> None:
    [row] = await rows(
        busy, "select id from accounts where purpose = 'revenue' order by seq desc limit 1"
    )
    asked = await moments(busy)
    expected = await rows(busy, ENTRIES + ADDED_UP, row["id"], asked)
    assert [tuple(each) for each in await rows(busy, FOUND, row["id"], asked)] == [
        tuple(each) for each in expected
    ]


async def test_now_is_what_the_account_says(busy: Live) -> None:
    wallet = await wallet_of(busy, CARL)
    [row] = await rows(busy, FOUND, wallet["id"], [wallet["moved_at"]])
    assert (row["seq"], row["balance"]) == (wallet["seq"], wallet["posted"])


async def test_an_account_without_entries_has_nothing(live_db: Live) -> None:
    await move_in(live_db)
    [row] = await rows(live_db, FOUND, (await wallet_of(live_db, CARL))["id"], [datetime.now(UTC)])
    assert tuple(row) == (0, 0, 0)


async def test_an_unknown_account_has_no_balance(busy: Live) -> None:
    [row] = await rows(busy, FOUND, uuid4(), [datetime.now(UTC)])
    assert tuple(row) == (0, None, None)


ASK = text(
    """select seq_at(:account, now()), balance_at(:account, now()),
         balance_at(:account, now(), true)"""
)


async def asked_by(live: Live, claim: Claim, account: UUID) -> tuple[Any, ...]:
    async with live.database.transaction(claim) as db:
        return tuple((await db.execute(ASK, {"account": account})).one())


async def test_customers_get_answers_about_their_own_only(busy: Live) -> None:
    wallet, other = await wallet_of(busy, CARL), await wallet_of(busy, DORA)
    own = await asked_by(busy, CARL.claim, wallet["id"])
    assert own[:2] == (wallet["seq"], wallet["posted"])
    assert await asked_by(busy, CARL.claim, other["id"]) == (0, None, None)
    [company] = await rows(busy, "select id from accounts where purpose = 'clearing' limit 1")
    assert await asked_by(busy, CARL.claim, company["id"]) == (0, None, None)


async def test_staff_and_the_worker_get_them_about_all(busy: Live) -> None:
    wallet = await wallet_of(busy, CARL)
    for claim in (OLIVIA.claim, WORKER):
        assert (await asked_by(busy, claim, wallet["id"]))[:2] == (wallet["seq"], wallet["posted"])


@pytest.mark.parametrize("role", [Role.ANALYTICS, Role.DOOR])
async def test_nobody_else_may_ask(busy: Live, role: Role) -> None:
    wallet = await wallet_of(busy, CARL)
    with pytest.raises(ProgrammingError, match="permission denied"):
        await asked_by(busy, Claim(role), wallet["id"])
