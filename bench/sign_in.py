"""Sign-ins per second over HTTP, beside the Argon2id hash that each of them has to verify.

Bursar is `bursar serve` as it is: a sign-in is a POST whose answer is checked, with the limits
counted, the account locked, a session, an audit row and a commit that waits for the disk. The peer
(`bench/peers/argon2.py`) verifies the same hash in as many threads and does nothing else, so on a
machine without a spare core everything else that a sign-in takes comes off the ratio: that of the
event loop, of PostgreSQL and of the generator. The notes say how much each of them took.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

from bench import door, ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.knock import PASSWORD, Knocks, knock
from bench.load import Outcome
from bench.programs import ROOT, BenchFailed, Program
from bursar.auth import hashes, passwords

TITLE = "Sign-ins with a password, per second"
CLIENTS = 16
WARM_UP_SECONDS = 2.0
THREADS = min(passwords.processors(), passwords.MOST_AT_ONCE)
BURSAR, ARGON2 = "bursar", "argon2 alone"
CLAIMS = (Claim(BURSAR, 0.8, at_least=True, peer=ARGON2),)


def run(plan: Plan) -> Report:
    with people() as knocking:
        knocking.measure(0.3 if plan.quick else WARM_UP_SECONDS)
        knocking.forget()
        raw = Raw(hashes.new(PASSWORD.encode()))
        own, peer = (partial(each.measure, plan.seconds) for each in (knocking, raw))
        report = harness.run(
            "sign_in",
            TITLE,
            f"sign-ins/s, {CLIENTS} clients, hashing in {THREADS} threads",
            [
                Contender(BURSAR, "`bursar serve`, as it is", own),
                Contender(ARGON2, "the same hash, nothing else", peer),
            ],
            CLAIMS,
            plan.rounds,
        )
        return replace(report, notes=(*knocking.notes(raw.milliseconds), raw.note))


@contextmanager
def people() -> Iterator["Knocking"]:
    with ground.new_folder() as folder:
        data = folder / "data"
        door.prepare(data)
        with door.serving(folder, data) as server:
            yield Knocking(server)


@dataclass
class Cost:
    """Seconds of a core, by who used them."""

    server: float = 0.0
    database: float = 0.0
    generator: float = 0.0

    def less(self, before: "Cost") -> "Cost":
        return Cost(
            self.server - before.server,
            self.database - before.database,
            self.generator - before.generator,
        )


@dataclass
class Knocking:
    """A running server, the people at its door, and what they have cost so far."""

    server: Program
    outcomes: list[Outcome] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)
    first: int = 0

    def measure(self, seconds: float) -> float:
        before = self._cost()
        outcome = knock(Knocks(self.server.port, door.PEOPLE, CLIENTS, seconds, self.first))
        door.settle(self.server)
        self.first += outcome.requests + CLIENTS
        self.outcomes.append(outcome)
        self.costs.append(self._cost().less(before))
        return outcome.per_second

    def forget(self) -> None:
        self.outcomes.clear()
        self.costs.clear()

    def _cost(self) -> Cost:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        pid = self.server.process.pid
        return Cost(
            self.server.cpu_seconds(),
            door.database_cpu_seconds(pid),
            children.ru_utime + children.ru_stime,
        )

    def notes(self, hash_milliseconds: float) -> Iterator[str]:
        """The generator's clients leave one request each unanswered, which the server still did."""
        done = sum(outcome.requests + CLIENTS for outcome in self.outcomes)
        server, database, generator = (
            sum(getattr(cost, name) for cost in self.costs) / done * 1000
            for name in ("server", "database", "generator")
        )
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        yield (
            f"{BURSAR}: {server:.1f} ms of a core in its own process for each sign-in, "
            f"{database:.1f} in PostgreSQL, {generator:.1f} in the generator with its start; "
            f"p50 {middle:.0f} ms"
        )
        share = hash_milliseconds / (server + database + generator)
        yield f"the hash is {share:.2f} of that: the ratio where all cores are busy with sign-ins"


@dataclass
class Raw:
    """The hash alone, in a program of its own."""

    hash: str
    cpu_seconds: float = 0.0
    done: int = 0

    def measure(self, seconds: float) -> float:
        command = [sys.executable, "-m", "bench.peers.argon2", str(THREADS), str(seconds)]
        ended = subprocess.run(
            [*command, self.hash, PASSWORD], capture_output=True, text=True, cwd=ROOT, check=False
        )
        if ended.returncode:
            raise BenchFailed(ended.stderr.strip())
        answer = json.loads(ended.stdout)
        self.cpu_seconds += answer["cpu_seconds"]
        self.done += answer["done"]
        return float(answer["per_second"])

    @property
    def milliseconds(self) -> float:
        return self.cpu_seconds / self.done * 1000

    @property
    def note(self) -> str:
        return f"{ARGON2}: {self.milliseconds:.1f} ms of a core for each"
