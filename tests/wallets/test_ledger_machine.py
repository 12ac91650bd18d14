"""Whatever is asked of the ledger, in whatever order, it answers and keeps what its oracle does."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from itertools import accumulate, count
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from bursar.core import exact
from bursar.wallets import ledger
from bursar.wallets.ledger import Leg, Request
from tests import databases
from tests.conftest import Live
from tests.wallets.oracle import COMPANY, Account, Answer, Books, Oracle, ask, books, opened

ASSETS = ("USD", "POINTS")
USERS = 3
NOWHERE = 99
examples = count()

# Some amounts are bad, some parties unknown. A hold or transfer is a place among those that there
# are, the newest first: of open holds, of all, or nobody's.
amounts = st.sampled_from([*range(1, 30), -1, 0, 1000])
parts = st.none() | st.integers(1, 8) | st.integers(0, 30)
places = st.sampled_from([*range(24), NOWHERE])
PEOPLE = ["user 0", "user 1", "user 2"]
parties = st.sampled_from(PEOPLE * 5 + ["account 0", "revenue", "exchange", "user 9", "nobody"])
pairs = st.tuples(parties, parties).filter(lambda pair: pair[0] != pair[1] or pair[0] == "user 2")
assets = st.sampled_from(["USD"] * 12 + ["POINTS", "POINTS", "EUR"])
kinds = st.sampled_from(["charge", "transfer", "transfer"])
limits = st.sampled_from([None, None, 0, 20, 60])
holds = st.tuples(st.just("hold"), parties, amounts, assets, st.sampled_from([3600, 3600, 3600, 0]))
closings = st.one_of(
    st.tuples(st.just("capture"), places, parts, st.booleans()),
    st.tuples(st.just("capture"), places, parts, st.booleans()),
    st.tuples(st.sampled_from(["void", "void", "void", "expire"]), places),
)
legs = st.one_of(
    st.tuples(st.just("transfer"), pairs, amounts, assets, kinds, limits),
    holds,
    closings,
    st.tuples(st.just("reverse"), places, parts),
)
requests = st.one_of(
    st.tuples(st.just("new"), st.lists(legs, min_size=1, max_size=1)),
    st.tuples(st.just("new"), st.lists(legs, min_size=1, max_size=4)),
    st.tuples(st.just("again"), places),
    st.tuples(st.just("under the key of"), places, st.lists(legs, min_size=1, max_size=2)),
)


class LedgerMachine(RuleBasedStateMachine):
    """New customers for each example; the company's accounts go on from where they are."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    books: Books

    @initialize(funds=st.lists(st.integers(20, 200), min_size=USERS, max_size=USERS))
    def move_in(self, funds: list[int]) -> None:
        self.scope = f"example {next(examples)}"
        self.asked: list[Request] = []
        self.users = [self.run(self.books.customer()) for _ in funds]
        self.oracle = Oracle(self.run(self.read_accounts()), ASSETS)
        for user_id, amount in zip(self.users, funds, strict=True):
            leg = ledger.transfer("clearing", ledger.user(user_id), amount, kind="funding")
            self.call([self.request([leg])])

    async def read_accounts(self) -> dict[tuple[str, str], Account]:
        query = """
            select coalesce('user:' || owner_id, purpose || '#' || shard) as party, id, posted,
              held, spent, seq, overdraft, status, asset
            from accounts where owner_id = any ($1) or purpose = any ($2)"""
        accounts = {
            (f"user:{user_id}", "POINTS"): Account("", asset="POINTS", opened=False)
            for user_id in self.users
        }
        for row in await self.books.fetch(query, self.users, COMPANY):
            given = {name: value for name, value in row.items() if name not in ("party", "id")}
            account = Account(str(row["id"]), **given)
            accounts[row["party"], row["asset"]] = accounts[account.id, ""] = account
        return accounts

    @rule(asked=st.lists(requests, min_size=1, max_size=5))
    def post(self, asked: list[Any]) -> None:
        self.call([self.made(*each) for each in asked])

    @rule(asked=requests)
    def post_one(self, asked: Any) -> None:
        self.call([self.made(*asked)])

    @rule(user=st.integers(0, USERS - 1), held=st.lists(st.integers(1, 20), min_size=2, max_size=4))
    def hold_several(self, user: int, held: list[int]) -> None:
        wallet = ledger.user(self.users[user])
        each = [ledger.hold(wallet, amount, kind="charge", seconds=3600) for amount in held]
        self.call([self.request([leg]) for leg in each])

    @precondition(lambda self: sum(hold.state == "open" for hold in self.oracle.holds.values()) > 1)
    @rule(closed=st.lists(closings, min_size=2, max_size=5, unique_by=lambda leg: leg[1]))
    def close_several(self, closed: list[Any]) -> None:
        self.call([self.request([self.leg(*leg)]) for leg in closed])

    @rule(user=st.integers(0, USERS - 1), amount=st.integers(1, 200), asset=st.sampled_from(ASSETS))
    def fund(self, user: int, amount: int, asset: str) -> None:
        wallet = ledger.user(self.users[user])
        self.call([self.request([ledger.transfer("clearing", wallet, amount, asset, kind="earn")])])

    @rule(user=st.integers(0, USERS - 1), status=st.sampled_from(["open", "open", "frozen"]))
    def freeze(self, user: int, status: str) -> None:
        self.set(self.wallet(user), "status", status)

    @precondition(lambda self: any(self.closable(user) for user in range(USERS)))
    @rule()
    def close(self) -> None:
        user = next(user for user in range(USERS) if self.closable(user))
        self.set(self.wallet(user), "status", "closed")

    @rule(user=st.integers(0, USERS - 1), overdraft=st.sampled_from([0, 25, None]))
    def allow(self, user: int, overdraft: int | None) -> None:
        wallet = self.wallet(user)
        if overdraft is None or wallet.posted - wallet.held >= -overdraft:
            self.set(wallet, "overdraft", overdraft)

    def teardown(self) -> None:
        if hasattr(self, "oracle"):
            self.run(self.replay())

    def wallet(self, user: int) -> Account:
        return self.oracle.accounts[f"user:{self.users[user]}", "USD"]

    def closable(self, user: int) -> bool:
        wallet = self.wallet(user)
        return (wallet.posted, wallet.held) == (0, 0) and wallet.status != "closed"

    def set(self, account: Account, column: str, value: Any) -> None:
        change = f"update accounts set {column} = $2 where id = $1"
        self.run(self.books.execute(change, account.id, value))
        setattr(account, column, value)

    def request(self, its_legs: list[Leg]) -> Request:
        made = Request(self.scope, f"key {len(self.asked)}", its_legs)
        self.asked.append(made)
        return made

    def made(self, how: str, *given: Any) -> Request:
        if how == "new":
            return self.request([self.leg(*leg) for leg in given[0]])
        older: Request = self.asked[-1 - given[0] % len(self.asked)]
        if how == "again":
            return older
        return Request(self.scope, older.key, [self.leg(*leg) for leg in given[1]])

    def leg(self, verb: str, *given: Any) -> Leg:
        if verb == "transfer":
            pair, amount, asset, kind, limit = given
            sides = (self.party(pair[0]), self.party(pair[1]))
            return ledger.transfer(*sides, amount, asset, kind=kind, at_most_today=limit)
        if verb == "hold":
            party, amount, asset, seconds = given
            return ledger.hold(self.party(party), amount, asset, kind="charge", seconds=seconds)
        if verb == "reverse":
            return ledger.reverse(picked(self.oracle.moves, given[0]), given[1])
        hold_id = picked(self.oracle.holds, given[0])
        if verb == "capture":
            return ledger.capture(hold_id, given[1], final=given[2])
        return ledger.leg(verb, hold=hold_id)

    def party(self, name: str) -> str:
        what, _, number = name.partition(" ")
        if what == "user":
            known = int(number) < USERS
            return ledger.user(self.users[int(number)] if known else uuid4())
        return self.wallet(int(number)).id if what == "account" else name

    def call(self, asked: list[Request]) -> None:
        """Every answer is the oracle's, and so is what every account says afterwards."""
        answers = self.run(self.books.post(*asked))
        assert len(answers) == len(asked)
        for request, answer in zip(asked, answers, strict=True):
            self.oracle.agree(self.oracle.answer(request), answer)
        for (party, _), real in self.run(self.read_accounts()).items():
            should = self.oracle.accounts.get((party, real.asset)) if real.opened else None
            if should:
                names = ("posted", "held", "spent", "seq", "status", "overdraft", "asset")
                assert [getattr(real, name) for name in names] == [
                    getattr(should, name) for name in names
                ], party

    async def replay(self) -> None:
        """What was written is what the oracle knows, and adds up to what wallets say."""
        query = """
            select id, amount, kind, reverses, hold_id from transfers where operation_id in (
              select id from operations where scope = $1)"""
        rows = await self.books.fetch(query, self.scope)
        assert {
            (str(row["id"]), row["amount"], row["kind"], row["reverses"], row["hold_id"])
            for row in rows
        } == {
            (move.id, move.amount, move.kind, uuid(move.reverses), uuid(move.hold))
            for move in self.oracle.moves.values()
        }
        query = """
            select id, amount, captured, state from holds where account_id in (
              select id from accounts where owner_id = any ($1))"""
        held = {str(row[0]): tuple(row)[1:] for row in await self.books.fetch(query, self.users)}
        for hold in self.oracle.holds.values():
            if hold.id in held:
                assert held[hold.id] == (hold.amount, hold.captured, hold.state)
        for user_id in self.users:
            await self.look_back(self.oracle.accounts[f"user:{user_id}", "USD"])
        await self.books.check()

    async def look_back(self, wallet: Account) -> None:
        """A statement is the oracle's moves in their order, and at each moment there was what they
        add up to by then."""
        query = """
            select id, seq, amount, balance, posted_at,
              balance_at($1, posted_at) as at_once, balance_at($1, posted_at, true) as effective,
              balance_at($1, posted_at - interval '1 microsecond') as before
            from wallet_entries($1, most => 1000) order by seq"""
        rows = await self.books.fetch(query, wallet.id)
        moves = [m for m in self.oracle.moves.values() if wallet in (m.debit, m.credit)]
        signed = [move.amount if wallet is move.credit else -move.amount for move in moves]
        balances = [*accumulate(signed)]
        assert [tuple(row)[:4] for row in rows] == [
            (UUID(move.id), n + 1, signed[n], balances[n]) for n, move in enumerate(moves)
        ]
        last = {row["posted_at"]: row["balance"] for row in rows}
        earlier = dict(zip(last, [0, *last.values()], strict=False))
        for row in rows:
            assert row["at_once"] == row["effective"] == last[row["posted_at"]]
            assert row["before"] == earlier[row["posted_at"]]


