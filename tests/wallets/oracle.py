"""What the ledger has to answer, worked out in Python, and a connection that asks the real one."""

import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from bursar.core import exact
from bursar.wallets import ledger
from bursar.wallets.ledger import USD, Leg, Request
from tests.databases import raw

Answer = dict[str, Any]
COMPANY = (
    "clearing", "revenue", "adjustments", "exchange", "rewards", "fees", "disputes", "refunds",
    "suspense",
)  # fmt: skip

ENTRIES = """
  select debit_id as account, debit_seq as seq, debit_after as after, -amount as delta, posted_at,
    case when reverses is null and kind not in ('refund', 'dispute') then amount else 0 end as spent
  from transfers
  union all
  select credit_id, credit_seq, credit_after, amount, posted_at,
    case when reverses is null or kind in ('refund', 'dispute') then 0 else -amount end
  from transfers
"""
WRONG = {
    "an asset that does not sum up to zero": """
        select asset from accounts group by asset having sum(posted) <> 0""",
    "a chain with a gap, a wrong balance or a step back in time": f"""
        with chain as (
          select *, row_number() over side as place, lag(after, 1, 0::bigint) over side as before,
            lag(posted_at) over side as posted_before
          from ({ENTRIES}) as entries window side as (partition by account order by seq)
        ) select account, seq from chain
        where seq <> place or after <> before + delta or posted_at < posted_before""",
    "an account that is not what its entries add up to": f"""
        with sums as (
          select account, count(*) as seq, sum(delta) as posted, sum(spent) as spent,
            max(posted_at) as moved_at
          from ({ENTRIES}) as entries group by account
        ) select id from accounts left join sums on account = id
        where accounts.posted <> coalesce(sums.posted, 0) or accounts.seq <> coalesce(sums.seq, 0)
          or accounts.spent <> coalesce(sums.spent, 0)
          or accounts.moved_at is distinct from sums.moved_at""",
    "an account that holds something else than its open holds": """
        select id from accounts where held <> (
          select coalesce(sum(amount - captured), 0) from holds
          where account_id = accounts.id and state = 'open')""",
    "a balance beyond its limit": """
        select id from accounts where posted::numeric - held < -overdraft""",
    "a hold that has captured something else than its transfers moved": """
        select id from holds where captured <> (
          select coalesce(sum(amount), 0) from transfers
          where hold_id = holds.id and debit_id = holds.account_id)""",
    "a transfer of which more is reversed than it moved": """
        select original.id from transfers as original join transfers as back
          on back.reverses = original.id
        group by original.id having sum(back.amount) > original.amount""",
    "a key that was used twice": """
        select scope, key from operations group by scope, key having count(*) > 1""",
    "an operation that did nothing": """
        select id from operations
        where not exists (select from transfers where operation_id = operations.id)
          and not exists (select from holds where operations.id in (operation_id, closed_by))""",
}


class Books:
    """One connection to the ledger, as somebody."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def post(self, *requests: Request) -> list[Answer]:
        documents = [request.document() for request in requests]
        answers: list[Answer] = await self.fetchval("select post($1)", documents)
        return answers

    async def one(self, *legs: Leg, key: str | None = None) -> Answer:
        return (await self.post(ask(*legs, key=key)))[0]

    async def do(self, *legs: Leg, key: str | None = None) -> Answer:
        """The same where nothing may be in the way."""
        answer = await self.one(*legs, key=key)
        assert "error" not in answer, answer
        return answer

    async def customer(self, amount: int = 0, name: str = "Somebody") -> str:
        """A new one, with so much in the wallet."""
        insert = "insert into users (email, name) values ($1, $2) returning id"
        user_id = str(await self.fetchval(insert, f"{uuid4()}@example.com", name))
        if amount:
            await self.do(ledger.transfer("clearing", ledger.user(user_id), amount, kind="funding"))
        return user_id

    async def wallet(self, user_id: str, asset: str = USD) -> dict[str, Any] | None:
        query = "select * from accounts where owner_id = $1 and asset = $2"
        row = await self.connection.fetchrow(query, UUID(user_id), asset)
        return dict(row) if row else None

    async def state(self, user_id: str, asset: str = USD) -> tuple[int, int, int, int]:
        """posted, held, spent, seq."""
        wallet = await self.wallet(user_id, asset)
        assert wallet
        return wallet["posted"], wallet["held"], wallet["spent"], wallet["seq"]

    async def count(self) -> tuple[int, ...]:
        """How many rows there are of everything that a request may write."""
        tables = ("operations", "transfers", "holds", "accounts", "audit_logs")
        counts = ", ".join(f"(select count(*) from {table})" for table in tables)
        return tuple(await self.connection.fetchrow(f"select {counts}"))

    async def check(self) -> None:
        for what, query in WRONG.items():
            found = await self.connection.fetch(query)
            assert not found, f"{what}: {found[:5]}"

    async def execute(self, sql: str, *arguments: Any) -> None:
        await self.connection.execute(sql, *arguments)

    async def fetchval(self, sql: str, *arguments: Any) -> Any:
        return await self.connection.fetchval(sql, *arguments)

    async def fetch(self, sql: str, *arguments: Any) -> list[Any]:
        return list(await self.connection.fetch(sql, *arguments))


def ask(*legs: Leg, key: str | None = None, scope: str = "test", **more: Any) -> Request:
    return Request(scope, key or str(uuid4()), legs, **more)


async def opened(url: str, user: str | None = None, claim: str | None = None) -> Books:
    connection = await asyncpg.connect(raw(url, user))
    await connection.set_type_codec(
        "jsonb", schema="pg_catalog", encoder=exact.dumps, decoder=json.loads
    )
    if claim:
        await connection.execute(f"set request.jwt.claim.sub = '{claim}'")
    return Books(connection)


@asynccontextmanager
async def books(
    url: str, user: str | None = None, claim: str | None = None
) -> AsyncIterator[Books]:
    """A connection of somebody's own: of the owner, or of a login role with a claim."""
    here = await opened(url, user, claim)
    try:
        yield here
    finally:
        await here.connection.close()


