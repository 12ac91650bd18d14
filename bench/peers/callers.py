"""Callers at the till of one process: each charges a wallet as soon as its last charge is answered.

    python -m bench.peers.callers < job.json   # {"group": …, "callers": …, "seconds": …}

DATABASE_URL names the database, as its superuser. It prints how many were answered in the time and
how long they took. In the end the ledger must have exactly those that were answered.
"""

import asyncio
import json
import os
import random
import sys
import time
from dataclasses import asdict

import asyncpg
import uvloop

from bench import load
from bench.books import AMOUNT
from bursar.auth.actor import Origin, operator
from bursar.auth.permissions import StaffRole
from bursar.core import settings
from bursar.core.database import Database
from bursar.wallets import ledger
from bursar.wallets.till import Till

WARM_UP_SECONDS = 0.5
ORIGIN = Origin(operator(StaffRole.OWNER), "127.0.0.1")
PEOPLE = "select id::text from users where email like $1 || '-%' order by email"
ENTRIES = "select sum(seq)::bigint from accounts where purpose = 'wallet'"


class LedgerDisagrees(Exception):
    """What was answered is not what is written."""


async def work(group: str, callers: int, seconds: float) -> dict[str, float]:
    url = os.environ["DATABASE_URL"]
    people = [each["id"] for each in await read(url, PEOPLE, group)]
    before = (await read(url, ENTRIES))[0]["sum"]
    database = Database(url, settings.load())
    queue = Queue(Till(database), people)
    try:
        outcome, used = await queue.press(callers, seconds)
    finally:
        await queue.till.close()
        await database.close()
    written = (await read(url, ENTRIES))[0]["sum"] - before
    if written != queue.answered:
        raise LedgerDisagrees(f"{queue.answered} were answered, {written} are in the ledger")
    return {**asdict(outcome), "cpu_seconds": used}


async def read(url: str, statement: str, *arguments: str) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(url)
    try:
        return list(await connection.fetch(statement, *arguments))
    finally:
        await connection.close()


class Queue:
    """Those who wait at the till, and how long each of them did."""

    def __init__(self, till: Till, people: list[str]) -> None:
        self.till = till
        self.people = people
        self.answered = 0
        self.times: list[float] = []

    async def press(self, callers: int, seconds: float) -> tuple[load.Outcome, float]:
        """What was answered in the time, and what this process used for it."""
        begins = time.perf_counter() + WARM_UP_SECONDS
        ends = begins + seconds
        waiting = [asyncio.create_task(self._charge(ends)) for _ in range(callers)]
        await asyncio.sleep(WARM_UP_SECONDS)
        self.times.clear()
        began, used = time.perf_counter(), time.process_time()
        await asyncio.sleep(ends - time.perf_counter())
        times, took = self.times.copy(), time.perf_counter() - began
        used = time.process_time() - used
        await asyncio.gather(*waiting)
        return load.outcome(times, took), used

    async def _charge(self, ends: float) -> None:
        while (asked_at := time.perf_counter()) < ends:
            await self.till.post(self._request())
            self.answered += 1
            self.times.append(time.perf_counter() - asked_at)

    def _request(self) -> ledger.Request:
        """Under a key as clients send them, which follows no order."""
        payer = ledger.user(random.choice(self.people))
        leg = ledger.transfer(payer, "revenue", AMOUNT, kind="charge", category="models")
        key = f"{random.getrandbits(128):032x}"
        return ledger.Request(ORIGIN.actor.name, key, (leg,), ORIGIN, "wallets.charged")


def main() -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(work(**json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
