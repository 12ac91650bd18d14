"""`bursar import users` with 100,000 people, from the command to its end, on a new database.

Its peer gives the scale: the same people by one COPY into the same table with its triggers and
indexes, unread and unchecked.
"""

import asyncio
import base64
import csv
import itertools
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from bench import ground, harness
from bench.harness import Claim, Contender, Plan, Report
from bench.programs import BenchFailed, clean_environment
from bursar.core.embedded import Embedded

PEOPLE = 100_000
QUICK_PEOPLE = 5_000
MOST_ROUNDS = 3
COLUMNS = ("email", "name", "tier", "password_hash")
BURSAR = "bursar import"
CLAIMS = (Claim(BURSAR, 30, at_least=False),)


def run(plan: Plan) -> Report:
    people = QUICK_PEOPLE if plan.quick else PEOPLE
    with ground.new_folder() as folder:
        place = Place(folder, people)
        write(place.file, people)
        return harness.run(
            "imports",
            f"Import of {people:,} customers, seconds",
            "seconds",
            [
                Contender(BURSAR, "from the command to its end, its PostgreSQL started", place.own),
                Contender("COPY", "one COPY into the same table, nothing checked", place.copy),
            ],
            CLAIMS,
            min(plan.rounds, MOST_ROUNDS),
        )


def write(file: Path, people: int) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        writer.writerows(rows(people))


def rows(people: int) -> Iterator[tuple[str, ...]]:
    """Hashes of nobody's password, written as bcrypt and Django write theirs."""
    chance = random.Random(7)  # the same people in every run
    first, last = ("Anna", "Emine", "François", "Jürgen"), ("Müller", "Nguyen", "García", "Smith")
    for number in range(people):
        digest = base64.b64encode(chance.randbytes(32)).decode()
        salted = chance.randbytes(26).hex()
        bcrypt = f"$2b$12${salted[:21]}O{salted[-30:]}."
        known = bcrypt if number % 2 else f"pbkdf2_sha256$260000${number}${digest}"
        name = f"{chance.choice(first)} {chance.choice(last)}"
        yield f"{number}.{name[:1]}@mail{number % 500}.example.com", name, "free", known


@dataclass
class Place:
    """A new database for each round."""

    folder: Path
    people: int
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    @property
    def file(self) -> Path:
        return self.folder / "people.csv"

    def _new(self) -> Path:
        data = self.folder / f"data-{next(self.numbers)}"
        ground.prepare(data)
        return data

    def own(self) -> float:
        data = self._new()
        command = [sys.executable, "-m", "bursar.cli", "import", "users", str(self.file)]
        begun = time.perf_counter()
        done = subprocess.run(
            [*command, "--data", str(data)],
            cwd=self.folder,
            env=clean_environment() | ground.ENVIRONMENT,
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.perf_counter() - begun
        if not done.stdout.startswith(f"{self.people:,} lines: {self.people:,} added"):
            raise BenchFailed(f"the import said {done.stdout}{done.stderr[:500]}")
        return seconds

    def copy(self) -> float:
        with Embedded(self._new(), say=lambda _: None) as server:
            return asyncio.run(copied(server.url("postgres"), self.file))


async def copied(url: str, file: Path) -> float:
    """As the superuser: PostgreSQL has no COPY into a table with row-level security for others."""
    connection = await asyncpg.connect(url)
    try:
        begun = time.perf_counter()
        await connection.copy_to_table(
            "users", source=file, columns=list(COLUMNS), format="csv", header=True
        )
        return time.perf_counter() - begun
    finally:
        await connection.close()
