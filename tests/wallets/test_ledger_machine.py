"""Whatever is asked of the ledger, in whatever order, it answers and keeps what its oracle does."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from itertools import accumulate, count, permutations
from typing import Any
from uuid import UUID, uuid4

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

from bursar.wallets import ledger
from bursar.wallets.ledger import Leg, Request
from tests import databases
from tests.wallets.crowd import MOST, Call, Crowd, crowd, in_some_order, order_of_entries
from tests.wallets.oracle import COMPANY, Account, Answer, Books, Oracle, books

ASSETS = ("USD", "POINTS")
USERS = 3
NOWHERE = 99
examples = count()

IN_ORDER = """
  select account, array_agg(entries.id order by entries.seq) as ids from (
    select debit_id as account, debit_seq as seq, id from transfers
    union all select credit_id, credit_seq, id from transfers
  ) as entries join accounts on accounts.id = account and asset = 'USD'
  where owner_id = any ($1) group by account"""
AT_MOMENTS = """
  select moment, balance_at($1, moment) as posted, balance_at($1, moment, true) as effective
  from unnest($2::timestamptz[]) as moment"""

# Some amounts are bad, some parties unknown. A hold or transfer is a place among those that there
# are, the newest first: of open holds, of all, or nobody's.
amounts = st.sampled_from([*range(1, 30), -1, 0, 1000])
parts = st.none() | st.integers(1, 8) | st.integers(0, 30)
places = st.sampled_from([*range(24), NOWHERE])
PEOPLE = ["user 0", "user 1", "user 2"]
parties = st.sampled_from(PEOPLE * 5 + ["account 0", "revenue", "exchange", "user 9", "nobody"])
pairs = st.tuples(parties, parties).filter(lambda pair: pair[0] != pair[1] or pair[0] == "user 2")
assets = st.sampled_from(["USD"] * 12 + ["POINTS", "POINTS", "EUR"])
kinds = st.sampled_from(["charge", "transfer", "transfer", "refund"])
limits = st.sampled_from([None, None, 0, 20, 60])
days = st.sampled_from([None] * 6 + [-400, -1, -0.001, 0, 0.001, 1, 30])  # when it takes effect
holds = st.tuples(st.just("hold"), parties, amounts, assets, st.sampled_from([3600, 3600, 3600, 0]))
closings = st.one_of(
    st.tuples(st.just("capture"), places, parts, st.booleans()),
    st.tuples(st.just("capture"), places, parts, st.booleans()),
    st.tuples(st.sampled_from(["void", "void", "void", "expire"]), places),
)
legs = st.one_of(
    st.tuples(st.just("transfer"), pairs, amounts, assets, kinds, limits, days),
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
# At once: small sums between the same few wallets, holds and keys, so that callers are in each
# other's way; and the same request from all of them.
newest = st.integers(0, 1)
small = st.integers(1, 30)
sendings = st.tuples(
    st.just("transfer"),
    st.sampled_from(list(permutations([*PEOPLE, "revenue"], 2))),
    small,
    st.just("USD"),
    st.just("transfer"),
    st.sampled_from([None, 60]),
    days,
)
rushing_legs = st.one_of(
    sendings,
    sendings,
    st.tuples(st.just("hold"), st.sampled_from(PEOPLE), small, st.just("USD"), st.just(3600)),
    st.tuples(st.just("capture"), newest, parts, st.booleans()),
    st.tuples(st.sampled_from(["void", "expire", "reverse"]), newest),
)
news = st.tuples(
    st.just("new"),
    st.one_of(
        st.lists(sendings, min_size=1, max_size=1),
        st.lists(rushing_legs, min_size=1, max_size=2),
        st.lists(legs, min_size=1, max_size=4),
    ),
)
rushing = st.one_of(
    news,
    news,
    st.tuples(st.just("again"), newest),
    st.tuples(st.just("under the key of"), newest, st.lists(rushing_legs, min_size=1, max_size=2)),
)
echoes = st.lists(st.just(("again", 0)), min_size=1, max_size=MOST - 1)
rushes = st.lists(rushing, min_size=2, max_size=MOST)
same = st.tuples(news, echoes).map(lambda drawn: [drawn[0], *drawn[1]])
ways = st.lists(st.booleans(), min_size=MOST, max_size=MOST)


class LedgerMachine(RuleBasedStateMachine):
    """New customers for each example; the company's accounts go on from where they are."""

    run: Callable[[Coroutine[Any, Any, Any]], Any]
    books: Books
    crowd: Crowd

    @initialize(funds=st.lists(st.integers(20, 200), min_size=USERS, max_size=USERS))
    def move_in(self, funds: list[int]) -> None:
        self.scope = f"example {next(examples)}"
        self.asked: list[Request] = []
        self.began = datetime.now(UTC)
        self.effective: dict[UUID, datetime] = {}
        self.users = [self.run(self.books.customer()) for _ in funds]
        self.oracle = Oracle(self.run(self.read_accounts()), ASSETS)
        for user_id, amount in zip(self.users, funds, strict=True):
            leg = ledger.transfer("clearing", ledger.user(user_id), amount, kind="funding")
            self.call([self.request([leg])])

    async def read_accounts(self) -> dict[tuple[str, str], Account]:
        query = """
            select coalesce('user:' || owner_id, purpose || '#' || shard) as party, id, posted,
              held, spent, seq, overdraft, status, asset, (
                select coalesce(sum(amount), 0)::bigint from transfers
                where debit_id = accounts.id and kind = 'transfer') as sent
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

    @rule(rush=rushes, by_till=ways, together=st.booleans())
    def post_at_once(self, rush: list[Any], by_till: list[bool], together: bool) -> None:
        """The answers, and what is there afterwards, are those of some order of them."""
        calls = [Call(self.made(*asked), way) for asked, way in zip(rush, by_till, strict=False)]
        answers = self.run(self.crowd.ask(calls, self.users if together else ()))
        look = self.run(self.look())
        self.oracle = in_some_order(self.oracle, calls, answers, look)
        for call, answer in zip(calls, answers, strict=True):
            self.learn(call.request, answer)

    @rule(same=same, by_till=ways, together=st.booleans())
    def post_the_same_at_once(self, same: list[Any], by_till: list[bool], together: bool) -> None:
        self.post_at_once(same, by_till, together)

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

    @rule(user=st.integers(0, USERS - 1), overdraft=st.sampled_from([0, 25]))
    def allow(self, user: int, overdraft: int) -> None:
        wallet = self.wallet(user)
        if wallet.posted - wallet.held >= -overdraft:
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
            pair, amount, asset, kind, limit, after = given
            return ledger.transfer(
                self.party(pair[0]),
                self.party(pair[1]),
                amount,
                asset,
                kind=kind,
                at_most_today=limit,
                effective_at=None if after is None else self.began + timedelta(days=after),
            )
        if verb == "hold":
            party, amount, asset, seconds = given
            return ledger.hold(self.party(party), amount, asset, kind="charge", seconds=seconds)
        if verb == "reverse":
            return ledger.reverse(picked(self.oracle.moves, given[0]), *given[1:])
        hold_id = picked(self.oracle.holds, given[0])
        if verb == "capture":
            return ledger.capture(hold_id, given[1], final=given[2])
        return ledger.leg(verb=verb, hold=hold_id)

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
            self.learn(request, answer)
        self.run(self.look())(self.oracle)

    def learn(self, request: Request, answer: Answer) -> None:
        for leg, told in zip(request.legs, answer.get("legs", ()), strict=False):
            if "effective_at" in leg:
                effective_at = datetime.fromisoformat(leg["effective_at"])
                self.effective[UUID(told["transfer_id"])] = effective_at

    async def look(self) -> Callable[[Oracle], None]:
        """Says of an oracle whether it knows every account, and every entry of wallets, as the
        database has them now."""
        accounts = await self.read_accounts()
        entries = {
            row["account"]: row["ids"] for row in await self.books.fetch(IN_ORDER, self.users)
        }

        def check(oracle: Oracle) -> None:
            for (party, _), real in accounts.items():
                should = oracle.accounts.get((party, real.asset)) if real.opened else None
                if should:
                    names = ("posted", "held", "spent", "seq", "status", "overdraft", "asset")
                    assert [getattr(real, name) for name in names] == [
                        getattr(should, name) for name in names
                    ], party
            for user_id in self.users:
                wallet = oracle.accounts[f"user:{user_id}", "USD"]
                assert entries.get(UUID(wallet.id), []) == order_of_entries(oracle, wallet)

        return check

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
        add up to by then: as they were posted, and as they took effect."""
        entries = "select * from wallet_entries($1, most => 1000) order by seq"
        rows = await self.books.fetch(entries, wallet.id)
        moves = [m for m in self.oracle.moves.values() if wallet in (m.debit, m.credit)]
        signed = [move.amount if wallet is move.credit else -move.amount for move in moves]
        balances = [*accumulate(signed)]
        assert [(row["id"], row["seq"], row["amount"], row["balance"]) for row in rows] == [
            (UUID(move.id), n + 1, signed[n], balances[n]) for n, move in enumerate(moves)
        ]
        posted = [row["posted_at"] for row in rows]
        effective = [self.effective.get(row["id"], row["posted_at"]) for row in rows]
        assert [row["effective_at"] for row in rows] == effective
        changes = {*posted, *effective}
        moments = [*changes, *(moment - timedelta(microseconds=1) for moment in changes)]
        for row in await self.books.fetch(AT_MOMENTS, wallet.id, moments):
            by_then = (
                sum(amount for amount, at in zip(signed, times, strict=True) if at <= row["moment"])
                for times in (posted, effective)
            )
            assert (row["posted"], row["effective"]) == tuple(by_then), row["moment"]


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
    run = loop.run_until_complete
    url = run(databases.clone())
    stack = AsyncExitStack()
    try:
        here = run(stack.enter_async_context(books(url)))
        others = run(stack.enter_async_context(crowd(url)))
        yield type(
            "Machine", (LedgerMachine,), {"run": staticmethod(run), "books": here, "crowd": others}
        )
    finally:
        run(stack.aclose())
        run(databases.discard(url))
        loop.close()


def test_the_ledger_does_what_its_oracle_does(machine: type[LedgerMachine]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=25,
            # without Phase.shrink: against a database that takes minutes
            phases=(Phase.explicit, Phase.reuse, Phase.generate),
            suppress_health_check=list(HealthCheck),
        ),
    )
