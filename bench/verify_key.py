"""keys/verify over HTTP: is this key good, and count the call, beside the usual handler.

Asked of `bursar serve` as it is: one process with API and jobs, every middleware, a service
credential checked, a log line for each request. Each call is counted with its raw event and all
sums, committed before its answer; in the end there are as many events as were answered.

The peer (bench/peers/metered.py) does what such a check usually does: one ORM query for the key
with its owner and one ORM insert of a usage row for each call; no limit, no sum, no quota.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import asyncpg

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.load import Ask, Job, Outcome
from bench.programs import BenchFailed, Program, load
from bursar.core.embedded import Embedded, running
from bursar.keys import secret

TITLE = "keys/verify over HTTP: a key checked, its call counted"
CLIENTS = 64
CUSTOMERS = 1_000
ONE, MANY, PEER = "one customer", "1,000 customers", "usual handler"
P99_MS = 50.0
CLAIMS = (
    Claim(ONE, 3_000, at_least=True),
    Claim(MANY, 3_000, at_least=True),
    Claim(MANY, 10, at_least=True, peer=PEER),
)
WARM_UP_SECONDS = 2.0
LEAST_SECONDS = 2.0

PEOPLE = """
  insert into users (email, name, tier)
  select format('metered-%s@example.com', number), 'Customer', 'enterprise'
  from generate_series(1, $1::integer) as number returning id
"""
KEY = """
  insert into api_keys (user_id, key_hash, start, last_four, scopes)
  values ($1, $2, left($3, 13), right($3, 4), $4)
"""
WITHOUT_END = """
  insert into settings (key, value) select format('%s_enterprise', name), '0'
  from unnest(array['quota', 'rate_per_second', 'rate_per_minute']) as name
"""


@dataclass(frozen=True)
class Keys:
    """What the clients show: a service's credential, and customers' keys."""

    service: str
    customers: list[str]


async def make_keys(url: str, customers: int = CUSTOMERS) -> Keys:
    """As the owner: customers without limits, each with a key, and a service."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            people = [row["id"] for row in await connection.fetch(PEOPLE, customers)]
            await connection.execute(WITHOUT_END)
            keys = [secret.new() for _ in range(customers + 1)]
            scopes: list[list[str]] = [[] for _ in people]
            rows = zip(
                [*people, None], keys, [*scopes, ["keys:verify", "usage:ingest"]], strict=True
            )
            await connection.executemany(
                KEY, [(user, secret.digest(key), key, given) for user, key, given in rows]
            )
        return Keys(keys[-1], keys[:-1])
    finally:
        await connection.close()


def run(plan: Plan) -> Report:
    with office() as (url, contenders):
        for each in contenders:
            each.measure(WARM_UP_SECONDS)
            each.forget()
        before, answered = events(url), sum(each.answered for each in contenders)
        report = harness.run(
            "verify_key",
            TITLE,
            "calls/s",
            [Contender(c.name, c.what, partial(c.measure, plan.seconds)) for c in contenders],
            CLAIMS,
            plan.rounds,
        )
        written = events(url) - before
        answered = sum(each.answered for each in contenders) - answered
        unheard = (len(contenders) - 1) * CLIENTS * plan.rounds
        if not 0 <= written - answered <= unheard:
            raise BenchFailed(f"{answered} calls were answered, {written} are counted")
        return replace(report, notes=tuple(each.note for each in contenders))


def events(url: str) -> int:
    """Counted by Bursar; and every sum must say the same."""
    query = """
      select (select count(*) from usage) as raw,
        (select coalesce(sum(total_requests), 0) from monthly_usage) as months,
        (select coalesce(sum(requests), 0) from usage_hours) as hours
    """

    async def ask() -> asyncpg.Record:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchrow(query)
        finally:
            await connection.close()

    raw, months, hours = asyncio.run(ask())
    if not raw == months == hours:
        raise BenchFailed(f"{raw} events, but sums of {months} and {hours}")
    return int(raw)


@contextmanager
def office() -> Iterator[tuple[str, list["Verifying"]]]:
    with ground.new_folder() as folder, ExitStack() as stack:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as own:
            keys = asyncio.run(make_keys(own.url()))
        server = stack.enter_context(
            Program(ground.serve(data), folder=folder, environment=ground.ENVIRONMENT)
        )
        address = running(data)
        if address is None:
            raise BenchFailed("the database of `bursar serve` does not run")
        url = address.url("postgres")
        peer = stack.enter_context(
            Program(
                ["-m", "bench.peers.metered", "{port}"],
                folder=folder,
                environment={"DATABASE_URL": address.url("postgres")},
            )
        )
        path = "/api/v1/keys/verify"
        yield (
            url,
            [
                Verifying(ONE, server, asks(path, keys, keys.customers[:1])),
                Verifying(MANY, server, asks(path, keys, keys.customers)),
                Verifying(PEER, peer, asks("/verify", keys, keys.customers), counts=False),
            ],
        )


def asks(path: str, keys: Keys, shown: list[str]) -> list[Ask]:
    headers = {"Authorization": f"Bearer {keys.service}"}
    about = {"endpoint": "/v1/things/{id}", "ip_address": "203.0.113.9", "user_agent": "bench"}
    return [
        Ask(path, '"valid":true', headers, "POST", json.dumps({"key": key, **about}))
        for key in shown
    ]


@dataclass
class Verifying:
    """What is asked of one server, and what that has cost so far."""

    name: str
    server: Program
    asks: list[Ask]
    counts: bool = True
    clients: int = CLIENTS
    outcomes: list[Outcome] = field(default_factory=list)
    answered: int = 0

    @property
    def what(self) -> str:
        return f"{self.clients} clients"

    def measure(self, seconds: float) -> float:
        outcome = load(Job(self.server.port, self.asks, self.clients, max(LEAST_SECONDS, seconds)))
        self.outcomes.append(outcome)
        if self.counts:
            self.answered += outcome.requests
        return outcome.per_second

    def forget(self) -> None:
        self.outcomes.clear()

    @property
    def note(self) -> str:
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        return f"{self.name}: p50 {middle:.1f} ms, p99 at most {slowest:.1f} ms (target {P99_MS:g})"
