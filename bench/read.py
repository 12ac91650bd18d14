"""An authenticated read of one row under row-level security, beside a ceiling and a custom.

Bursar is `bursar serve` as it is: one process with API and jobs, every middleware, the token and
the permission checked, a log line for each request in a file. Its peers answer with the same body
from the same row of the same PostgreSQL, one process each, on plain uvicorn.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import jwt

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.load import Ask, Job, Outcome
from bench.programs import BenchFailed, Program, load
from bursar.core.embedded import running

TITLE = "An authenticated read of one row under row-level security, requests per second"
CLIENTS = 32
WARM_UP_SECONDS = 2.0
PEER_SECRET = "a secret of the usual handler, as tutorials have one"

BURSAR, CEILING, USUAL = "bursar", "hand-written", "usual handler"
CLAIMS = (
    Claim(BURSAR, 0.5, at_least=True, peer=CEILING),
    Claim(BURSAR, 2.5, at_least=True, peer=USUAL),
)


@dataclass
class Reader:
    """A running program with the request that is asked of it, and what it has cost so far."""

    name: str
    what: str
    program: Program
    ask: Ask
    outcomes: list[Outcome] = field(default_factory=list)
    cpu_seconds: float = 0.0

    def measure(self, seconds: float) -> float:
        before = self.program.cpu_seconds()
        outcome = self._load(seconds)
        self.cpu_seconds += self.program.cpu_seconds() - before
        self.outcomes.append(outcome)
        return outcome.per_second

    def warm_up(self, seconds: float) -> None:
        self._load(seconds)

    def _load(self, seconds: float) -> Outcome:
        return load(Job(self.program.port, [self.ask], CLIENTS, seconds))

    @property
    def note(self) -> str:
        requests = sum(outcome.requests for outcome in self.outcomes)
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        cost = self.cpu_seconds / requests * 1e6
        return (
            f"{self.name}: {cost:.0f} µs of a core in its own process for each request; "
            f"p50 {middle:.1f} ms, p99 at most {slowest:.1f} ms"
        )


def run(plan: Plan) -> Report:
    with readers() as contenders:
        same_answer(contenders)
        for reader in contenders:
            reader.warm_up(0.3 if plan.quick else WARM_UP_SECONDS)
        report = harness.run(
            "read",
            TITLE,
            f"requests/s, {CLIENTS} clients",
            [Contender(r.name, r.what, partial(r.measure, plan.seconds)) for r in contenders],
            CLAIMS,
            plan.rounds,
        )
        return replace(report, notes=tuple(reader.note for reader in contenders))


@contextmanager
def readers() -> Iterator[list[Reader]]:
    with ground.new_folder() as folder, ExitStack() as stack:
        data = folder / "data"
        ground.prepare(data)
        server = Program(ground.serve(data), folder=folder, environment=ground.ENVIRONMENT)
        stack.enter_context(server)
        address = running(data)
        if address is None:
            raise BenchFailed("the database of `bursar serve` does not run")
        peer = peers(folder, {"DATABASE_URL": address.url(), "SECRET": PEER_SECRET})
        ceiling, usual = (stack.enter_context(program) for program in peer)
        proof, token = f'"value":{ground.VALUE}', jwt.encode({"sub": "1"}, PEER_SECRET, "HS256")
        path, peer_path = f"/api/v1/admin/settings/{ground.KEY}", f"/settings/{ground.KEY}"
        yield [
            Reader(BURSAR, "`bursar serve`, as it is", server, Ask(path, proof, ground.sign_in())),
            Reader(CEILING, "Starlette + asyncpg, no sign-in", ceiling, Ask(peer_path, proof)),
            Reader(
                USUAL,
                "FastAPI + SQLAlchemy ORM + PyJWT",
                usual,
                Ask(peer_path, proof, {"Authorization": f"Bearer {token}"}),
            ),
        ]


def peers(folder: Path, environment: dict[str, str]) -> list[Program]:
    return [
        Program(["-m", f"bench.peers.{name}", "{port}"], folder=folder, environment=environment)
        for name in ("handwritten", "usual")
    ]


def same_answer(contenders: list[Reader]) -> None:
    """Whoever does less work than the others is not compared with them."""
    bodies = []
    for reader in contenders:
        body = json.loads(reader.program.get(reader.ask.path, reader.ask.headers))
        body["updatedAt"] = bool(body["updatedAt"])  # to the millisecond, or to the microsecond
        bodies.append(body)
    if any(body != bodies[0] for body in bodies):
        raise BenchFailed(f"the programs do not answer the same: {bodies}")
