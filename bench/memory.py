"""What one process holds in memory after load: 30,000 mixed reads by 64 clients.

The resident set (RSS) counts shared pages in full, as an operator's tools do; the share (PSS)
divides them among the processes that share them and is given beside it where the system tells.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import jwt
import psutil

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.load import Ask, Job
from bench.programs import BenchFailed, Program, load
from bursar.core.embedded import connect_or_start

TITLE = "Memory of one process after load, MB resident"
CLIENTS = 64
REQUESTS = 30_000
QUICK_REQUESTS = 1_000
LONGEST_SECONDS = 120.0
MOST_ROUNDS = 2  # each is a new process with all of its load; they hardly differ
MEGABYTE = 1_000_000
PEER_SECRET = "a secret of the usual handler, as tutorials have one"

ALL_IN_ONE, API_CHILD = "bursar, all in one", "bursar, API process"
CLAIMS = (Claim(API_CHILD, 150, at_least=False), Claim(ALL_IN_ONE, 150, at_least=False))


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        scale = Scale(folder, QUICK_REQUESTS if plan.quick else REQUESTS)
        ground.prepare(scale.data)
        report = harness.run(
            "memory",
            TITLE,
            f"MB after {scale.requests:,} requests, {CLIENTS} clients",
            [
                Contender(ALL_IN_ONE, "`bursar serve`: API and jobs", scale.all_in_one),
                Contender(API_CHILD, "of `bursar serve --workers 1`", scale.api_child),
                Contender("usual handler", "FastAPI + SQLAlchemy ORM + PyJWT", scale.usual),
                Contender("hello", "FastAPI and uvicorn with one route", scale.hello),
            ],
            CLAIMS,
            min(plan.rounds, MOST_ROUNDS),
        )
        return replace(report, notes=tuple(scale.notes()))


@dataclass
class Scale:
    """Starts a program, loads it, weighs one of its processes."""

    folder: Path
    requests: int
    shares: dict[str, list[float]] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def all_in_one(self) -> float:
        return self._weigh_bursar(ALL_IN_ONE, (), lambda process: process)

    def api_child(self) -> float:
        return self._weigh_bursar(API_CHILD, ("--workers", "1"), api_child_of)

    def _weigh_bursar(
        self, name: str, options: tuple[str, ...], pick: Callable[[psutil.Process], psutil.Process]
    ) -> float:
        command = ground.serve(self.data, *options)
        with Program(command, folder=self.folder, environment=ground.ENVIRONMENT) as server:
            server.get("/openapi.json")  # it is made once and kept
            return self._weigh(name, server, mixed_reads(), pick)

    def usual(self) -> float:
        token = jwt.encode({"sub": "1"}, PEER_SECRET, "HS256")
        headers = {"Authorization": f"Bearer {token}"}
        asks = [Ask(f"/settings/{ground.KEY}", f'"value":{ground.VALUE}', headers)]
        with self._peer("usual") as server:
            return self._weigh("usual handler", server, asks, lambda process: process)

    def hello(self) -> float:
        with self._peer("hello") as server:
            return self._weigh("hello", server, [Ask("/ready", "ready")], lambda process: process)

    @contextmanager
    def _peer(self, name: str) -> Iterator[Program]:
        with connect_or_start(self.data, lambda _: None) as address:
            environment = {"DATABASE_URL": address.url(), "SECRET": PEER_SECRET}
            command = ["-m", f"bench.peers.{name}", "{port}"]
            with Program(command, folder=self.folder, environment=environment) as server:
                yield server

    def _weigh(
        self,
        name: str,
        server: Program,
        asks: list[Ask],
        pick: Callable[[psutil.Process], psutil.Process],
    ) -> float:
        load(Job(server.port, asks, CLIENTS, LONGEST_SECONDS, self.requests))
        process = pick(psutil.Process(server.process.pid))
        weight = process.memory_full_info()
        self.shares.setdefault(name, []).append(getattr(weight, "pss", 0) / MEGABYTE)
        return float(weight.rss / MEGABYTE)

    def notes(self) -> list[str]:
        return [
            f"{name}: {median(shares):.1f} MB if shared pages are divided (PSS)"
            for name, shares in self.shares.items()
            if any(shares)
        ]


def mixed_reads() -> list[Ask]:
    """Mostly the short way; with it what goes through FastAPI, SQLAlchemy and the error handler."""
    staff, area = ground.sign_in(), "/api/v1/admin"
    one = Ask(f"{area}/settings/{ground.KEY}", f'"value":{ground.VALUE}', staff)
    default = Ask(f"{area}/settings/company_name", '"value":"Bursar"', staff)
    every = Ask(f"{area}/settings?pageSize=20", '"support_email"', staff)
    changes = Ask(f"{area}/setting-changes", f'"new":{ground.VALUE}', staff)
    alive = Ask("/health", "healthy")
    return [one, default, one, every, one, default, one, changes, one, alive]


def api_child_of(parent: psutil.Process) -> psutil.Process:
    for child in parent.children():
        if "bursar.commands.child" in child.cmdline() and "api" in child.cmdline():
            return child
    raise BenchFailed("`bursar serve --workers 1` has no API process")
