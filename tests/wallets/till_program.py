"""Charges under load in processes of their own, for tests/wallets/test_crashes.py to kill.

    python till_program.py

Reads an order per line (JSON) and forks a child for it, so that a start costs no imports; says the
child's pid. The child charges number after number, each with its number as the key, and writes
`number operation replayed` for each answer, until it is killed or told to stop by SIGTERM. A charge
that was not answered is sent again until it is.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import uvloop

from bursar.core.database import Database
from bursar.core.database_errors import DatabaseUnavailable, OutcomeUnknown
from bursar.core.settings import Settings
from bursar.wallets import ledger
from bursar.wallets.ledger import Outcome, Request
from bursar.wallets.till import Till, TillFull

CALLERS = 60


def amount_of(number: int) -> int:
    return 1 + number % 7


def request_of(number: int, order: dict[str, Any]) -> Request:
    users = order["users"]
    wallet = ledger.user(UUID(users[number % len(users)]))
    leg = ledger.transfer(wallet, "revenue", amount_of(number), kind="charge")
    return Request(order["scope"], str(number), (leg,))


async def insist(till: Till, request: Request) -> Outcome:
    while True:
        try:
            return await till.post(request)
        except (DatabaseUnavailable, OutcomeUnknown, TillFull):
            await asyncio.sleep(0.05)


async def charge(till: Till, order: dict[str, Any], numbers: Iterator[int], answers: int) -> None:
    for number in numbers:
        done = await insist(till, request_of(number, order))
        os.write(answers, f"{number} {done.operation_id} {done.replayed:d}\n".encode())


async def work(order: dict[str, Any]) -> None:
    database = Database(order["url"], Settings(secret_key=order["secret"], data=Path("/nowhere")))
    till = Till(database)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    answers = os.open(order["answers"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    numbers = until(stop, order["first"])
    await asyncio.gather(*(charge(till, order, numbers, answers) for _ in range(CALLERS)))
    await till.close()


def until(stop: asyncio.Event, first: int) -> Iterator[int]:
    for number in count(first):
        if stop.is_set():
            return
        yield number


def main() -> None:
    for line in sys.stdin:
        if pid := os.fork():
            sys.stdout.write(f"{pid}\n")
            sys.stdout.flush()
            os.waitpid(pid, 0)
            sys.stdout.write("ended\n")
            sys.stdout.flush()
        else:
            uvloop.run(work(json.loads(line)))
            os._exit(0)


if __name__ == "__main__":
    main()
