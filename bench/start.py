"""From the command to the first 200 on /ready: a start on known data, and the very first one.

Its peers give the scale: the least that FastAPI and uvicorn take to answer, and PostgreSQL alone,
made by initdb or made before, until it takes connections.
"""

import itertools
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import BenchFailed, Program, wait_for
from bursar.core.embedded import account as accounts
from bursar.core.embedded import program
from bursar.core.embedded.account import Account

TITLE = "Start-up, seconds from the command to the first 200 on /ready"
WARM, FIRST = "bursar, warm", "bursar, first"
CLAIMS = (Claim(WARM, 2, at_least=False), Claim(FIRST, 5, at_least=False))

# Nothing of Bursar's rules is needed for a server that lives for a second behind its socket.
ALONE = ("listen_addresses=", "unix_socket_permissions=0700")


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        place = Place(folder)
        ground.prepare(place.known)
        make_cluster(place.cluster, place.account)
        contenders = [
            Contender(WARM, "`bursar serve` on its data", place.warm),
            Contender(FIRST, "`bursar serve` on an empty folder, migrations included", place.first),
            Contender("hello", "FastAPI and uvicorn with one route", place.hello),
            Contender("postgres, warm", "postgres alone", place.postgres_warm),
            Contender("postgres, first", "initdb, then postgres alone", place.postgres_first),
        ]
        warm_up(contenders, plan)
        return harness.run("start", TITLE, "seconds", contenders, CLAIMS, plan.rounds)


def warm_up(contenders: list[Contender], plan: Plan) -> None:
    """So that no one pays for the first read of its files from the disk."""
    if not plan.quick:
        for contender in contenders:
            contender.measure()


@dataclass
class Place:
    """Where they start: folders that are known, and new ones for each first time."""

    folder: Path
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def known(self) -> Path:
        return self.folder / "known"

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    @property
    def account(self) -> Account:
        return accounts.choose(self.known, self.known / "postgres")

    def new(self) -> Path:
        return self.folder / f"new-{next(self.numbers)}"

    def warm(self) -> float:
        return self._bursar(self.known)

    def first(self) -> float:
        return self._bursar(self.new())

    def _bursar(self, data: Path) -> float:
        return started(ground.serve(data), self.folder, ground.ENVIRONMENT)

    def hello(self) -> float:
        return started(["-m", "bench.peers.hello", "{port}"], self.folder, {})

    def postgres_warm(self) -> float:
        return timed(lambda: None, self.cluster, self.account)

    def postgres_first(self) -> float:
        cluster = self.new()
        return timed(lambda: make_cluster(cluster, self.account), cluster, self.account)


def started(arguments: list[str], folder: Path, environment: dict[str, str]) -> float:
    with Program(arguments, folder=folder, environment=environment) as server:
        return server.seconds


def make_cluster(cluster: Path, account: Account) -> None:
    cluster.mkdir(mode=0o700)
    if account.identity:
        os.chown(cluster, account.uid, account.gid)
    made = accounts.run([program("initdb"), "--pgdata", str(cluster), "--auth=trust"], account)
    if made.code:
        raise BenchFailed(f"initdb: {made.output[-2000:]}")


def timed(before: Callable[[], None], cluster: Path, account: Account) -> float:
    """What `before` and the start of PostgreSQL take together."""
    begun = time.perf_counter()
    before()
    options = [f"-c{option}" for option in (*ALONE, f"unix_socket_directories={cluster}")]
    with TemporaryFile() as printed:
        server = accounts.spawn(
            [program("postgres"), "-D", str(cluster), *options], account, printed=printed
        )
        try:

            def check() -> None:
                if server.poll() is not None:
                    printed.seek(0)
                    raise BenchFailed(f"postgres: {printed.read()[-2000:].decode()}")

            wait_for(lambda: takes_connections(cluster), check)
            return time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown
            server.wait()


def takes_connections(cluster: Path) -> bool:
    """The last line of its pid file says so."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except OSError:
        return False
    return len(lines) > 7 and lines[7].strip() == "ready"
