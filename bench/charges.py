"""Charges per second: 512 callers at the till of one process, beside pgbench without any till.

Both stand on the same PostgreSQL, with fsync, and take turns. The till does all that Bursar does:
two sides, a key for ever, the chain's triggers, the audit trail. The peer calls one procedure for a
charge that locks the balance, looks at it, lowers it and writes a row (bench/peers/procedure.sql).
One wallet that everybody charges, and ten thousand of which each charge takes any. The floor is
what the ledger's rows cost PostgreSQL on this machine, with all that watches them (bench/floor.py):
once made where they are written, once for the same callers at the same till. With these rows and
triggers no ledger gets more.

How often pgbench gets to one wallet is how long a commit takes, and that is the disk's affair. So
the hot wallet is measured a second time with commits that take 1.5 ms longer for both, which is
what pgbench's 340 to 630 a second say of the machine that the target was set on.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import asyncpg

from bench import books, floor, ground, harness, procedure
from bench.books import CROWD, CROWD_SIZE, HOT, Charges
from bench.harness import Claim, Contender, Figure, Plan, Report
from bench.load import Outcome
from bench.programs import ROOT, BenchFailed, clean_environment
from bursar.core.embedded import Address, Embedded

TITLE = "Charges by one process with 512 callers, and by pgbench with 64 clients"
CALLERS = 512
WARM_UP_SECONDS = 2.0
TILL_HOT, DIRECT_HOT = "till, one wallet", "pgbench, one wallet"
TILL_MANY, DIRECT_MANY = "till, 10,000 wallets", "pgbench, 10,000 wallets"
FLOOR_HOT, FLOOR_MANY = "floor, one wallet", "floor, 10,000 wallets"
CALLED_HOT, CALLED_MANY = "till on the floor, one wallet", "till on the floor, 10,000 wallets"
TILL_SLOW, DIRECT_SLOW = "till, one wallet, slow disk", "pgbench, one wallet, slow disk"
COMMIT_DELAY_MICROSECONDS = 1_500
SLOWEST_HOT = "till, one wallet, p99"
CLAIMS = (
    Claim(TILL_HOT, 20, at_least=True, peer=DIRECT_HOT),
    Claim(TILL_SLOW, 20, at_least=True, peer=DIRECT_SLOW),
    Claim(TILL_HOT, 8_000, at_least=True),
    Claim(TILL_MANY, 3, at_least=True, peer=DIRECT_MANY),
)
WAIT = Claim(SLOWEST_HOT, 100, at_least=False)


def run(plan: Plan) -> Report:
    with bank() as address:
        hot, many, slow = (Callers(group, address) for group in (HOT, CROWD, HOT))
        floor_hot, floor_many = (Callers(group, address, floored=True) for group in (HOT, CROWD))
        for each in (hot, many, slow, floor_hot, floor_many):
            each.measure(0.3 if plan.quick else WARM_UP_SECONDS)
            each.forget()
        report = harness.run(
            "charges",
            TITLE,
            "charges/s; waiting in ms",
            [
                Contender(TILL_HOT, hot.what, partial(hot.measure, plan.seconds)),
                direct(DIRECT_HOT, address, 1, plan.seconds),
                rows(FLOOR_HOT, address, plan.seconds, one_wallet=True),
                Contender(CALLED_HOT, floor_hot.what, partial(floor_hot.measure, plan.seconds)),
                slowed(
                    Contender(TILL_SLOW, slow.what, partial(slow.measure, plan.seconds)), address
                ),
                slowed(direct(DIRECT_SLOW, address, 1, plan.seconds), address),
                Contender(TILL_MANY, many.what, partial(many.measure, plan.seconds)),
                direct(DIRECT_MANY, address, CROWD_SIZE, plan.seconds),
                rows(FLOOR_MANY, address, plan.seconds, one_wallet=False),
                Contender(CALLED_MANY, floor_many.what, partial(floor_many.measure, plan.seconds)),
            ],
            CLAIMS,
            plan.rounds,
        )
        return with_waiting(report, hot, many)


@contextmanager
def bank() -> Iterator[Address]:
    """A server with one hot wallet and a crowd of others, and the peer's tables beside them."""
    with ground.new_folder() as folder:
        ground.prepare(folder / "data")
        with Embedded(folder / "data", say=lambda _: None) as server:
            asyncio.run(books.make(server.url("postgres"), Charges()))
            asyncio.run(procedure.install(server.url()))
            asyncio.run(floor.install(server.url()))
            yield server.address


