"""Whoever writes to the ledger by hand, the superuser too, is refused what is no posting."""

import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from sqlalchemy.engine import make_url

from bursar.wallets import ledger
from tests import databases
from tests.wallets.forgeries import FORGED
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


@pytest.mark.parametrize(
    "change",
    [
        "transfers set effective_at = 'infinity' where id = :paid",
        "transfers set effective_at = '0044-03-15 BC' where id = :paid",
        "holds set expires_at = 'infinity' where id = :hold",
        "holds set expires_at = created_at - interval '1 s' where id = :hold",
        "transfers set metadata = '[1]' where id = :paid",
        "holds set metadata = '[1]' where id = :hold",
        "holds set metadata = jsonb_build_object('a', repeat('x', 4096)) where id = :hold",
    ],
)
async def test_what_no_client_could_be_shown(till: Till, change: str) -> None:
    """Also where no trigger looks."""
    await till.books.execute("set local session_replication_role = replica")
    with pytest.raises(asyncpg.CheckViolationError):
        await till.run(f"update {change}")


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


async def test_taken_numbers_stay_taken_where_the_account_goes_on_too(till: Till) -> None:
    """The same with a further transfer, and both accounts agree with the last of the three."""
    await till.books.do(ledger.transfer(till.names["b"], till.names["a"], 10, kind="charge"))
    await till.books.do(ledger.transfer(till.names["a"], till.names["b"], 10, kind="charge"))
    later = "now() + interval '1 s'"
    await till.refuses(
        f"""
        with changed as (
          update accounts set moved_at = {later}, seq = accounts.seq + 1,
            posted = accounts.posted + now.delta, spent = accounts.spent + now.spent
          from (values (:a::uuid, -5, 5), (:b, 5, 0)) as now (id, delta, spent)
          where accounts.id = now.id
        )
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at)
        values
          (uuid7(), :operation, 'USD', 5, :a, 3, 95, :b, 2, 55, 'charge', {later}),
          (uuid7(), :operation, 'USD', 5, :b, 3, 50, :a, 4, 100, 'charge', {later}),
          (uuid7(), :operation, 'USD', 5, :a, 5, 95, :b, 4, 55, 'charge', {later})"""
    )


async def test_no_number_lies_before_the_first(till: Till) -> None:
    """b, who has one entry, pays twice under numbers that are free on its other side, and says the
    same as before: only the first of them is no number."""
    later = "now() + interval '1 s'"
    await till.refuses(
        f"""
        with changed as (
          update accounts set posted = posted + 10, seq = seq + 2, moved_at = {later} where id = :a
        )
        insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
          credit_id, credit_seq, credit_after, kind, posted_at)
        values
          (uuid7(), :operation, 'USD', 5, :b, 0, 55, :a, 3, 105, 'charge', {later}),
          (uuid7(), :operation, 'USD', 5, :b, 1, 50, :a, 4, 110, 'charge', {later})"""
    )


async def test_nothing_happens_in_the_middle_of_an_update(till: Till) -> None:
    """A function of the statement runs others, while the row of a says already what it is to come
    to: in the end number 3 would be missing and number 5 be there twice."""
    columns = """(id, operation_id, asset, amount, debit_id, debit_seq, debit_after, credit_id,
      credit_seq, credit_after, kind, posted_at)"""
    await till.refuses(
        f"""
        create function pg_temp.meanwhile() returns integer language plpgsql as $$
        begin
          with b as (
            update accounts set seq = seq + 1, posted = posted + 10, moved_at = now() where id = :b
          )
          insert into transfers {columns}
          values (uuid7(), :operation, 'USD', 10, :a, 5, 90, :b, 2, 60, 'other', now());
          with b as (
            update accounts set seq = seq + 2, spent = spent + 10, moved_at = now() where id = :b
          )
          insert into transfers {columns} values
            (uuid7(), :operation, 'USD', 10, :a, 4, 80, :b, 3, 70, 'other', now()),
            (uuid7(), :operation, 'USD', 10, :b, 4, 60, :a, 5, 90, 'other', now());
          return 0;
        end $$;
        update accounts set seq = seq + 3, posted = posted - 10, spent = spent + 20,
          moved_at = now()
        where id = :a returning pg_temp.meanwhile()"""
    )


@pytest.mark.parametrize("shard", range(4))
async def test_an_account_keeps_its_id_whoever_changes_beside_it(till: Till, shard: int) -> None:
    await till.refuses(
        f"""
        update accounts set id = case id when :a then id else uuid7() end,
          posted = posted + case id when :a then 5 else 0 end
        where id = :a or (purpose, asset, shard) = ('suspense', 'USD', {shard})"""
    )
    await till.refuses(
        f"""
        update accounts set id = uuid7()
        where (purpose, asset, shard) = ('suspense', 'USD', {shard})"""
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
