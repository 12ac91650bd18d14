"""Verifying the audit trail: a million rows, their seals and the checkpoints, by the command.

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

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import ROOT, BenchFailed, clean_environment
from bursar.audit import service, walk
from bursar.core.database import WORKER, Database
from bursar.core.embedded import connect_or_start
from bursar.core.settings import Settings

TITLE = "The audit trail, seconds"
ROWS, QUICK_ROWS = 1_000_000, 20_000
VERIFY, READ = "bursar audit verify", "only read"
CLAIMS = (Claim(VERIFY, 30, at_least=False),)
MOST_ROUNDS = 3

FILL = """
  insert into audit_logs
  select uuid7(), (array['users.suspended', 'settings.changed', 'payments.refunded'])[1 + i % 3],
    'staff', '00000000-0000-7000-8000-0000000000a1', null, null, 'user', gen_random_uuid()::text,
    '{"status":"active","reason":null}',
    json_build_object('status', 'suspended', 'reason', 'number ' || i),
    '203.0.113.7', gen_random_uuid()::text, clock_timestamp(), 'staff_user',
    '00000000-0000-7000-8000-0000000000a1', pg_current_xact_id()::text::bigint
  from generate_series(1, $1::int) as i
"""


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        place = Place(folder / "data", QUICK_ROWS if plan.quick else ROWS)
        ground.prepare(place.data)
        with connect_or_start(place.data, lambda _: None) as address:
            seconds = asyncio.run(place.fill(address.url()))
            harness.say(f"  {place.rows:,} rows sealed in {seconds:.1f} s")
            return harness.run(
                "audit",
                TITLE,
                f"seconds for {place.rows:,} rows",
                [
                    Contender(VERIFY, "all digests and hashes made again", place.verify),
                    Contender(READ, "the same rows by asyncpg, nothing made", place.read),
                ],
                CLAIMS,
                min(plan.rounds, MOST_ROUNDS),
            )


@dataclass
class Place:
    """A database with a trail."""

    data: Path
    rows: int

    @property
    def settings(self) -> Settings:
        return Settings(data=self.data, secret_key=ground.SECRET)

    async def fill(self, url: str) -> float:
        """Rows past the function, which would take a second for ten thousand; then sealed."""
        connection = await asyncpg.connect(url)
        await connection.execute(FILL, self.rows)
        await connection.execute("insert into audit_unsealed select xid, id from audit_logs")
        await connection.execute("analyze")
        await connection.close()
        database = Database(url, self.settings)
        begun = time.perf_counter()
        try:
            while await self._seal(database):
                pass
        finally:
            await database.close()
        return time.perf_counter() - begun

    async def _seal(self, database: Database) -> int:
        async with database.transaction(WORKER) as db:
            sealed = await service.seal(db)
            await service.make_checkpoint(db)
            return sealed

    def verify(self) -> float:
        begun = time.perf_counter()
        command = ["-m", "bursar.cli", "audit", "verify", "--json", "--data", str(self.data)]
        environment = {**clean_environment(), **ground.ENVIRONMENT}
        ended = subprocess.run(
            [sys.executable, *command], capture_output=True, check=False, cwd=ROOT, env=environment
        )
        if ended.returncode:
            raise BenchFailed(ended.stderr[-2000:].decode())
        report = json.loads(ended.stdout)
        if not report["ok"] or report["sealed"] < self.rows:
            raise BenchFailed(f"the trail is not as it was made: {report['findings'][:3]}")
        return time.perf_counter() - begun

    def read(self) -> float:
        with connect_or_start(self.data, lambda _: None) as address:
            return asyncio.run(self._read(address.url()))

    async def _read(self, url: str) -> float:
        connection = await asyncpg.connect(url)
        begun = time.perf_counter()
        async with connection.transaction():
            await connection.execute(walk.SETTINGS)
            statement = await connection.prepare(walk.SEALED)
            for low in range(0, self.rows, walk.PIECE):
                await statement.fetch(low, low + walk.PIECE)
        await connection.close()
        return time.perf_counter() - begun