def direct(name: str, address: Address, wallets: int, seconds: float) -> Contender:
    what = f"one procedure call per charge, {procedure.CLIENTS} clients"
    return Contender(name, what, partial(procedure.charge, address, wallets, seconds))


def rows(name: str, address: Address, seconds: float, *, one_wallet: bool) -> Contender:
    what = "rows and triggers alone, made where they are written"
    return Contender(name, what, partial(floor.charge, address, seconds, one_wallet=one_wallet))


def slowed(contender: Contender, address: Address) -> Contender:
    """The same while each commit waits before it is written, whoever else is at work."""

    def measure() -> float:
        set_commit_delay(address, COMMIT_DELAY_MICROSECONDS)
        try:
            return contender.measure()
        finally:
            set_commit_delay(address, 0)

    return replace(contender, measure=measure)


def set_commit_delay(address: Address, microseconds: int) -> None:
    async def ask() -> None:
        connection = await asyncpg.connect(address.url("postgres"))
        try:
            await connection.execute("alter system set commit_siblings = 0")
            await connection.execute(f"alter system set commit_delay = {microseconds:d}")
            await connection.execute("select pg_reload_conf()")
        finally:
            await connection.close()

    asyncio.run(ask())


@dataclass
class Callers:
    """A process with a till, and how long its callers waited so far; `floored`: on the floor."""

    group: str
    address: Address
    floored: bool = False
    outcomes: list[Outcome] = field(default_factory=list)
    cpu_seconds: float = 0.0

    @property
    def what(self) -> str:
        doing = "rows and triggers alone" if self.floored else "charges"
        return f"{doing}, {CALLERS} callers"

    def measure(self, seconds: float) -> float:
        job = {"group": self.group, "callers": CALLERS, "seconds": seconds}
        url = floor.under_a_till(self.address) if self.floored else self.address.url("postgres")
        done = subprocess.run(
            [sys.executable, "-m", "bench.peers.callers"],
            input=json.dumps(job),
            capture_output=True,
            text=True,
            cwd=ROOT,
            env=clean_environment() | ground.ENVIRONMENT | {"DATABASE_URL": url},
            timeout=seconds + 120,
            check=False,
        )
        if done.returncode:
            raise BenchFailed(f"bench.peers.callers: {done.stderr[-2000:]}")
        answer = json.loads(done.stdout)
        self.cpu_seconds += answer.pop("cpu_seconds")
        self.outcomes.append(Outcome(**answer))
        return self.outcomes[-1].per_second

    def forget(self) -> None:
        self.outcomes.clear()
        self.cpu_seconds = 0.0

    @property
    def note(self) -> str:
        charges = sum(outcome.requests for outcome in self.outcomes)
        cost = self.cpu_seconds / charges * 1e6
        slowest = max(outcome.p99_ms for outcome in self.outcomes)
        middle = sorted(outcome.p50_ms for outcome in self.outcomes)[len(self.outcomes) // 2]
        return (
            f"till, {self.group}: {cost:.0f} µs of a core in the callers' process for each charge; "
            f"p50 {middle:.1f} ms, p99 at most {slowest:.1f} ms"
        )


def with_waiting(report: Report, hot: Callers, many: Callers) -> Report:
    waits = tuple(outcome.p99_ms for outcome in hot.outcomes)
    figure = Figure(SLOWEST_HOT, "ms, from the call to the answer", waits)
    return replace(
        report,
        figures=(*report.figures, figure),
        verdicts=(*report.verdicts, harness.judge(WAIT, {SLOWEST_HOT: figure})),
        notes=(*rooms(report), hot.note, many.note),
    )


def rooms(report: Report) -> Iterator[str]:
    """How far a target is within reach of this machine at all."""
    figures = {figure.name: figure for figure in report.figures}
    for rows, direct in (
        (FLOOR_HOT, DIRECT_HOT),
        (CALLED_HOT, DIRECT_HOT),
        (FLOOR_MANY, DIRECT_MANY),
        (CALLED_MANY, DIRECT_MANY),
    ):
        room = harness.Ratio(figures[rows], figures[direct])
        yield (
            f"{rows}: {room.value:.2f} times {direct} (rounds {min(room.rounds):.2f} - "
            f"{max(room.rounds):.2f}): with these rows and triggers no ledger can be more"
        )
