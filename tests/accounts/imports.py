"""Files to import, runs of the import, and what is in its way."""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import asyncpg

from bursar.accounts.import_files import Format
from bursar.accounts.import_people import Person, Reader, Rejected
from bursar.accounts.importing import batches
from tests.accounts.people import rows
from tests.auth import stored_hashes
from tests.conftest import Live
from tests.databases import raw
from tests.programs import SAID, SECRET, Ended, bursar

# Who imports into a file is told so often how far it is; no test waits for that, or is surprised.
EVERY_FIVE_SECONDS = re.compile(r"^[\d,]+ lines: .* \(\d+ %\)\n", re.MULTILINE)
PASSWORD = "a password from an older system"
HASH = stored_hashes.django(PASSWORD)
CARL = "carl@example.com"
LOCK = "select pg_advisory_xact_lock(hashtextextended('bursar import users', 0))"
WAITING = """
  select virtualtransaction from pg_locks
  where not granted and pid in (
    select pid from pg_stat_activity where datname = current_database())
"""


def of(live: Live) -> dict[str, str]:
    return {"DATABASE_URL": live.url, "BURSAR_SECRET_KEY": SECRET, **SAID}


def imported(live: Live, file: Path, *options: object) -> Ended:
    ended = bursar("import", "users", file, *options, **of(live))
    return replace(ended, stderr=EVERY_FIVE_SECONDS.sub("", ended.stderr))


def figures(ended: Ended) -> tuple[int, int, int]:
    found = json.loads(ended.stdout)
    assert found["lines"] == found["added"] + found["already_there"] + found["rejected"]
    return found["added"], found["already_there"], found["rejected"]


def write(folder: Path, *lines: str, name: str = "people.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def many(count: int) -> list[str]:
    return ["email,username,name"] + [f"p{n}@example.com,p.{n}x,P {n}" for n in range(count)]


async def stored(live: Live) -> int:
    return int((await rows(live, "select count(*) from users"))[0][0])


@asynccontextmanager
async def held(live: Live, *statements: str) -> AsyncIterator[Any]:
    """A transaction of somebody else's that is open; what is left of it is committed at the end."""
    connection = await asyncpg.connect(raw(live.url))
    try:
        await connection.execute("begin")
        for statement in statements:
            await connection.execute(statement)
        yield connection
        await connection.execute("commit")
    finally:
        await connection.close()


async def waits(live: Live) -> None:
    while not await rows(live, WAITING):
        await asyncio.sleep(0.02)


def read(content: bytes | str, kind: Format = Format.CSV) -> list[Person | Rejected]:
    """What the lines of a file are, without a database."""
    data = content.encode() if isinstance(content, str) else content
    taken = [
        each
        for batch in batches(io.BytesIO(data), kind, Reader())
        for each in (*batch.people, *batch.rejected)
    ]
    return sorted(taken, key=lambda each: each.line)


def line(**members: Any) -> str:
    return json.dumps({"email": CARL, **members}) + "\n"
