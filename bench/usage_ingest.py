"""Bulk ingest of usage over HTTP: a thousand events in a request, a tenth of them sent before.

Asked of `bursar serve` as it is. Every event has an id, and one in ten is sent in two requests: in
the end each id is counted once, every sum is what a recount finds, and no event that was answered
is missing. There is no peer: the claim is a rate.
"""

import asyncio
import json
from dataclasses import replace
from functools import partial

import asyncpg

from bench import ground, harness, verify_key
from bench.harness import Claim, Contender, Plan, Report
from bench.load import NEW_KEY, Ask
from bench.programs import BenchFailed, Program
from bench.verify_key import Verifying
from bursar.core.embedded import Embedded, running

TITLE = "Bulk ingest of usage: 1,000 events in a request, a tenth of them sent twice"
EVENTS, TWICE = 1_000, 100
CLIENTS = 4
CUSTOMERS = 50
MANY = "usage/events"
CLAIMS = (Claim(MANY, 30_000, at_least=True),)
PATH = "/api/v1/usage/events"
STATE = """
  select (select count(*) from usage) as raw, (select count(*) from usage_event_ids) as ids,
    (select coalesce(sum(total_requests), 0) from monthly_usage) as months,
    (select coalesce(sum(requests), 0) from usage_hours) as hours,
    (select coalesce(sum(requests), 0) from usage_days) as days
"""


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as own:
            keys = asyncio.run(verify_key.make_keys(own.url(), CUSTOMERS))
            people = asyncio.run(customers(own.url()))
        command = ground.serve(data)
        with Program(command, folder=folder, environment=ground.ENVIRONMENT) as server:
            address = running(data)
            if address is None:
                raise BenchFailed("the database of `bursar serve` does not run")
            asked = Verifying(MANY, server, asks(keys.service, people), clients=CLIENTS)
            asked.measure(verify_key.WARM_UP_SECONDS)
            asked.outcomes.clear()
            contender = Contender(MANY, f"{CLIENTS} clients", partial(measure, asked, plan.seconds))
            report = harness.run(
                "usage_ingest", TITLE, "events/s", [contender], CLAIMS, plan.rounds
            )
            compare(asyncio.run(state(address.url("postgres"))), asked)
            return replace(report, notes=(asked.note,))


def measure(asked: Verifying, seconds: float) -> float:
    return asked.measure(seconds) * EVENTS


def compare(found: asyncpg.Record, asked: Verifying) -> None:
    """Of each request 900 ids are new, and 100 are those that every request has."""
    raw, *sums = found
    least = asked.answered * (EVENTS - TWICE)
    most = (asked.answered + CLIENTS * (len(asked.outcomes) + 1)) * (EVENTS - TWICE)
    if set(sums) != {raw} or not least < raw <= most + TWICE * CUSTOMERS:
        raise BenchFailed(f"{raw} events and sums of {sums}; at least {least} were answered")


async def customers(url: str) -> list[str]:
    connection = await asyncpg.connect(url)
    try:
        return [row["id"] for row in await connection.fetch("select id::text from users")]
    finally:
        await connection.close()


async def state(url: str) -> asyncpg.Record:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchrow(STATE)
    finally:
        await connection.close()


def asks(service: str, people: list[str]) -> list[Ask]:
    """One request for each customer, of ten endpoints; a hundred ids are the same each time."""
    headers = {"Authorization": f"Bearer {service}"}
    return [
        Ask(PATH, '"refused":0', headers, "POST", json.dumps({"events": batch(user)}))
        for user in people
    ]


def batch(user: str) -> list[dict[str, object]]:
    return [
        {
            "event_id": f"again-{number}" if number < TWICE else NEW_KEY,
            "user_id": user,
            "endpoint": f"/v1/things/{number % 10}",
            "status_code": 404 if number % 20 == 0 else 200,
            "response_time_ms": number * 37 % 900,
        }
        for number in range(EVENTS)
    ]
