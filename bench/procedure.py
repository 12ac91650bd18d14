"""PostgreSQL's own pgbench: prepared, over the socket, one procedure call for each charge."""

import re
import subprocess
from pathlib import Path

import asyncpg

from bench.programs import BenchFailed, clean_environment
from bursar.core.embedded import OWNER, Address, program

CLIENTS, THREADS = 64, 2
SCHEMA = Path(__file__).parent / "peers" / "procedure.sql"
SCRIPT = """
\\set wallet random(1, :wallets)
select direct.deduct_user_balance(direct.nth_user(:wallet), 0.001, 'gpt-4', 120);
"""
CHARGES_PER_SECOND = re.compile(r"^tps = ([0-9.]+) ", re.MULTILINE)
FAILED = re.compile(r"^number of failed transactions: (\d+) ", re.MULTILINE)


async def install(url: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SCHEMA.read_text())
    finally:
        await connection.close()


def charge(address: Address, wallets: int, seconds: float) -> float:
    """Charges per second, by so many clients at so many wallets; connecting is not counted."""
    return pgbench(address, SCRIPT, CLIENTS, seconds, wallets=wallets)


def pgbench(address: Address, script: str, clients: int, seconds: float, **variables: int) -> float:
    """How often a second the script ran, prepared, over the socket."""
    command = [program("pgbench"), "--no-vacuum", "--protocol=prepared", "--file=-"]
    command += [f"--client={clients}", f"--jobs={min(clients, THREADS)}"]
    command += [f"--define={name}={value}" for name, value in variables.items()]
    command += [f"--time={max(1, round(seconds))}", f"--host={address.socket_folder}"]
    done = subprocess.run(
        [*command, f"--username={OWNER}", "bursar"],
        input=script,
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    if done.returncode:
        raise BenchFailed(f"pgbench: {done.stderr[-2000:]}")
    return charges_per_second(done.stdout)


def charges_per_second(said: str) -> float:
    found, failed = CHARGES_PER_SECOND.search(said), FAILED.search(said)
    if not found or not failed or int(failed[1]):
        raise BenchFailed(f"pgbench: {said[-2000:]}")
    return float(found[1])
