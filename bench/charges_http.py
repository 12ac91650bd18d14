"""Charges over HTTP with sign-in: one by one, and five hundred in a request.

Asked of `bursar serve` as it is: one process with API and jobs, every middleware, the token and the
permission checked, a log line for each request. Each charge has a new key, and in the end the
wallets must have moved as often as was answered. There is no peer: the claims are rates.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import asyncpg

from bench import books, ground, harness
from bench.books import CROWD, HOT, Charges
from bench.harness import Claim, Contender, Plan, Report
from bench.load import NEW_KEY, Ask, Job, Outcome
from bench.programs import BenchFailed, Program, load
from bursar.core.embedded import Embedded, running

TITLE = "Charges over HTTP with sign-in"
CHARGES = "/api/v1/admin/wallets/charges"
CLIENTS, BULK_CLIENTS = 64, 4
BULK = 500
BULKS = 20  # different requests, each of which names other wallets
WARM_UP_SECONDS = 2.0
LEAST_SECONDS = 2.0  # of a round: a bulk request takes a part of one
ONE, MANY, TOGETHER = "one wallet", "10,000 wallets", "500 in a request"
CLAIMS = (
    Claim(ONE, 2_500, at_least=True),
    Claim(MANY, 2_500, at_least=True),
    Claim(TOGETHER, 8_000, at_least=True),
)
PEOPLE = "select id::text from users where email like $1 || '-%' order by email"
ENTRIES = "select sum(seq)::bigint from accounts where purpose = 'wallet'"


def run(plan: Plan) -> Report:
    with shop() as (url, contenders):
        before = entries(url)
        for each in contenders:
            each.measure(WARM_UP_SECONDS)
            each.forget()
        report = harness.run(
            "charges_http",
            TITLE,
            "charges/s",
            [Contender(c.name, c.what, partial(c.measure, plan.seconds)) for c in contenders],
            CLAIMS,
            plan.rounds,
        )
        compare(entries(url) - before, contenders)
        return replace(report, notes=tuple(each.note for each in contenders))


@contextmanager
def shop() -> Iterator[tuple[str, list["Charging"]]]:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        with Embedded(data, say=lambda _: None) as own:
            asyncio.run(books.make(own.url("postgres"), Charges()))
        command = ground.serve(data)
        with Program(command, folder=folder, environment=ground.ENVIRONMENT) as server:
            address = running(data)
            if address is None:
                raise BenchFailed("the database of `bursar serve` does not run")
            url = address.url("postgres")
            hot, crowd = ([r["id"] for r in read(url, PEOPLE, group)] for group in (HOT, CROWD))
            yield (
                url,
                [
                    Charging(ONE, server, single(hot), CLIENTS),
                    Charging(MANY, server, single(crowd), CLIENTS),
                    Charging(TOGETHER, server, bulk(crowd), BULK_CLIENTS, BULK),
                ],
            )


def read(url: str, statement: str, *arguments: str) -> list[asyncpg.Record]:
    async def ask() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(statement, *arguments))
        finally:
            await connection.close()

    return asyncio.run(ask())


def entries(url: str) -> int:
    return int(read(url, ENTRIES)[0]["sum"])


def compare(written: int, contenders: list["Charging"]) -> None:
    answered = sum(each.answered for each in contenders)
    if not 0 <= written - answered <= sum(each.unheard for each in contenders):
        raise BenchFailed(f"{answered} charges were answered, {written} are in the ledger")


def single(people: list[str]) -> list[Ask]:
    headers = {**ground.sign_in(), "Idempotency-Key": NEW_KEY}
    return [
        Ask(CHARGES, f'"userId":"{user}"', headers, "POST", json.dumps(charge(user)))
        for user in people
    ]


def bulk(people: list[str]) -> list[Ask]:
    """Spread, so that the wallets of one request are not neighbours."""
    path, headers = f"{CHARGES}/bulk", ground.sign_in()
    asks = []
    for number in range(BULKS):
        named = people[number::BULKS][:BULK]
        body = json.dumps({"charges": [{"key": NEW_KEY, **charge(user)} for user in named]})
        asks.append(Ask(path, f'"userId":"{named[-1]}"', headers, "POST", body))
    return asks


def charge(user: str) -> dict[str, object]:
    return {"userId": user, "amount": books.AMOUNT / 10**6, "category": "models"}


@dataclass
class Charging:
    """What is asked of the server by so many clients, and what that has cost so far."""

    name: str
    server: Program
    asks: list[Ask]
    clients: int
    size: int = 1
    outcomes: list[Outcome] = field(default_factory=list)
    cpu_seconds: float = 0.0
    answered: int = 0  # charges, also while warming up
    unheard: int = 0  # at most so many more were under way when a round ended

    @property
    def what(self) -> str:
        return f"{self.clients} clients, {self.size} in each request"

    def measure(self, seconds: float) -> float:
        used = self.server.cpu_seconds()
        outcome = load(Job(self.server.port, self.asks, self.clients, max(LEAST_SECONDS, seconds)))
        self.cpu_seconds += self.server.cpu_seconds() - used
        self.outcomes.append(outcome)
        self.answered += outcome.requests * self.size
        self.unheard += self.clients * self.size
        return outcome.per_second * self.size

    def forget(self) -> None:
        self.outcomes.clear()
        self.cpu_seconds = 0.0

    @property
    def note(self) -> str:
        charges = sum(outcome.requests for outcome in self.outcomes) * self.size
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        return (
            f"{self.name}: {self.cpu_seconds / charges * 1e6:.0f} µs of a core in the server's "
            f"process for each charge; requests p50 {middle:.1f} ms, p99 at most {slowest:.1f} ms"
        )
