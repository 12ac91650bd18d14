"""Right across processes, and whatever is killed: not one call too many, none lost, none twice."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import asyncpg

from tests.accounts.people import rows
from tests.conftest import Live
from tests.databases import SECRET, new_folder, raw
from tests.keys.keyholders import assert_sums_hold, key_of, set_terms
from tests.programs import until
from tests.wallets.purses import move_in
from tests.world import CARL, DORA

PROGRAM = Path(__file__).with_name("desk_program.py")
ROOT = Path(__file__).parents[2]
PROCESSES, CLIENTS, CALLS, QUOTA = 4, 16, 5_000, 1_000
KILLS = 12


class Crowd:
    """Several processes, and what all of them were answered."""

    def __init__(self, url: str, keys: list[str]) -> None:
        self.url, self.keys = url, keys
        self.file = new_folder() / "answers"
        self.file.touch()

    def start(self, first: int, step: int, calls: int) -> "subprocess.Popen[bytes]":
        order = {
            "url": self.url,
            "secret": SECRET,
            "keys": self.keys,
            "answers": str(self.file),
            "first": first,
            "step": step,
            "calls": calls,
            "clients": CLIENTS,
        }
        process = subprocess.Popen(
            [sys.executable, str(PROGRAM)],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        assert process.stdin
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        return process

    @property
    def answers(self) -> list[tuple[int, str, bool]]:
        lines = self.file.read_text().splitlines(keepends=True)
        words = [line.split() for line in lines if line.endswith("\n")]
        return [(int(number), code, replayed == "1") for number, code, replayed in words]

    def wait_for_more(self) -> None:
        enough = self.file.stat().st_size + random.randint(500, 4_000)
        until(lambda: self.file.stat().st_size > enough, "answers")


async def test_four_processes_let_a_thousand_through_and_not_one_more(live_db: Live) -> None:
    await move_in(live_db)
    await set_terms(live_db, quota_free=QUOTA, rate_per_second_free=0, rate_per_minute_free=0)
    keys = [(await key_of(live_db)).key for _ in range(3)]
    crowd = Crowd(live_db.url, keys)
    share = CALLS // PROCESSES
    running = [crowd.start(first, PROCESSES, share) for first in range(PROCESSES)]
    assert [await asyncio.to_thread(each.wait, 120) for each in running] == [0] * PROCESSES
    codes = Counter(code for _, code, _ in crowd.answers)
    assert codes == {"VALID": QUOTA, "QUOTA_EXCEEDED": CALLS - QUOTA}
    [row] = await rows(live_db, "select units, total_requests from monthly_usage")
    assert tuple(row.values()) == (QUOTA, QUOTA)
    await assert_sums_hold(live_db)


async def test_four_processes_keep_to_one_rate(live_db: Live) -> None:
    """A limit of 600 in a minute: those at once, and one more every tenth of a second."""
    await move_in(live_db)
    await set_terms(live_db, quota_free=0, rate_per_second_free=0, rate_per_minute_free=600)
    keys = [(await key_of(live_db)).key for _ in range(2)]
    crowd = Crowd(live_db.url, keys)
    started = time.monotonic()
    running = [crowd.start(first, PROCESSES, 400) for first in range(PROCESSES)]
    assert [await asyncio.to_thread(each.wait, 120) for each in running] == [0] * PROCESSES
    took = time.monotonic() - started
    codes = Counter(code for _, code, _ in crowd.answers)
    assert set(codes) == {"VALID", "RATE_LIMITED"}
    assert 600 <= codes["VALID"] <= 600 + took * 10 + 1
    await assert_sums_hold(live_db)


async def test_processes_and_backends_are_killed_again_and_again(live_db: Live) -> None:
    """Each process that follows asks a part of it once more."""
    await move_in(live_db)
    await set_terms(live_db, quota_free=0, rate_per_second_free=0, rate_per_minute_free=0)
    keys = [(await key_of(live_db, who)).key for who in (CARL, DORA)]
    crowd = Crowd(live_db.url, keys)
    process = crowd.start(0, 1, 10**6)
    for kill in range(KILLS):
        await asyncio.to_thread(crowd.wait_for_more)
        if kill % 3:
            await end_backends(live_db.url)
            continue
        process.kill()
        await asyncio.to_thread(process.wait)
        highest = max(number for number, *_ in crowd.answers)
        process = crowd.start(max(0, highest - 50), 1, 10**6)
    await asyncio.to_thread(crowd.wait_for_more)
    process.send_signal(signal.SIGKILL)
    await asyncio.to_thread(process.wait)
    await quiet(live_db.url)
    answers = crowd.answers
    assert {code for _, code, _ in answers} == {"VALID"}
    assert any(replayed for *_, replayed in answers)
    counted = Counter(int(row[0]) for row in await rows(live_db, "select event_id from usage"))
    assert set(counted.values()) == {1}, "an event was counted twice"
    assert {number for number, *_ in answers} <= set(counted), "an answered event is missing"
    await assert_sums_hold(live_db)


ENDED = """
  select pg_terminate_backend(pid) from pg_stat_activity
  where usename = 'worker_user' and datname = current_database()
"""
LEFT = """
  select count(*) from pg_stat_activity
  where usename = 'worker_user' and datname = current_database()
"""


async def as_superuser(url: str, sql: str) -> list[Any]:
    admin = raw(url, "postgres") if "host=" in url else os.environ["BURSAR_TEST_DATABASE_URL"]
    connection = await asyncpg.connect(admin, database=url.rsplit("/", 1)[1].partition("?")[0])
    try:
        return list(await connection.fetch(sql))
    finally:
        await connection.close()


async def end_backends(url: str) -> None:
    await as_superuser(url, ENDED)


async def quiet(url: str) -> None:
    """What the killed process had sent may still be at work for a moment."""
    async with asyncio.timeout(30):
        while (await as_superuser(url, LEFT))[0][0]:
            await asyncio.sleep(0.05)
