"""What it costs a request that somebody is there: token check, Actor, row-level security.

The same authenticated hot read is asked of the same application twice (bench/peers/doors.py): as it
is, and with nobody at the door. One client asks one thing after the other, in turn of one, the
other and a third: the guarded one with a token that it has not seen before each time, which it has
to verify in full. A round's figure is the median latency; what is claimed is the difference.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from uuid import uuid4

from bench import ground, harness
from bench.harness import Claim, Contender, Figure, Plan, Report, Verdict
from bench.load import Ask, Job, Outcome
from bench.programs import Program, load
from bursar.auth.actor import OPERATOR_ID, Actor, Kind
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import KNOWN_AT_MOST, Tokens
from bursar.core.embedded import connect_or_start

TITLE = "A hot read with and without anybody asking who is there, milliseconds"
MOST_MS = 0.15
WARM_UP_SECONDS = 2.0
WAKE_SECONDS = 0.3  # of load before each round: who has rested is slower at first
HOUR = 3600
NEVER = KNOWN_AT_MOST + 1  # tokens in turn: each is forgotten before it comes again
OPEN, GUARDED, NEW = "nobody at the door", "guarded", "guarded, new tokens"
ADDED, ADDED_NEW = "added", "added, new tokens"


def run(plan: Plan) -> Report:
    with doors() as contenders:
        for each in contenders:
            each.measure(0.3 if plan.quick else WARM_UP_SECONDS)
            each.forget()
        measured = harness.interleave(
            [Contender(c.name, c.what, partial(c.measure, plan.seconds)) for c in contenders],
            plan.rounds,
        )
        figures = [Figure(c.name, c.what, tuple(measured[c.name])) for c in contenders]
        added = [difference(ADDED, figures[1], figures[0])]
        added.append(difference(ADDED_NEW, figures[2], figures[0]))
        return Report(
            "identify",
            TITLE,
            "ms, median of a round, one client",
            (*figures, *added),
            tuple(verdict(figure) for figure in added),
            tuple(each.note for each in contenders),
        )


def difference(name: str, more: Figure, less: Figure) -> Figure:
    rounds = zip(more.rounds, less.rounds, strict=True)
    return Figure(name, f"{more.name} less {less.name}", tuple(a - b for a, b in rounds))


def verdict(figure: Figure) -> Verdict:
    return Verdict(Claim(figure.name, MOST_MS, at_least=False), figure.median, figure.rounds)


@contextmanager
def doors() -> Iterator[list["Asked"]]:
    with ground.new_folder() as folder, ExitStack() as stack:
        data = folder / "data"
        ground.prepare(data)
        address = stack.enter_context(connect_or_start(data, lambda _: None))
        opened, guarded = (
            stack.enter_context(door(kind, folder, address.url())) for kind in ("open", "guarded")
        )
        proof, key = f'"value":{ground.VALUE}', f"settings/{ground.KEY}"
        bare = [Ask(f"/api/v1/open/{key}", proof)]
        one, many = ([Ask(f"/api/v1/admin/{key}", proof, t) for t in signed(n)] for n in (1, NEVER))
        yield [
            Asked(OPEN, "no token, no claim, as a superuser", opened, bare),
            Asked(GUARDED, "as it is, one token", guarded, one),
            Asked(NEW, "each request with a token not seen before", guarded, many),
        ]


def door(kind: str, folder: Path, url: str) -> Program:
    environment = ground.ENVIRONMENT | {"DATABASE_URL": url, "BURSAR_DATA": str(folder / kind)}
    command = ["-m", "bench.peers.doors", "{port}", kind]
    return Program(command, folder=folder, environment=environment, ready="/health")


def signed(number: int) -> Iterator[dict[str, str]]:
    """Headers of so many sessions of somebody who may read settings."""
    tokens = Tokens([ground.SECRET])
    for _ in range(number):
        actor = Actor(Kind.STAFF, OPERATOR_ID, StaffRole.OWNER, session=uuid4())
        token = tokens.sign(actor, lifetime_seconds=12 * HOUR)
        yield {"Authorization": f"Bearer {token}"}


@dataclass
class Asked:
    """A server with what is asked of it, and what that has cost so far."""

    name: str
    what: str
    program: Program
    asks: list[Ask]
    outcomes: list[Outcome] = field(default_factory=list)
    cpu_seconds: float = 0.0
    asked: int = 0

    def measure(self, seconds: float) -> float:
        self._load(WAKE_SECONDS)
        before = self.program.cpu_seconds()
        outcome = self._load(seconds)
        self.cpu_seconds += self.program.cpu_seconds() - before
        self.outcomes.append(outcome)
        return outcome.p50_ms

    def _load(self, seconds: float) -> Outcome:
        """Goes on where the last one stopped, so that no token comes again too soon."""
        start = self.asked % len(self.asks)
        asks = self.asks[start:] + self.asks[:start]
        outcome = load(Job(self.program.port, asks, 1, seconds))
        self.asked += outcome.requests + 1
        return outcome

    def forget(self) -> None:
        self.outcomes.clear()
        self.cpu_seconds = 0.0

    @property
    def note(self) -> str:
        requests = sum(outcome.requests for outcome in self.outcomes)
        cost = self.cpu_seconds / requests * 1e6
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        return (
            f"{self.name}: {cost:.0f} µs of a core in the API's process for each request; "
            f"p99 at most {slowest:.2f} ms"
        )
