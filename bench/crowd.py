"""What one process holds at its peak while 64 people sign in at once, each with 19 MiB of Argon2.

The resident set is looked at every few milliseconds while the sign-ins last.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench import door, ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.knock import Knocks, knock
from bench.memory import MEGABYTE, api_child_of

TITLE = "Memory of one process while 64 people sign in at once, MB resident at the peak"
CLIENTS = 64
REQUESTS = 512
QUICK_REQUESTS = 64
LONGEST_SECONDS = 60.0
LOOK_SECONDS = 0.004
MOST_ROUNDS = 2  # each is a new process; they hardly differ

API_CHILD, ALL_IN_ONE = "bursar, API process", "bursar, all in one"
CLAIMS = (Claim(API_CHILD, 200, at_least=False), Claim(ALL_IN_ONE, 200, at_least=False))

Pick = Callable[[psutil.Process], psutil.Process]


def run(plan: Plan) -> Report:
    with ground.new_folder() as folder:
        crowd = Crowd(folder, QUICK_REQUESTS if plan.quick else REQUESTS)
        door.prepare(crowd.data)
        return harness.run(
            "crowd",
            TITLE,
            f"MB, {crowd.requests} sign-ins by {CLIENTS} clients",
            [
                Contender(API_CHILD, "of `bursar serve --workers 1`", crowd.api_child),
                Contender(ALL_IN_ONE, "`bursar serve`: API and jobs", crowd.all_in_one),
            ],
            CLAIMS,
            min(plan.rounds, MOST_ROUNDS),
        )


@dataclass
class Crowd:
    """Starts a server, sends everybody at once, and watches one of its processes."""

    folder: Path
    requests: int

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def api_child(self) -> float:
        return self._peak(api_child_of, "--workers", "1")

    def all_in_one(self) -> float:
        return self._peak(lambda process: process)

    def _peak(self, pick: Pick, *options: str) -> float:
        with door.serving(self.folder, self.data, *options) as server:
            people = Knocks(
                server.port, door.PEOPLE, CLIENTS, LONGEST_SECONDS, requests=self.requests
            )
            with Scales(pick(psutil.Process(server.process.pid))) as scales:
                knock(people)
            return scales.peak / MEGABYTE


class Scales:
    """Looks again and again at what a process holds, and keeps the most."""

    def __init__(self, process: psutil.Process) -> None:
        self.process, self.peak = process, 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Scales":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self.peak = max(self.peak, self.process.memory_info().rss)
