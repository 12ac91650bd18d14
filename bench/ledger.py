"""The till with ten million charges behind it, beside the same till on a ledger that is empty.

Two servers, each with its own data, take turns under the same callers (bench/charges.py); a million
of the charges are those of the one hot wallet. On the large ledger two reads are timed as well, by
one client over the socket: the statement of GET balance, sent as its customer, and what the hot
wallet held at some moment of its past.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from bench import books, ground, harness
from bench.books import CROWD, DAYS, HOT, Charges
from bench.charges import Callers
from bench.harness import Claim, Contender, Figure, Plan, Report
from bench.load import Outcome, outcome
from bursar.auth.actor import Actor, Kind
from bursar.core.database import Database
from bursar.core.embedded import Address, Embedded
from bursar.core.settings import Settings
from bursar.wallets import queries

FULL, QUICK = Charges(1_000_000, 9_000_000), Charges(50_000, 100_000)
TITLE = "The till with {:,} charges behind it, and with none"
EMPTY_HOT, FULL_HOT = "empty, one wallet", "full, one wallet"
EMPTY_MANY, FULL_MANY = "empty, 10,000 wallets", "full, 10,000 wallets"
CLAIMS = (
    Claim(FULL_HOT, 0.8, at_least=True, peer=EMPTY_HOT),
    Claim(FULL_MANY, 0.8, at_least=True, peer=EMPTY_MANY),
)
BALANCE = "balance"
POSTED, EFFECTIVE = "balance at a moment, posted", "balance at a moment, effective"
MOST_MS = {BALANCE: 1, POSTED: 5, EFFECTIVE: 5}
READS, QUICK_READS = 2_000, 200  # of each kind in a round
# After a checkpoint the first change of each page is logged with the whole page, and a large ledger
# has many of them. What lasts is measured: from when most pages have been touched.
WARM_UP_SECONDS = 12.0
AT = "select balance_at($1, $2, $3)"

Read = Callable[[], Awaitable[Any]]


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder, ExitStack() as stack:
        empty = stack.enter_context(ledger(folder / "empty", Charges()))
        charges = QUICK if plan.quick else FULL
        full = stack.enter_context(ledger(folder / "full", charges))
        callers = {
            EMPTY_HOT: Callers(HOT, empty),
            FULL_HOT: Callers(HOT, full),
            EMPTY_MANY: Callers(CROWD, empty),
            FULL_MANY: Callers(CROWD, full),
        }
        for each in callers.values():
            each.measure(0.3 if plan.quick else WARM_UP_SECONDS)
            each.forget()
        report = harness.run(
            "ledger",
            TITLE.format(charges.hot + charges.crowd),
            "charges/s; reads in ms",
            [Contender(k, c.what, partial(c.measure, plan.seconds)) for k, c in callers.items()],
            CLAIMS,
            plan.rounds,
        )
        notes = tuple(f"{name}: {each.note}" for name, each in callers.items())
        reads = asyncio.run(time_reads(full, plan))
        return with_reads(replace(report, notes=notes), reads)


@contextmanager
def ledger(data: Path, charges: Charges) -> Iterator[Address]:
    ground.prepare(data)
    with Embedded(data, say=lambda _: None) as server:
        asyncio.run(books.make(server.url("postgres"), charges))
        yield server.address


async def time_reads(address: Address, plan: Plan) -> dict[str, list[Outcome]]:
    """In turn, round after round, as everything is measured."""
    number = QUICK_READS if plan.quick else READS
    connection = await asyncpg.connect(address.url("postgres"))
    database = Database(address.url(), Settings(data=Path(), secret_key=ground.SECRET))
    try:
        kinds = {
            BALANCE: await balances(database, connection),
            POSTED: await moments(connection, effective=False),
            EFFECTIVE: await moments(connection, effective=True),
        }
        for read in kinds.values():
            await timed(read, number // 10)
        found: dict[str, list[Outcome]] = {kind: [] for kind in kinds}
        for _ in range(plan.rounds):
            for kind, read in kinds.items():
                found[kind].append(await timed(read, number))
        return found
    finally:
        await database.close()
        await connection.close()


async def timed(read: Read, number: int) -> Outcome:
    times = []
    began = time.perf_counter()
    for _ in range(number):
        asked_at = time.perf_counter()
        await read()
        times.append(time.perf_counter() - asked_at)
    return outcome(times, time.perf_counter() - began)


async def balances(database: Database, connection: asyncpg.Connection) -> Read:
    """Of any customer, each as that customer."""
    rows = await connection.fetch("select id from users where email like $1 || '-%'", CROWD)
    people: Sequence[UUID] = [row["id"] for row in rows]

    async def read() -> queries.Balance:
        user = random.choice(people)
        return await queries.balance(database, Actor(Kind.CUSTOMER, user).claim, user)

    return read


async def moments(connection: asyncpg.Connection, *, effective: bool) -> Read:
    """Of the hot wallet, at any second since its first charge."""
    account = await connection.fetchval(
        "select accounts.id from accounts join users on users.id = owner_id "
        "where email like $1 || '-%'",
        HOT,
    )
    statement = await connection.prepare(AT)
    first = datetime.now(UTC) - timedelta(days=DAYS)

    async def read() -> int:
        moment = first + timedelta(seconds=random.randrange(DAYS * 86_400))
        found: int = await statement.fetchval(account, moment, effective)
        return found

    return read


def with_reads(report: Report, reads: dict[str, list[Outcome]]) -> Report:
    figures = {
        kind: Figure(kind, "ms, median of a round, one client", tuple(o.p50_ms for o in outcomes))
        for kind, outcomes in reads.items()
    }
    claims = [Claim(kind, most, at_least=False) for kind, most in MOST_MS.items()]
    slowest = {kind: max(o.p99_ms for o in outcomes) for kind, outcomes in reads.items()}
    return replace(
        report,
        figures=(*report.figures, *figures.values()),
        verdicts=(*report.verdicts, *(harness.judge(claim, figures) for claim in claims)),
        notes=(*report.notes, *(f"{k}: p99 at most {most:.2f} ms" for k, most in slowest.items())),
    )