@dataclass(eq=False)
class Account:
    id: str
    posted: int = 0
    held: int = 0
    spent: int = 0
    seq: int = 0
    overdraft: int | None = 0
    status: str = "open"
    asset: str = USD
    sent: int = 0
    opened: bool = True


@dataclass(eq=False)
class Held:
    account: Account
    amount: int
    kind: str
    overdue: bool
    captured: int = 0
    state: str = "open"
    id: str = ""


@dataclass(eq=False)
class Move:
    debit: Account
    credit: Account
    amount: int
    kind: str
    hold: Held | None = None
    reverses: "Move | None" = None
    reversed: int = 0
    id: str = ""


class Refused(Exception):
    def __init__(self, code: str, **about: int) -> None:
        super().__init__(code)
        self.code = code
        self.about = about


def need(fine: bool, code: str, **about: int) -> None:
    if not fine:
        raise Refused(f"wallet.{code}", **about)


@dataclass
class Oracle:
    """The rules of the ledger, one request after the other; `accounts` are by party and asset."""

    accounts: dict[tuple[str, str], Account]
    assets: Sequence[str]
    holds: dict[str, Held] = field(default_factory=dict)
    moves: dict[str, Move] = field(default_factory=dict)
    operations: dict[str, tuple[Sequence[Leg], Answer]] = field(default_factory=dict)
    undo: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)

    def answer(self, request: Request) -> Answer:
        known = self.operations.get(request.key)
        if known:
            same = known[0] == request.legs
            return {**known[1], "replayed": True} if same else {"error": "idempotency.key_reused"}
        self.undo.clear()
        legs: list[Answer] = []
        try:
            legs.extend(self.leg(leg) for leg in request.legs)
        except Refused as refused:
            for thing, before in reversed(self.undo):
                vars(thing).update(before)
            return {"error": refused.code, "leg": len(legs) + 1, **refused.about}
        answer = {"legs": legs}
        self.operations[request.key] = (request.legs, answer)
        return answer

    def change(self, thing: Any, **new: Any) -> None:
        self.undo.append((thing, {name: getattr(thing, name) for name in new}))
        vars(thing).update(new)

    def leg(self, leg: Leg) -> Answer:
        verb = leg["verb"]
        if "hold" in leg:
            need(leg["hold"] in self.holds, "unknown_hold")
            hold = self.holds[leg["hold"]]
            credit = self.find(leg.get("credit"), leg["hold"], hold.account.asset)
            return self.close(leg, hold, credit)
        if verb == "reverse":
            need(leg["transfer"] in self.moves, "unknown_transfer")
            return self.reverse(leg, self.moves[leg["transfer"]])
        need(leg["asset"] in self.assets, "unknown_asset")
        debit = self.find(leg["debit"], leg.get("credit", ""), leg["asset"])
        credit = self.find(leg.get("credit"), leg["debit"], leg["asset"])
        need(debit is not None, "unknown_account")
        need(verb == "hold" or credit is not None, "unknown_account")
        assert debit
        need(leg["amount"] > 0, "bad_leg")
        self.may_move(verb, debit, credit, leg["asset"])
        if verb == "hold":
            return self.hold(leg, debit)
        assert credit
        return self.transfer(leg, debit, credit)

    def find(self, party: str | None, other: str, asset: str) -> Account | None:
        if party in COMPANY:
            shard = int(other[-1], 16) if re.search("[0-9a-f]{12}$", other) else 0
            party = f"{party}#{shard}"
        return self.accounts.get((party or "", asset)) or self.accounts.get((party or "", ""))

    def may_move(self, verb: str, debit: Account, credit: Account | None, asset: str) -> None:
        sides = [debit, credit] if credit else [debit]
        need(debit is not credit, "same_account")
        need(all(side.asset == asset for side in sides), "asset_mismatch")
        need(all(side.status != "closed" for side in sides), "account_closed")
        need(debit.status != "frozen" or verb in ("void", "expire"), "account_frozen")

    def afford(self, account: Account, amount: int) -> None:
        if account.overdraft is not None:
            available = account.posted - account.held
            need(
                available + account.overdraft >= amount,
                "insufficient_funds",
                balance=account.posted,
                available=available,
                needed=amount,
            )

    def transfer(self, leg: Leg, debit: Account, credit: Account) -> Answer:
        amount = leg["amount"]
        if "at_most_today" in leg:
            left = leg["at_most_today"] - debit.sent
            need(amount <= left, "transfer_limit", left=max(0, left))
        self.afford(debit, amount)
        return self.moved(Move(debit, credit, amount, leg["kind"]))

    def moved(self, move: Move) -> Answer:
        debit, credit, amount = move.debit, move.credit, move.amount
        self.change(debit, posted=debit.posted - amount, seq=debit.seq + 1)
        self.change(credit, posted=credit.posted + amount, seq=credit.seq + 1, opened=True)
        if move.reverses:
            self.change(move.reverses, reversed=move.reverses.reversed + amount)
        if move.reverses and move.kind != "refund":
            self.change(credit, spent=credit.spent - amount)
        elif move.kind != "refund":
            self.change(debit, spent=debit.spent + amount)
        if move.kind == "transfer":
            self.change(debit, sent=debit.sent + amount)
        return self.told(debit, amount, credit=credit.posted, move=move, hold=move.hold)

    def told(self, account: Account, amount: int, **more: Any) -> Answer:
        return {
            "asset": account.asset,
            "amount": amount,
            "balance": account.posted,
            "held": account.held,
            "credited": more.get("credit"),
            "move": more.get("move"),
            "hold": more.get("hold"),
        }

    def hold(self, leg: Leg, account: Account) -> Answer:
        self.afford(account, leg["amount"])
        self.change(account, held=account.held + leg["amount"])
        held = Held(account, leg["amount"], leg["kind"], overdue=leg["seconds"] <= 0)
        return self.told(account, leg["amount"], hold=held)

    def close(self, leg: Leg, hold: Held, credit: Account | None) -> Answer:
        """Captures, voids, expires."""
        verb, account, left = leg["verb"], hold.account, hold.amount - hold.captured
        amount = leg.get("amount", left)
        need(verb != "capture" or credit is not None, "unknown_account")
        need("amount" not in leg or (amount > 0 and verb == "capture"), "bad_leg")
        self.may_move(verb, account, credit, account.asset)
        too_late = verb == "capture" and hold.overdue and hold.state in ("open", "expired")
        need(not too_late, "hold_expired")
        need(hold.state == "open", "hold_closed")
        if verb == "capture":
            need(amount <= left, "capture_too_large", left=left)
            self.change(hold, captured=hold.captured + amount)
            self.change(account, held=account.held - amount)
            left -= amount
        need(verb != "expire" or hold.overdue, "hold_open")
        if verb != "capture" or left == 0 or leg.get("final"):
            state = {"capture": "captured", "void": "voided", "expire": "expired"}[verb]
            self.change(hold, state=state)
            self.change(account, held=account.held - left)
        if verb != "capture":
            return self.told(account, amount, hold=hold)
        assert credit
        return self.moved(Move(account, credit, amount, hold.kind, hold))

    def reverse(self, leg: Leg, original: Move) -> Answer:
        left = 0 if original.reverses else original.amount - original.reversed
        amount = leg.get("amount", left)
        need("amount" not in leg or amount > 0, "bad_leg")
        self.may_move("reverse", original.credit, original.debit, original.debit.asset)
        need(0 < amount <= left, "reversal_too_large", left=left)
        self.afford(original.credit, amount)
        kind = original.kind if original.kind == "refund" else "reversal"
        back = Move(original.credit, original.debit, amount, kind, reverses=original)
        return self.moved(back)

    def agree(self, expected: Answer, actual: Answer) -> None:
        """The database answered the same; ids are its own, and are learned here."""
        if "error" in expected:
            assert {name: actual.get(name) for name in expected} == expected, actual
            return
        assert "error" not in actual, (expected, actual)
        assert actual.get("replayed", False) == expected.get("replayed", False)
        assert len(actual["legs"]) == len(expected["legs"])
        for should, told in zip(expected["legs"], actual["legs"], strict=True):
            names = ("asset", "amount", "balance", "held", "credited")
            assert {name: told[name] for name in names} == {name: should[name] for name in names}
            for made, told_id, known in (
                (should["move"], told["transfer_id"], self.moves),
                (should["hold"], told["hold_id"], self.holds),
            ):
                assert (made is None) == (told_id is None)
                if made is not None:
                    made.id = made.id or told_id
                    assert made.id == told_id
                    known[told_id] = made
