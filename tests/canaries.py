"""No API key is left behind: not in a row, a log, or a file of a program that tests have started.

Each key of each test is a canary, whoever made it. It is known by its beginning and by more of it
than is ever shown masked: so one that was cut off, or written in other letters, is found as well,
and one in bytes, which as text are hexadecimal digits.
"""

import re
from pathlib import Path

import asyncpg

from bursar.keys import secret

PLAIN = rf"{secret.PREFIX}[0-9A-Za-z]{{20}}"
KEY = rf"{PLAIN}|{secret.PREFIX.encode().hex()}[0-9a-f]{{40}}"
IN_TEXT = re.compile(KEY, re.IGNORECASE)
IN_FILE = re.compile(PLAIN.encode())  # as it begins with fixed letters, 80 MB take 50 ms

# A dump is these rows as text, so nothing that a dump would show is left out: partitions are tables
# of their own, and what is kept beside a row is part of its text. An empty table is not looked at.
TABLES = """
  select oid::regclass::text as name from pg_class
  where relkind in ('r', 'm') and pg_relation_size(oid) > 0
    and relnamespace::regnamespace::text <> all ('{pg_catalog,information_schema}')
"""
LOOK = "select '{name}' as name where exists (select from {name} as kept where kept::text ~* $1)"


def in_text(text: str) -> bool:
    return IN_TEXT.search(text) is not None


async def in_tables(superuser: asyncpg.Connection) -> list[str]:
    """Tables of this database with a key in a row; a superuser sees all."""
    names = [row["name"] for row in await superuser.fetch(TABLES)]
    looks = " union all ".join(LOOK.format(name=name) for name in names)
    return [row["name"] for row in await superuser.fetch(looks, KEY)] if names else []


def in_files(folder: Path) -> list[str]:
    """Files with a key in them; of a database, also in rows that are deleted or not committed."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [str(file) for file in files if IN_FILE.search(file.read_bytes())]


def refuse(found: list[str]) -> None:
    assert found == [], f"API keys stand in {', '.join(found[:5])}"
