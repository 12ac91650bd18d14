"""What no ledger here can be faster than: its rows, inserted by PostgreSQL itself, and no more.

The same two rows for each charge, with their indexes, constraints and foreign keys, in transactions
as large as a batch of the till; but no program sends them, and nothing is looked up or compared
(bench/peers/floor.sql). With one wallet one connection writes, as only one can; otherwise four.
"""

from pathlib import Path

import asyncpg

from bench import procedure
from bursar.core.embedded import Address
from bursar.wallets.till import MOST_IN_BATCH

LANES = 4
SCHEMA = Path(__file__).parent / "peers" / "floor.sql"
ONE = f"select floor.write(0, 1, -1, {MOST_IN_BATCH});"
MANY = f"""
\\set first random(0, {10_000 // LANES // MOST_IN_BATCH - 1}) * {MOST_IN_BATCH}
select floor.write(:first + :client_id * {10_000 // LANES}, {MOST_IN_BATCH},
  -1 - :client_id, {MOST_IN_BATCH});
"""


async def install(url: str) -> None:
    """As the owner."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA.read_text())
    finally:
        await connection.close()


def charge(address: Address, seconds: float, *, one_wallet: bool) -> float:
    """Charges per second that are there afterwards, and nobody has asked for."""
    script, lanes = (ONE, 1) if one_wallet else (MANY, LANES)
    return procedure.pgbench(address, script, lanes, seconds) * MOST_IN_BATCH
