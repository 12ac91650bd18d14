"""The summary of five million payments, as staff ask for it; beside it the same counted anew.

The rows are written by sets and without history, but the totals are kept by the triggers that keep
them in production; before anything is measured, the view is compared with a count of all rows.
"""

import asyncio
import time
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import asyncpg

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import BenchFailed
from bursar.auth.actor import operator
from bursar.auth.permissions import StaffRole
from bursar.core.database import Database
from bursar.core.embedded import Embedded
from bursar.core.settings import Settings
from bursar.payments import queries

TITLE = "Summary of payments, milliseconds"
FULL, QUICK = 5_000_000, 20_000
PIECE = 100_000  # rows of one insert
VIEW, COUNT = "payment_summary", "counted anew"
CLAIMS = (Claim(VIEW, 20, at_least=False),)
MOST_ROUNDS = 5

# What only slows the writing down: rules of the life of one payment, its history, and indexes that
# the summary does not use.
PREPARE = """
  alter table payments disable trigger begin_payment;
  alter table payments disable trigger keep_change;
  insert into users (email, name)
    select n || '@example.com', 'Payer' from generate_series(1, 1000) as n
"""
INDEXES = """
  select indexrelid::regclass::text as name from pg_index
  where indrelid = 'payments'::regclass and not indisprimary and not exists (
    select from pg_constraint where conindid = indexrelid)
"""
ROWS = """
  insert into payments (id, user_id, amount, currency, payment_method, provider, status, captured,
    provider_state, created_at)
  select uuid7(), payer.ids[1 + n % 1000], 1 + n % 997 + 0.01 * (n % 100),
    case when n % 10 = 0 then 'EUR' else 'USD' end, method,
    case when n % 5 > 1 then 'manual' else method end,
    case n % 7 when 0 then 'pending' when 1 then 'failed' else 'completed' end,
    case when n % 7 > 1 then 1 + n % 997 + 0.01 * (n % 100) else 0 end,
    'done', now() - n * interval '1 second'
  from generate_series($1::bigint, $2::bigint) as n
  cross join (select array_agg(id) as ids from users) as payer
  cross join lateral (
    select (array['stripe', 'paypal', 'cash', 'check', 'bank_transfer'])[1 + n % 5] as method
  ) as its
"""
GO_BACK = "update payments set refunded = captured where captured > 0 and amount < 20"
RECOUNT = """
  select payment_method, status, currency, count(*) as payment_count, sum(amount) as total_amount
  from payments group by payment_method, status, currency order by 1, 2, 3
"""
SHOWN = "select * from payment_summary order by payment_method, status, currency"


def run(plan: Plan) -> Report:
    rows = QUICK if plan.quick else FULL
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as server:
            asyncio.run(make(server.url("postgres"), rows))
            place = Place(server.url(), server.url("postgres"), data, plan.seconds)
            return harness.run(
                "payments_summary",
                TITLE,
                f"ms for {rows:,} payments",
                [
                    Contender(
                        VIEW, "as GET /api/v1/payments/summary reads it, for staff", place.view
                    ),
                    Contender(COUNT, "a count of all rows, by the owner", place.count),
                ],
                CLAIMS,
                min(plan.rounds, MOST_ROUNDS),
            )


async def make(url: str, rows: int) -> None:
    began = time.perf_counter()
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("insert into assets (code, scale) values ('EUR', 2)")
        await connection.execute(PREPARE)
        for index in await connection.fetch(INDEXES):
            await connection.execute(f"drop index {index['name']}")
        for first in range(1, rows + 1, PIECE):
            await connection.execute(ROWS, first, min(first + PIECE - 1, rows))
        await connection.execute(GO_BACK)
        await connection.execute("vacuum (analyze) payments, payment_totals")
        await check(connection, rows)
    finally:
        await connection.close()
    harness.say(f"  {rows:,} payments written in {time.perf_counter() - began:.0f} s")


async def check(connection: asyncpg.Connection, rows: int) -> None:
    """What the triggers have kept is what is there."""
    shown, counted = await connection.fetch(SHOWN), await connection.fetch(RECOUNT)
    if [tuple(row) for row in shown] != [tuple(row) for row in counted]:
        raise BenchFailed("the summary is not what a count of all payments says")
    if sum(row["payment_count"] for row in shown) != rows:
        raise BenchFailed("there are not as many payments as were written")


@dataclass
class Place:
    """Where both are asked."""

    url: str
    owner_url: str
    data: Any
    seconds: float

    def view(self) -> float:
        return asyncio.run(self._view())

    async def _view(self) -> float:
        database = Database(self.url, Settings(data=self.data, secret_key=ground.SECRET))
        claim = operator(StaffRole.OWNER).claim
        took = []
        until = time.perf_counter() + self.seconds
        while time.perf_counter() < until:
            with timed(took):
                async with database.transaction(claim) as db:
                    await queries.summary(db)
        await database.close()
        return median(took[1:] or took)  # the first one opens the connection

    def count(self) -> float:
        return asyncio.run(self._count())

    async def _count(self) -> float:
        connection = await asyncpg.connect(self.owner_url)
        took: list[float] = []
        with timed(took):
            await connection.fetch(RECOUNT)
        await connection.close()
        return took[0]


@contextmanager
def timed(took: list[float]) -> Any:
    begun = time.perf_counter()
    yield
    took.append((time.perf_counter() - begun) * 1000)
