"""A failing sign-in takes as long for an address that nobody has as for one that somebody has.

Both are asked of one `bursar serve` over one connection in turn, known, unknown, known, unknown,
so that a pair shares its weather; each time another address and another caller.
"""

import http.client
import time
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median

from bench import door, ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.knock import LOGIN, address, body, email
from bench.programs import BenchFailed

TITLE = "A sign-in that fails, milliseconds"
KNOWN, UNKNOWN = "known address", "unknown address"
CLAIMS = (
    Claim(KNOWN, 0.95, at_least=True, peer=UNKNOWN),
    Claim(KNOWN, 1.05, at_least=False, peer=UNKNOWN),
)
WRONG = "a boat full of badgers"
WARM_UP = 10  # pairs


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        data = folder / "data"
        door.prepare(data)
        with door.serving(folder, data) as server:
            guesses = Guesses(server.port)
            guesses.warm_up()
            report = harness.run(
                "strangers",
                TITLE,
                "ms, median of a round, one client",
                [
                    Contender(KNOWN, "a wrong password", partial(guesses.measure, plan.seconds)),
                    Contender(UNKNOWN, "the same for nobody", guesses.of_nobody),
                ],
                CLAIMS,
                plan.rounds,
            )
            return replace(report, notes=(guesses.note,))


@dataclass
class Guesses:
    """One caller who tries passwords, and how long each answer took."""

    port: int
    number: int = 0
    known: list[float] = field(default_factory=list)
    unknown: list[float] = field(default_factory=list)
    last: float = 0.0

    def warm_up(self) -> None:
        with closing(self._connect()) as connection:
            for _ in range(WARM_UP):
                self._pair(connection)

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def measure(self, seconds: float) -> float:
        """Both kinds in turn; answers for the known, and keeps the other for `of_nobody`."""
        known: list[float] = []
        unknown: list[float] = []
        ends = time.perf_counter() + seconds
        with closing(self._connect()) as connection:
            while time.perf_counter() < ends or not known:
                pair = self._pair(connection)
                known.append(pair[0])
                unknown.append(pair[1])
        self.known += known
        self.unknown += unknown
        self.last = median(unknown)
        return median(known)

    def of_nobody(self) -> float:
        return self.last

    def _pair(self, connection: http.client.HTTPConnection) -> tuple[float, float]:
        """Each kind is as often the first of its pair as the second."""
        self.number += 1
        if self.number % 2:
            known = self._guess(connection, email(self.number % door.PEOPLE))
            return known, self._guess(connection, stranger(self.number))
        unknown = self._guess(connection, stranger(self.number))
        return self._guess(connection, email(self.number % door.PEOPLE)), unknown

    def _guess(self, connection: http.client.HTTPConnection, whose: str) -> float:
        headers = {"Content-Type": "application/json", "X-Forwarded-For": address(self.number)}
        began = time.perf_counter()
        connection.request("POST", LOGIN, body(whose, WRONG), headers)
        answer = connection.getresponse()
        content = answer.read()
        took = time.perf_counter() - began
        if answer.status != 401 or b"accounts.wrong_credentials" not in content:
            raise BenchFailed(f"a wrong password was answered {answer.status}: {content[:300]!r}")
        return took * 1000

    @property
    def note(self) -> str:
        return (
            f"all rounds together: {median(self.known):.2f} ms known, "
            f"{median(self.unknown):.2f} ms unknown, of {len(self.known):,} each"
        )


def stranger(number: int) -> str:
    return f"stranger{number:06}@example.com"
