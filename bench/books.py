"""Wallets with money in them, and ledgers with millions of charges behind them, made fast.

What is written is what posting one charge after the other would have left: every chain, balance and
outcome is exact, and `bursar verify` agrees (bench/verify.py asks it). Only that it is written by
sets of rows, without triggers, and the indexes of random keys are built afterwards.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import asyncpg

from bench import harness

HOT, CROWD = "hot", "crowd"
CROWD_SIZE = 10_000
AMOUNT = 1_000  # of each charge, in millionths of a dollar
FUNDS = 10**13  # in each wallet at first: no run comes to an end of it
DAYS = 300  # that the charges lie behind us: the oldest ones
SEVERAL = 100_000  # rows from which on it pays to build indexes anew
BACKDATED = 100  # one charge in so many took effect a day before it was posted


@dataclass(frozen=True)
class Charges:
    """How many charges lie behind one hot wallet, and behind all of the crowd together."""

    hot: int = 0
    crowd: int = 0
    wallets: int = CROWD_SIZE  # in the crowd

    @property
    def entries(self) -> int:
        return self.hot + self.crowd + self.wallets + 1


async def make(url: str, charges: Charges) -> None:
    """As the superuser: one hot wallet, a crowd of others, and what has happened to them."""
    began = time.perf_counter()
    connection = await asyncpg.connect(url)
    try:
        for group, size in ((HOT, 1), (CROWD, charges.wallets)):
            await connection.execute(PEOPLE, group, size)
        await connection.execute(TABLE)
        pen = Pen(url, connection, timedelta(days=DAYS) / charges.entries)
        indexes = await pen.drop_indexes() if charges.entries > SEVERAL else []
        for group in (HOT, CROWD):
            await pen.write(group, "funding", "clearing", FUNDS, 1)
        await pen.write(HOT, "charge", "revenue", -AMOUNT, charges.hot)
        await pen.write(CROWD, "charge", "revenue", -AMOUNT, charges.crowd // charges.wallets)
        await connection.execute("drop table sides")
        if indexes:
            await pen.build_indexes(indexes)
        await pen.together(*(f"vacuum (freeze, analyze) {table}" for table in TABLES))
        await connection.execute("vacuum (analyze) accounts, users")
        await connection.execute("checkpoint")
    finally:
        await connection.close()
    seconds = time.perf_counter() - began
    harness.say(f"  {charges.hot + charges.crowd:,} charges written in {seconds:.0f} s")


class Pen:
    """Writes group after group, each entry a moment after the one before it."""

    def __init__(self, url: str, connection: asyncpg.Connection, pause: timedelta) -> None:
        self.url = url
        self.connection = connection
        self.pause = int(pause / timedelta(microseconds=1))
        self.start = datetime.now(UTC) - timedelta(days=DAYS)
        self.written = 0

    async def write(self, group: str, kind: str, company: str, amount: int, rounds: int) -> None:
        """So many rounds in which each wallet of the group gains the amount, or loses it."""
        if not rounds:
            return
        await self.connection.execute("truncate sides")
        await self.connection.execute(SIDES, f"{group}-", company)
        size = await self.connection.fetchval("select count(*) from sides")
        facts = (self.written, rounds * size, size, amount, self.start, self.pause, kind)
        await self.together(OPERATIONS, TRANSFERS, arguments=facts)
        async with self.connection.transaction():
            await self.connection.execute("set local session_replication_role = replica")
            for side in (WALLETS, COMPANY):
                await self.connection.execute(side, *facts[:-1], rounds)
        self.written += rounds * size

    async def together(self, *statements: str, arguments: tuple[object, ...] = ()) -> None:
        """Each on a connection of its own, without triggers."""
        await asyncio.gather(*(self._run(statement, arguments) for statement in statements))

    async def _run(self, statement: str, arguments: tuple[object, ...]) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute("set session_replication_role = replica")
            await connection.execute("set maintenance_work_mem = '512MB'")
            await connection.execute(statement, *arguments)
        finally:
            await connection.close()

    async def drop_indexes(self) -> list[asyncpg.Record]:
        indexes = await self.connection.fetch(INDEXES, TABLES)
        for index in indexes:
            if index["is_constraint"]:
                await self.connection.execute(
                    f"alter table {index['place']} drop constraint {index['name']}"
                )
            else:
                await self.connection.execute(f"drop index {index['name']}")
        return list(indexes)

    async def build_indexes(self, indexes: list[asyncpg.Record]) -> None:
        """Those of one table after the other, those of two tables at a time."""
        await self.together(
            *(
                "; ".join(index["definition"] for index in indexes if index["place"] == table)
                for table in TABLES
            )
        )
        for index in indexes:
            if index["is_constraint"]:
                await self.connection.execute(
                    f"alter table {index['place']} add constraint {index['name']} "
                    f"unique using index {index['name']}"
                )


TABLES = ["operations", "transfers"]

PEOPLE = """
  insert into users (email, name, email_verified)
  select format('%s-%s@example.com', $1::text, lpad(number::text, 6, '0')), 'Wallet', true
  from generate_series(1, $2::integer) as number
