"""What this ledger cannot be faster than: its rows, written by PostgreSQL itself.

The same rows for each charge in the same tables, with all that watches these: indexes, constraints,
foreign keys and safety triggers, in transactions as large as a batch of the till. But no program
sends them, and nothing is read, looked up or decided (bench/peers/floor.sql). With one wallet one
connection writes, as only one can; otherwise several.

Behind a till the same rows are written for those who call it: what its callers, their requests and
their answers cost is in the figure, what a ledger does for them is not.
"""

import asyncio
from pathlib import Path

import asyncpg

from bench import procedure
from bench.programs import BenchFailed
from bursar.core.database import Role
from bursar.core.embedded import Address
from bursar.wallets.till import MOST_IN_BATCH, usual_lanes

LANES = max(4, usual_lanes())
PATH = "&search_path=floor,public"
IS_FLOOR = "select to_regprocedure('post(jsonb)') = 'floor.post(jsonb)'::regprocedure"
SCHEMA = Path(__file__).parent / "peers" / "floor.sql"
ONE = f"select floor.write(-1, 1, 0, {MOST_IN_BATCH});"
MANY = f"""
\\set first random(0, {10_000 // LANES // MOST_IN_BATCH - 1}) * {MOST_IN_BATCH}
select floor.write(:first + :client_id * {10_000 // LANES}, {MOST_IN_BATCH},
  :client_id, {MOST_IN_BATCH});
"""


async def install(url: str) -> None:
    """As the owner."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA.read_text())
    finally:
        await connection.close()


def charge(address: Address, seconds: float, *, one_wallet: bool) -> float:
    """Charges per second that nobody has asked for."""
    script, lanes = (ONE, 1) if one_wallet else (MANY, LANES)
    return procedure.pgbench(address, script, lanes, seconds) * MOST_IN_BATCH


def under_a_till(address: Address) -> str:
    """The superuser's address, at which post() writes rows for each request, whatever it says."""
    asyncio.run(demand_the_floor(address.url(Role.WORKER) + PATH))
    return address.url("postgres") + PATH


async def demand_the_floor(url: str) -> None:
    """A schema that may not be used is left out of a search path without a word."""
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetchval(IS_FLOOR):
            raise BenchFailed("the till would not stand on the floor")
    finally:
        await connection.close()
