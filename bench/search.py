"""Staff look for customers among a million: searches and pages of the list, over HTTP.

Each search is asked of one `bursar serve` by one client, one after the other, as somebody types
them. A figure is the median of a round, and the notes name the slowest single answer to each. There
is no peer: the claim is a time.
"""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from urllib.parse import quote_plus

from bench import crowded, ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import Program
from bursar.core.embedded import Embedded

PEOPLE, QUICK_PEOPLE = 1_000_000, 10_000
MOST_MS = 50
USERS = "/api/v1/admin/users"
FEWEST = 8  # asks of each kind in a round: past the fifth PostgreSQL may choose a generic plan
MOST_ROUNDS = 5

SEARCHES = {
    "full name": "Emine Karaoğlu",
    "first name, common": "anna",
    "last name, common": "smith",
    "common names together": "anna smith",
    "part of a name": "kara",
    "name and domain": "jürgen fastmail",
    "whole e-mail": "{email}",
    "piece of an e-mail": "{piece}",
    "username": "{username}",
    "domain of a quarter": "gmail.com",
    "in every row": "com",
    "three letters": "ann",
    "two letters": "li",
    "one letter": "a",
    "two short words": "li an",
    "short and common": "li gmail.com",
    "number": "4711",
    "no match": "xylophonist",
    "common words, no match": "anna gmail.com xylophonist",
    "trigrams of all, no match": "mocliamg",
    "wildcards": "100%_real",
    "long": "anna smith gmail com anna smith gmail com anna smith gmail com",
}
PAGES = {
    "search, suspended": "search=anna&status=suspended",
    "search, deleted": "search=gmail.com&status=deleted",
    "search, sort by e-mail": "search=smith&sort=email",
    "search, enterprise": "search=gmail.com&tier=enterprise",
    "search, few fit": "search=com&status=suspended&tier=enterprise",
    "one letter, deleted": "search=a&status=deleted",
    "search, page 10": "search=gmail.com&page=10",
    "list, page 1": "page=1",
    "list, page 500": "page=500",
    "list, by e-mail": "sort=email",
    "list, suspended": "status=suspended",
    "list, pro, page 500": "tier=pro&page=500",
}
CURSORS = {"list, by cursor": "", "list by name, by cursor": "sort=name"}


def run(plan: Plan) -> Report:
    people = QUICK_PEOPLE if plan.quick else PEOPLE
    with desk(people) as asking:
        kinds = [*asking.queries]
        seconds = plan.seconds / len(kinds)
        for kind in kinds:
            asking.measure(kind, seconds)
        asking.slowest.clear()
        report = harness.run(
            "search",
            f"Finding customers among {people:,}, milliseconds",
            "ms, median of a round, one client",
            [Contender(k, asking.what(k), partial(asking.measure, k, seconds)) for k in kinds],
            [Claim(kind, MOST_MS, at_least=False) for kind in kinds],
            min(plan.rounds, MOST_ROUNDS),
        )
        return replace(report, notes=tuple(asking.notes()))


@contextmanager
def desk(people: int) -> Iterator["Asking"]:
    with ground.new_folder() as folder:
        data = folder / "data"
        ground.prepare(data)
        began = time.perf_counter()
        with Embedded(data, say=lambda _: None) as server:
            known = asyncio.run(crowded.fill(server.url("postgres"), people))
        harness.say(f"  {people:,} customers made in {time.perf_counter() - began:.0f} s")
        command = ground.serve(data)
        with Program(command, folder=folder, environment=ground.ENVIRONMENT) as server:
            yield Asking(server, queries(known))


def queries(known: crowded.Person) -> dict[str, str]:
    """The query of each kind, with somebody who is there where it looks for one person."""
    local = known.email.partition("@")[0]
    facts = {"email": known.email, "piece": local[2:-1], "username": known.username}
    found = {kind: f"search={quote_plus(text.format(**facts))}" for kind, text in SEARCHES.items()}
    return found | PAGES | CURSORS


@dataclass
class Asking:
    """One member of staff at the server, and the slowest answers they got."""

    server: Program
    queries: dict[str, str]
    token: dict[str, str] = field(default_factory=ground.sign_in)
    slowest: dict[str, float] = field(default_factory=dict)
    cursors: dict[str, str | None] = field(default_factory=dict)
    totals: dict[str, str] = field(default_factory=dict)

    def what(self, kind: str) -> str:
        return f"{self.queries[kind]}  {self.totals.get(kind, '')}".strip()

    def measure(self, kind: str, seconds: float) -> float:
        times: list[float] = []
        ends = time.perf_counter() + seconds
        while len(times) < FEWEST or time.perf_counter() < ends:
            times.append(self._ask(kind))
        self.slowest[kind] = max(*times, self.slowest.get(kind, 0.0))
        return median(times)

    def _ask(self, kind: str) -> float:
        path = f"{USERS}?{self.queries[kind]}"
        if kind in CURSORS and self.cursors.get(kind):
            path += f"&cursor={self.cursors[kind]}"
        began = time.perf_counter()
        answer = self.server.get(path, self.token)
        took = time.perf_counter() - began
        body = json.loads(answer)
        self.cursors[kind] = body["nextCursor"]
        self.totals[kind] = f"({'' if body['totalExact'] else 'over '}{body['total']:,} found)"
        return took * 1000

    def notes(self) -> list[str]:
        ranked = sorted(self.slowest.items(), key=lambda pair: -pair[1])
        return ["slowest single answers, ms:", *(f"  {took:7.1f}  {kind}" for kind, took in ranked)]
