"""Whoever writes to the ledger by hand, the superuser too, is refused what is no posting."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from bursar.wallets import ledger
from tests import databases
from tests.wallets.oracle import Books, books

REFUSED = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.RestrictViolationError,
    asyncpg.CheckViolationError,
    asyncpg.ForeignKeyViolationError,
    asyncpg.UniqueViolationError,
)


TABLES = ("accounts", "holds", "transfers", "operations")


@dataclass
class Till:
    """Two wallets, a and b (100 and 50, 20 of a's held), and what a forger has to know of them."""

    books: Books
    names: dict[str, str]

    async def run(self, sql: str) -> None:
        """`:a`, `:b`, `:hold`, … stand for ids."""
        for name in sorted(self.names, key=len, reverse=True):
            sql = sql.replace(f":{name}", f"'{self.names[name]}'")
        async with self.books.connection.transaction():
            await self.books.execute(sql)

    async def refuses(self, sql: str) -> None:
        with pytest.raises(REFUSED):
            await self.run(sql)
        await self.books.check()


@pytest.fixture(scope="module")
async def world() -> AsyncIterator[Till]:
    url = await databases.clone()
    admin = make_url(os.environ[databases.ADMIN]).set(database=make_url(url).database)
    async with books(admin.render_as_string(hide_password=False)) as superuser:
        assert await superuser.fetchval("select rolsuper from pg_roles where rolname = user")
        yield Till(superuser, await names_of(superuser))
    await databases.discard(url)


async def names_of(here: Books) -> dict[str, str]:
    one, two = await here.customer(130), await here.customer(50)
    paid = await here.do(ledger.transfer(ledger.user(one), "revenue", 30, kind="charge"))
    held = await here.do(ledger.hold(ledger.user(one), 20, kind="charge", seconds=60))
    gone = await here.do(ledger.hold(ledger.user(one), 5, kind="charge", seconds=60))
    await here.do(ledger.void(gone["legs"][0]["hold_id"]))
    names = {"hold": held["legs"][0]["hold_id"], "gone": gone["legs"][0]["hold_id"]}
    names |= {"paid": paid["legs"][0]["transfer_id"], "operation": paid["operation_id"]}
    names |= {"user_a": one, "user_b": two}
    for letter, user_id in (("a", one), ("b", two)):
        names[letter] = str((await here.wallet(user_id) or {})["id"])
    revenue = "select credit_id from transfers where kind = 'charge'"
    return names | {"revenue": str(await here.fetchval(revenue))}


@pytest.fixture
async def till(world: Till) -> AsyncIterator[Till]:
    """Each statement is looked at when it ends, so nothing needs to be committed."""
    transaction = world.books.connection.transaction()
    await transaction.start()
    yield world
    await transaction.rollback()


# A posting by hand: 10 from a to b, with what it says of both in one statement. The numbers that a
# forger would bend stand in braces.
POSTING = """
with asked as (
  insert into operations (id, scope, key, fingerprint, outcome, actor, created_at)
  values (uuid7(), 'forged', uuid7()::text, sha256(''), '{{}}', 'me', now()) returning id
), changed as (
  update accounts set posted = accounts.posted + now.delta, spent = accounts.spent + now.spent,
    seq = accounts.seq + now.steps, moved_at = {moved_at}
  from (values (:a::uuid, {taken}, {spent}, {steps}), (:b::uuid, {given}, 0, 1))
    as now (id, delta, spent, steps)
  where accounts.id = now.id
)
insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
  credit_id, credit_seq, credit_after, kind, posted_at, reverses, hold_id)
select uuid7(), asked.id, '{asset}', {amount}, :a, {debit_seq}, {debit_after}, :b, 2,
  {credit_after}, 'transfer', {posted_at}, {reverses}, {hold}
from asked
"""
GENUINE: dict[str, object] = {
    "taken": -10, "given": 10, "spent": 10, "steps": 1, "asset": "USD", "amount": 10,
    "debit_seq": 3, "debit_after": 90, "credit_after": 60, "posted_at": "now() + interval '1 s'",
    "moved_at": "now() + interval '1 s'", "reverses": "null", "hold": "null",
}  # fmt: skip


def posting(**bent: object) -> str:
    return POSTING.format(**{**GENUINE, **bent})


async def test_a_posting_by_hand_that_fits_is_a_posting(till: Till) -> None:
    await till.run(posting())
    await till.books.check()
    assert await till.books.state(till.names["user_b"]) == (60, 0, 0, 2)
    more = ledger.transfer(ledger.user(till.names["user_b"]), "revenue", 60, kind="charge")
    await till.books.do(more)


BENT: dict[str, dict[str, object]] = {
    "another amount": {"amount": 11},
    "less is taken": {"taken": -9, "debit_after": 91},
    "less is taken, and the transfer does not say so": {"taken": -9},
    "more is given": {"given": 11, "credit_after": 61},
    "money from nothing": {"taken": 0, "debit_after": 100, "steps": 0, "spent": 0},
    "nobody is debited": {"taken": 0, "debit_after": 100},
    "what is spent is forgotten": {"spent": 0},
    "a number is left out": {"debit_seq": 4, "steps": 2},
    "a number is left out of the transfer": {"debit_seq": 4},
    "the account counts one too many": {"steps": 2},
    "a number that is taken": {"debit_seq": 2, "debit_after": 100, "steps": 0, "taken": 0},
    "the first number again": {"debit_seq": 1, "debit_after": -10},
    "back in time": {"posted_at": "now() - interval '1 hour'",
                     "moved_at": "now() - interval '1 hour'"},
    "moved at another time": {"moved_at": "now() + interval '1 hour'"},
    "moved at the time it was": {"moved_at": "accounts.moved_at"},
    "in another asset": {"asset": "POINTS"},
    "in no asset": {"asset": "EUR"},
    "beyond the limit": {"taken": -81, "spent": 81, "given": 81, "amount": 81, "debit_after": 19,
                         "credit_after": 131},
    "below zero": {"taken": -101, "spent": 101, "given": 101, "amount": 101, "debit_after": -1,
                   "credit_after": 151},
    "nothing": {"amount": 0, "taken": 0, "given": 0, "spent": 0, "debit_after": 100,
                "credit_after": 50},
    "the wrong way round": {"amount": -10, "taken": 10, "given": -10, "spent": -10,
                            "debit_after": 110, "credit_after": 40},
    "a reversal of somebody else's transfer": {"reverses": ":paid", "spent": 0},
    "as a capture that the hold does not know of": {"hold": ":hold"},
    "as a capture of a hold that is closed": {"hold": ":gone"},
}  # fmt: skip


@pytest.mark.parametrize("how", BENT)
async def test_a_posting_by_hand_that_is_bent_is_refused(till: Till, how: str) -> None:
    await till.refuses(posting(**BENT[how]))


FORGED = {
    "a balance": "update accounts set posted = posted + 1 where id = :a",
    "a balance with its number": """
        update accounts set posted = posted + 1, seq = seq + 1
        where id = :a""",
    "money that changes places": """
        update accounts set posted = posted + case id when :a then -10 else 10 end
        where id in (:a, :b)""",
    "the same with numbers": """
        update accounts set seq = seq + 1, posted = posted + case id when :a then -10 else 10 end
        where id in (:a, :b)""",
    "wallets that change places": """
        update accounts set owner_id = case id when :a then :user_b::uuid else :user_a end
        where id in (:a, :b)""",
    "ids that change places": """
        update accounts set id = case id when :a then :b::uuid else :a end
        where id in (:a, :b)""",
    "what is spent": "update accounts set spent = 0 where id = :a",
    "what is held": "update accounts set held = 0 where id = :a",
    "more that is held": "update accounts set held = held + 1 where id = :a",
    "a number": "update accounts set seq = seq + 1 where id = :a",
    "a number that goes back": "update accounts set seq = seq - 1 where id = :a",
    "the whole account goes back": """
        update accounts set (seq, posted, spent) = (1, 130, 0)
        where id = :a""",
    "when it moved": "update accounts set moved_at = now() + interval '1 day' where id = :a",
    "when it was opened": """
        update accounts set created_at = now() - interval '9 days'
        where id = :a""",
    "another asset": "update accounts set asset = 'POINTS' where id = :a",
    "another purpose": "update accounts set purpose = 'fees', owner_id = null where id = :a",
    "no owner while there is money": "update accounts set owner_id = null where id = :a",
    "closed while there is money": "update accounts set status = 'closed' where id = :b",
    "a limit that is passed already": "update accounts set overdraft = -1 where id = :b",
    "no account": "delete from accounts where id = :a",
    "no empty account either": "delete from accounts where seq = 0",
    "no accounts": "truncate accounts cascade",
    "no users": "truncate users cascade",
    "an account that is born with money": """
        insert into accounts (asset, posted, seq, moved_at) values ('USD', 5, 1, now())""",
    "an account that is born with a debt": """
        insert into accounts (asset, posted, overdraft)
        values ('USD', -5, 5)""",
    "an account that is born with holds": """
        insert into accounts (asset, held, overdraft)
        values ('USD', 5, 5)""",
    "a second wallet": "insert into accounts (asset, owner_id) values ('USD', :user_a)",
    "money on conflict": """
        insert into accounts (id, asset) values (:a, 'USD')
        on conflict (id) do update set posted = accounts.posted + 1""",
    "money by merge": """
        merge into accounts using (values (:a::uuid, -5), (:b, 5)) as more (id, delta)
        on accounts.id = more.id when matched then update set posted = posted + delta""",
    "money in two parts of a statement": """
        with one as (update accounts set posted = posted - 5 where id = :a)
        update accounts set posted = posted + 5 where id = :b""",
    "money by a new account that is changed at once": """
        with born as (insert into accounts (asset) values ('USD') returning id)
        update accounts set posted = posted + 5 where id = :a or id = (select id from born)""",
    "an edited transfer": "update transfers set amount = amount + 1 where id = :paid",
    "a transfer that stays as it is": "update transfers set amount = amount where id = :paid",
    "another kind": "update transfers set kind = 'gift' where id = :paid",
    "a transfer that is gone": "delete from transfers where id = :paid",
    "no transfers": "truncate transfers cascade",
    "a transfer merged away": """
        merge into transfers using (values (:paid::uuid)) as old (id)
        on transfers.id = old.id when matched then delete""",
    "an edited transfer on conflict": """
        insert into transfers select * from transfers where id = :paid
        on conflict (id) do update set amount = 1""",
    "a transfer twice": """
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at)
        select uuid7(), operation_id, asset, amount, debit_id, debit_seq + 1, debit_after - amount,
          credit_id, credit_seq + 1, credit_after + amount, kind, posted_at
        from transfers where id = :paid""",
    "an edited operation": "update operations set outcome = '{}' where id = :operation",
    "an operation that is gone": "delete from operations where id = :operation",
    "no operations": "truncate operations cascade",
    "a hold that is larger": "update holds set amount = amount + 1 where id = :hold",
    "a hold that is later": """
        update holds set expires_at = now() + interval '9 days'
        where id = :hold""",
    "a hold of somebody else": "update holds set account_id = :b where id = :hold",
    "a hold for something else": "update holds set category = 'gifts' where id = :hold",
    "a capture without a transfer": "update holds set captured = 5 where id = :hold",
    "a capture without a transfer, and free": """
        with freed as (update accounts set held = held - 5 where id = :a)
        update holds set captured = 5 where id = :hold""",
    "a hold closed, and still held": """
        update holds set state = 'voided', closed_at = now(), closed_by = :operation
        where id = :hold""",
    "a hold captured of nothing": """
        with freed as (update accounts set held = held - 20 where id = :a)
        update holds set state = 'captured', closed_at = now(), closed_by = :operation,
          captured = 20 where id = :hold""",
    "a hold reopened": """
        with again as (update accounts set held = held + 5 where id = :a)
        update holds set state = 'open', closed_at = null, closed_by = null where id = :gone""",
    "a hold that is gone": "delete from holds where id = :gone",
    "no holds": "truncate holds cascade",
    "a hold that nobody holds": """
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'USD', 5, 'charge', now(), now())""",
    "a hold beyond the limit": """
        with more as (update accounts set held = held + 81 where id = :a)
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'USD', 81, 'charge', now(), now())""",
    "a hold in another asset": """
        with more as (update accounts set held = held + 5 where id = :a)
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at) values (uuid7(), :operation, :a, 'POINTS', 5, 'charge', now(), now())""",
    "a hold that is born closed": """
        insert into holds (id, operation_id, account_id, asset, amount, kind, created_at,
          expires_at, state, closed_at, closed_by)
        values (uuid7(), :operation, :a, 'USD', 5, 'charge', now(), now(), 'voided', now(),
          :operation)""",
    "an asset with another scale": "update assets set scale = 2 where code = 'USD'",
    "no asset": "delete from assets where code = 'POINTS'",
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
async def test_what_is_forged_is_refused(till: Till, what: str) -> None:
    await till.refuses(FORGED[what])


BORN = {"asset": "USD", "posted": 5}


async def test_copied_rows_are_looked_at_like_inserted_ones(till: Till) -> None:
    copy = till.books.connection.copy_records_to_table
    [paid] = await till.books.fetch(f"select * from transfers where id = '{till.names['paid']}'")
    columns = ["id", "operation_id", "asset", "amount", "debit_id", "debit_seq", "debit_after"]
    columns += ["credit_id", "credit_seq", "credit_after", "kind", "posted_at"]
    row = dict(paid) | {"id": till.names["user_a"], "debit_seq": 3, "debit_after": 70}
    row |= {"credit_seq": 2, "credit_after": 60}
    for table, given in (("transfers", {name: row[name] for name in columns}), ("accounts", BORN)):
        with pytest.raises(REFUSED):
            async with till.books.connection.transaction():
                await copy(table, columns=list(given), records=[tuple(given.values())])


async def test_a_number_is_taken_once_whichever_side_it_stands_on(till: Till) -> None:
    """There and back, then again under the same numbers: only the numbers are wrong."""
    there = ledger.transfer(till.names["b"], till.names["a"], 10, kind="charge")
    back = ledger.transfer(till.names["a"], till.names["b"], 10, kind="charge")
    await till.books.do(there)  # a: 3, +10; b: 2, -10
    await till.books.do(back)  # a: 4, -10; b: 3, +10
    await till.refuses(
        """
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at)
        values
          (uuid7(), :operation, 'USD', 5, :a, 3, 95, :b, 2, 55, 'charge', now()),
          (uuid7(), :operation, 'USD', 5, :b, 3, 50, :a, 4, 100, 'charge', now())"""
    )


async def test_more_is_never_reversed_than_was_moved(till: Till) -> None:
    """By hand, in one statement with all that belongs to it: back to a, who paid revenue 30."""
    statement = """
        with changed as (
          update accounts set seq = accounts.seq + 1, moved_at = now() + interval '1 s',
            posted = accounts.posted + now.delta, spent = accounts.spent + now.spent
          from (values (:a::uuid, {0}, -{0}), (:revenue::uuid, -{0}, 0)) as now (id, delta, spent)
          where accounts.id = now.id
        )
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at, reverses)
        select uuid7(), :operation, 'USD', {0}, r.id, r.seq + 1, r.posted - {0},
          a.id, a.seq + 1, a.posted + {0}, 'reversal', now() + interval '1 s', :paid
        from accounts as a, accounts as r where a.id = :a and r.id = :revenue"""
    await till.refuses(statement.format(31))
    await till.run(statement.format(20))
    await till.books.check()
    await till.refuses(statement.format(11))
    await till.run(statement.format(10))
    await till.books.check()