"""

INDEXES = """
  select indexrelid::regclass::text as name, indrelid::regclass::text as place,
    pg_get_indexdef(indexrelid) as definition,
    exists (select from pg_constraint where conindid = indexrelid and contype = 'u')
      as is_constraint
  from pg_index where indrelid = any ($1::text[]::regclass[]) and not indisprimary
"""

# Who stands on both sides of a group's entries, and where they stand before its first one. `place`
# is the turn of a wallet among those that share a shard of the company's account.
TABLE = """
  create unlogged table sides (
    number integer, wallet uuid, seq bigint, posted bigint,
    company uuid, company_seq bigint, company_posted bigint, place integer, sharing integer
  )
"""
SIDES = """
  insert into sides
  select row_number() over (order by email) - 1, wallet.id, wallet.seq, wallet.posted,
    company.id, company.seq, company.posted,
    row_number() over (partition by company.id order by email) - 1,
    count(*) over (partition by company.id)
  from users join accounts as wallet on wallet.owner_id = users.id and wallet.asset = 'USD'
  join accounts as company on company.purpose = $2 and company.asset = 'USD'
    and company.shard = ('x' || right(users.id::text, 1))::bit(4)::integer
  where email like $1 || '%'
  order by email
"""

# $1 entries were written before, $2 are written now for $3 wallets, each of which gains $4.
ENTRIES = """
  select (lpad(to_hex((extract(epoch from $5::timestamptz) * 1000)::bigint
      + nth * $6::bigint / 1000), 12, '0') || '70008' || lpad(to_hex(nth), 15, '0'))::uuid as id,
    $5::timestamptz + nth * $6::bigint * interval '1 microsecond' as posted_at, nth,
    abs($4::bigint) as amount, $4::bigint > 0 as gains, $7::text as kind, wallet, company,
    seq + turn + 1 as seq, posted + (turn + 1) * $4::bigint as after,
    company_seq + turn * sharing + place + 1 as company_seq,
    company_posted - (turn * sharing + place + 1) * $4::bigint as company_after
  from (
    select $1::bigint + one as nth, one / $3::bigint as turn, (one % $3::bigint)::integer as side
    from (select generate_series(0, $2::bigint - 1) as one) as each
  ) as entry join sides on number = side
  offset 0
"""

OPERATIONS = f"""
  insert into operations (id, scope, key, fingerprint, outcome, actor, created_at)
  select id, 'staff:00000000-0000-7000-8000-000000000001', gen_random_uuid()::text,
    sha256(uuid_send(id)), (
      '{{"operation_id": "' || id || '", "posted_at": ' || to_json(posted_at) || ', "legs": [{{'
      || '"transfer_id": "' || id || '", "hold_id": null, "asset": "USD", "amount": ' || amount
      || ', "balance": ' || case when gains then company_after else after end || ', "held": 0'
      || ', "credited": ' || case when gains then after else company_after end || '}}]}}'
    )::jsonb, 'staff:00000000-0000-7000-8000-000000000001', posted_at
  from ({ENTRIES}) as entry
"""

TRANSFERS = f"""
  insert into transfers (id, operation_id, asset, amount, debit_id, debit_seq, debit_after,
    credit_id, credit_seq, credit_after, kind, category, posted_at, effective_at)
  select id, id, 'USD', amount,
    case when gains then company else wallet end,
    case when gains then company_seq else seq end,
    case when gains then company_after else after end,
    case when gains then wallet else company end,
    case when gains then seq else company_seq end,
    case when gains then after else company_after end,
    kind, case when not gains then 'models' end, posted_at,
    case when nth % {BACKDATED} = 0 then posted_at - interval '1 day' end
  from ({ENTRIES}) as entry
"""

WALLETS = """
  update accounts set posted = accounts.posted + $7::bigint * $4::bigint,
    spent = spent + greatest(0, -$4::bigint) * $7::bigint, seq = accounts.seq + $7::bigint,
    moved_at = $5::timestamptz
      + ($1::bigint + $2::bigint - $3::bigint + number) * $6::bigint * interval '1 microsecond'
  from sides where id = wallet
"""

COMPANY = """
  update accounts set posted = accounts.posted - $7::bigint * sharing * $4::bigint,
    spent = spent + greatest(0, $4::bigint) * $7::bigint * sharing,
    seq = accounts.seq + $7::bigint * sharing,
    moved_at = $5::timestamptz
      + ($1::bigint + $2::bigint - $3::bigint + last) * $6::bigint * interval '1 microsecond'
  from (
    select company, min(sharing) as sharing, max(number) as last from sides group by company
  ) as shard
  where id = company
"""
