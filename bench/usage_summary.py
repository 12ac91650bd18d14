"""usage/summary of a customer with 10,000,000 calls, beside one with 10,000.

Asked of `bursar serve` as it is, by one client over one connection. The events are written as the
ingest would have written them, by sets of rows. There is no peer: the claim is a time, and that it
does not depend on how much lies behind it.
"""

import asyncio
from functools import partial

import asyncpg

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.load import Ask, Job
from bench.programs import BenchFailed, Program, load
from bursar.auth.actor import Actor, Kind
from bursar.auth.tokens import Tokens
from bursar.core.embedded import Embedded, running

TITLE = "usage/summary: the sums of a customer's months"
MANY, FEW = "10,000,000 calls", "10,000 calls"
CALLS = {MANY: 10_000_000, FEW: 10_000}
QUICK = {MANY: 200_000, FEW: 10_000}
AT_ONCE = 500_000
MONTHS = 12
DAYS = MONTHS * 30
CLAIMS = (
    Claim(MANY, 10, at_least=False),
    Claim(MANY, 1.25, at_least=False, peer=FEW),
)
PERSON = "insert into users (email, name) values ($1, 'Customer') returning id"
PARTITIONS = """
  select make_usage_partition(month_of(date_trunc('month', now()) - n * interval '1 month'))
  from generate_series(0, $1::integer) as n
"""
WRITE = """
  insert into usage (user_id, endpoint, status_code, response_time_ms, timestamp)
  select $1, '/v1/things/' || n % 10, case when n % 20 = 0 then 500 else 200 end, n * 37 % 900,
    now() - n / $3::double precision * $5::integer * interval '1 day'
  from generate_series($2::bigint, $2::bigint + $4::bigint - 1) as n
"""


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as own:
            people = asyncio.run(fill(own.url("postgres"), QUICK if plan.quick else CALLS))
        command = ground.serve(data)
        with Program(command, folder=folder, environment=ground.ENVIRONMENT) as server:
            if running(data) is None:
                raise BenchFailed("the database of `bursar serve` does not run")
            contenders = [
                Contender(name, "one client", partial(milliseconds, server, user, plan.seconds))
                for name, user in people.items()
            ]
            for each in contenders:
                each.measure()
            return harness.run("usage_summary", TITLE, "ms", contenders, CLAIMS, plan.rounds)


def milliseconds(server: Program, user: Actor, seconds: float) -> float:
    """The median of one round."""
    token = Tokens([ground.SECRET]).sign(user, lifetime_seconds=12 * 3600)
    ask = Ask("/api/v1/usage/summary", '"month":', {"Authorization": f"Bearer {token}"})
    return load(Job(server.port, [ask], 1, seconds)).p50_ms


async def fill(url: str, calls: dict[str, int]) -> dict[str, Actor]:
    """As the superuser: every sum is written by the trigger that always writes it."""
    connection = await asyncpg.connect(url)
    people: dict[str, Actor] = {}
    try:
        await connection.execute(PARTITIONS, MONTHS)
        for name, number in calls.items():
            user = await connection.fetchval(PERSON, f"{number}@example.com")
            people[name] = Actor(Kind.CUSTOMER, user)
            for first in range(0, number, AT_ONCE):
                size = min(AT_ONCE, number - first)
                await connection.execute(WRITE, user, first, float(number), size, DAYS)
                harness.say(f"  {name}: {first + size:,} written")
        await connection.execute("vacuum (analyze) monthly_usage")
    finally:
        await connection.close()
    return people
