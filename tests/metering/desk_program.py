"""A process that verifies keys under load, for tests/metering/test_crashes.py to start and to kill.

    python desk_program.py < order.json

Its clients ask with one event id after the other, from `first` in steps of `step`, and write
`number code replayed` for each answer, until `calls` are answered or somebody kills it.
"""

import asyncio
import json
import os
import sys
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any

import uvloop

from bursar.core.database import Database
from bursar.core.errors import BursarError
from bursar.core.settings import Settings
from bursar.keys import secret
from bursar.metering.desk import Desk, Question


async def work(order: dict[str, Any]) -> None:
    settings = Settings(secret_key=order["secret"], data=Path("/nowhere"))
    database = Database(order["url"], settings)
    desk = Desk(database)
    numbers = islice(count(order["first"], order["step"]), order["calls"])
    answers = os.open(order["answers"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    clients = (ask(desk, order, numbers, answers) for _ in range(order["clients"]))
    await asyncio.gather(*clients)
    await desk.close()
    await database.close()


async def ask(desk: Desk, order: dict[str, Any], numbers: Iterator[int], answers: int) -> None:
    for number in numbers:
        verdict = await insist(desk, question(order, number))
        line = f"{number} {verdict['code']} {verdict['replayed']:d}\n"
        os.write(answers, line.encode())


async def insist(desk: Desk, asked: Question) -> dict[str, Any]:
    while True:
        try:
            return await desk.ask(asked)
        except BursarError as error:
            if error.status not in (409, 429, 503):  # nothing was counted
                raise
            await asyncio.sleep(0.05)


def question(order: dict[str, Any], number: int) -> Question:
    keys = order["keys"]
    facts = {
        "endpoint": f"/v1/{number % 3}",
        "response_time_ms": number % 700,
        "status_code": 200 if number % 9 else 503,
        "units": 1,
    }
    digest = secret.digest(keys[number % len(keys)])
    return Question(digest, facts, event_id=str(number))


if __name__ == "__main__":
    uvloop.run(work(json.loads(sys.stdin.read())))
