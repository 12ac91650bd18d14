"""Verifying the books: a million charges replayed by the command, all accounts and holds with them.

Beside it the same rows only read, which is what the database and the driver take of it.
"""

import asyncio
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import asyncpg

from bench import books, ground, harness
from bench.books import Charges
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import ROOT, BenchFailed, clean_environment
from bursar.core.embedded import Address, Embedded

TITLE = "The books, seconds"
FULL, QUICK = Charges(100_000, 900_000), Charges(1_000, 10_000)
VERIFY, READ = "bursar verify", "only read"
CLAIMS = (Claim(VERIFY, 30, at_least=False),)
MOST_ROUNDS = 5
PIECE = 10_000
COLUMNS = "amount, debit_id, debit_seq, debit_after, credit_id, credit_seq, credit_after, posted_at"


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as server:
            charges = QUICK if plan.quick else FULL
            asyncio.run(books.make(server.url("postgres"), charges))
            place = Place(data, server.address)
            return harness.run(
                "verify",
                TITLE,
                f"seconds for {charges.hot + charges.crowd:,} charges",
                [
                    Contender(VERIFY, "the command, beside a running server", place.verify),
                    Contender(READ, "the transfers by asyncpg, nothing compared", place.read),
                ],
                CLAIMS,
                min(plan.rounds, MOST_ROUNDS),
            )


@dataclass
class Place:
    """A ledger that is right."""

    data: Path
    address: Address

    def verify(self) -> float:
        begun = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, "-m", "bursar.cli", "verify", "--json", "--data", str(self.data)],
            capture_output=True,
            check=False,
            cwd=ROOT,
            env=clean_environment() | ground.ENVIRONMENT,
        )
        if ended.returncode:
            raise BenchFailed((ended.stdout + ended.stderr)[-2000:].decode())
        if not json.loads(ended.stdout)["ok"]:
            raise BenchFailed("`bursar verify` found something and did not say so by its code")
        return time.perf_counter() - begun

    def read(self) -> float:
        return asyncio.run(self._read())

    async def _read(self) -> float:
        connection = await asyncpg.connect(self.address.url("postgres"))
        begun = time.perf_counter()
        async with connection.transaction():
            cursor = await connection.cursor(f"select {COLUMNS} from transfers")
            while await cursor.fetch(PIECE):
                pass
        await connection.close()
        return time.perf_counter() - begun
