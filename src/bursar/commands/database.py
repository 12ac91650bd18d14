"""Commands that look after the database: migrate, demo, psql."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy.engine import URL, make_url

from bursar.accounts import second_factor
from bursar.commands.place import owner_url, settings_of
from bursar.commands.terminal import answer, answer_json, confirm, say
from bursar.core import embedded
from bursar.core.database import DOOR, WORKER, Database, plain_dsn
from bursar.core.errors import BursarError
from bursar.core.migrate import migrate
from bursar.core.settings import Settings
from bursar.demo import company
from bursar.webhooks import signing


def run_migrate(*, data: Path | None, reset_passwords: bool, yes: bool, json: bool) -> None:
    if reset_passwords:
        confirm(
            "The login roles get new passwords; processes with the old secret key stop working.",
            yes=yes,
        )
    settings = settings_of(data)
    with owner_url(settings, make=True) as url:
        state = asyncio.run(migrate(url, settings, say, reset_passwords=reset_passwords))
        renewed = asyncio.run(renew_seals(url, settings))
    if renewed:
        say(f"sealed {renewed} secrets with the newest secret key")
    if json:
        answer_json({"revision": state.revision})
    else:
        answer(f"The database is at {state.revision}.")


async def renew_seals(url: str, settings: Settings) -> int:
    """An old secret key may be dropped once this has run with the new one before it."""
    database = Database(url, settings)
    try:
        async with database.transaction(DOOR) as db:
            factors = await second_factor.renew_all(db, settings)
        async with database.transaction(WORKER) as db:
            return factors + await signing.renew_all(db, settings)
    finally:
        await database.close()


def run_demo(*, data: Path | None, json: bool) -> None:
    settings = settings_of(data)
    with owner_url(settings, make=True) as url:
        loaded = asyncio.run(load_demo(url, settings))
    if json:
        answer_json(loaded)
    else:
        answer(f"Demo data is there: {', '.join(f'{n} {thing}' for thing, n in loaded.items())}.")


async def load_demo(url: str, settings: Settings) -> dict[str, int]:
    await migrate(url, settings, say)
    database = Database(url, settings)
    try:
        return await company.load(database)
    finally:
        await database.close()


class NoPsql(BursarError, status=500, code="cli.no_psql", exit_code=3):
    """Neither the embedded PostgreSQL nor the PATH has a psql."""


def run_psql(*, data: Path | None, arguments: list[str]) -> None:
    settings = settings_of(data)
    with owner_url(settings) as address:
        url = make_url(address)
        environment = {**os.environ, "PGPASSWORD": url.password or ""}  # not for `ps` to see
        try:
            command = [embedded.program("psql"), without_password(url), *arguments]
            with interrupts_left_to_psql():
                code = subprocess.run(command, env=environment, check=False).returncode
        except OSError:
            raise NoPsql("psql cannot be started: install PostgreSQL's client programs.") from None
    sys.exit(code)


def without_password(url: URL) -> str:
    """For a command line, which everybody on the machine can read."""
    return plain_dsn(url._replace(password=None))  # `set` would take None for "as it is"


@contextmanager
def interrupts_left_to_psql() -> Iterator[None]:
    """Ctrl-C ends the query that psql waits for, not psql and not the database under it.

    A handler that does nothing, because a child would inherit a signal that is ignored.
    """
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