def picked(known: dict[str, Any], place: int) -> str:
    """Mostly one that can still be closed or reversed."""
    lively = [each for each, thing in known.items() if getattr(thing, "state", "open") == "open"]
    among = lively if lively and place < 18 else list(known)
    return among[-1 - place % len(among)] if among and place != NOWHERE else str(uuid4())


def uuid(thing: Any) -> Any:
    return UUID(thing.id) if thing else None


@pytest.fixture
def machine() -> Iterator[type[LedgerMachine]]:
    """Hypothesis is not asynchronous: the machine has a loop of its own."""
    loop = asyncio.new_event_loop()
    url = loop.run_until_complete(databases.clone())
    here = loop.run_until_complete(opened(url))
    try:
        on_this = {"run": staticmethod(loop.run_until_complete), "books": here}
        yield type("Machine", (LedgerMachine,), on_this)
    finally:
        loop.run_until_complete(here.connection.close())
        loop.run_until_complete(databases.discard(url))
        loop.close()


def test_the_ledger_does_what_its_oracle_does(machine: type[LedgerMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            deadline=None,
            # without Phase.shrink: against a database that takes minutes
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_eight_connections_at_once_leave_exact_books(live_db: Live, seed: int) -> None:
    """Anything on five shared wallets, with keys that collide, in calls of up to 12 requests."""
    chance = random.Random(seed)
    async with books(live_db.url) as here:
        users = [await here.customer(500) for _ in range(5)]
        known: list[Answer] = []
        told: dict[str, list[Answer]] = {}
        await asyncio.gather(*(wild(live_db.url, chance, users, known, told) for _ in range(8)))
        await here.check()
        for answers in told.values():  # who asks the same again is told the same
            assert len({exact.dumps(answer["legs"]) for answer in answers}) == 1
            assert sum(not answer.get("replayed") for answer in answers) == 1
        assert await here.fetchval("select count(*) - 5 from operations") == len(told)
        assert len(told) > 300


async def wild(
    url: str,
    chance: random.Random,
    users: list[str],
    known: list[Answer],
    told: dict[str, list[Answer]],
) -> None:
    async with books(url) as here:
        for _ in range(40):
            asked = [wild_request(chance, users, known) for _ in range(chance.randint(1, 12))]
            for request, answer in zip(asked, await posted(here, asked), strict=True):
                if "error" not in answer:
                    told.setdefault(request.key, []).append(answer)
                    known += answer["legs"]


async def posted(here: Books, asked: list[Request]) -> list[Answer]:
    """A key that somebody else has just used for other wallets ends the call: it is asked again."""
    while True:
        with suppress(asyncpg.UniqueViolationError):
            return await here.post(*asked)


def wild_request(chance: random.Random, users: list[str], known: list[Answer]) -> Request:
    debit, credit = (ledger.user(each) for each in chance.sample(users, 2))
    amount = chance.randint(1, 60)
    done = chance.choice(known[-40:]) if known else {"hold_id": uuid4(), "transfer_id": uuid4()}
    its_hold, its_transfer = (done[name] or uuid4() for name in ("hold_id", "transfer_id"))
    leg = chance.choice(
        [
            ledger.transfer(debit, credit, amount, kind="transfer", at_most_today=3000),
            ledger.transfer(debit, "revenue", amount, kind="charge"),
            ledger.transfer("clearing", credit, amount, kind="funding"),
            ledger.hold(debit, amount, kind="charge", seconds=chance.choice([0, 600, 600])),
            ledger.capture(its_hold, chance.randint(1, 20), final=chance.random() < 0.5),
            ledger.capture(its_hold),
            chance.choice([ledger.void, ledger.expire])(its_hold),
            ledger.reverse(its_transfer, chance.randint(1, 20)),
        ]
    )
    linked = ledger.transfer(debit, "fees", 1, kind="charge")
    legs = [leg, linked] if chance.random() < 0.3 else [leg]
    return ask(*legs, key=f"key {chance.randint(1, 1500)}")
