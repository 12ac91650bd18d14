"""The till's way to PostgreSQL: what was lost before its answer is sent again until somebody knows.

A lost connection leaves open whether a batch happened. As every request has its key for ever, the
same batch is simply sent again, and posts what is missing. What may still be at work on the lost
connection is ended first.
"""

import asyncio
import logging
import time
from contextlib import suppress
from itertools import chain, repeat
from typing import Any

import asyncpg
import orjson

from bursar.core.database import Database, Role, connect, role_url
from bursar.core.database_errors import (
    DatabaseSlow,
    OutcomeUnknown,
    is_lost,
    leaves_open,
    state_of,
    translate,
)
from bursar.core.errors import BursarError
from bursar.core.problems import Internal

log = logging.getLogger("bursar.till")

PAUSES_SECONDS = (0.0, 0.05, 0.1, 0.2, 0.4)  # between tries; then the last one goes on

POST = "select post($1::jsonb)"
WHO = "select pid, backend_start from pg_stat_activity where pid = pg_backend_pid()"
END = """
  select pg_terminate_backend(pid, 5000) from pg_stat_activity where pid = $1 and backend_start = $2
"""


class Effort:
    """What is known about one batch: how long it may still be tried, and what has become of it."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.unknown = False  # something was sent, and how that ended nobody saw

    @property
    def seconds_left(self) -> float:
        return self._end - time.monotonic()

    @property
    def is_over(self) -> bool:
        return self.seconds_left <= 0

    def refusal(self, error: asyncpg.PostgresError, *, alone: bool) -> BursarError:
        """Why a group was not posted. Only about one that stands alone the error says it."""
        refusal = translate(error) if alone else DatabaseSlow.now()
        if refusal is None:
            constraint = getattr(error, "constraint_name", None)
            log.error("the ledger refused a request: %s %s", state_of(error), constraint)
            return Internal("Something went wrong here; nothing was changed.")
        if self.unknown and refusal.status != 422:
            return OutcomeUnknown.now()  # what was sent first may still be at work
        return refusal


class Unreachable(Exception):
    """The database was not there for as long as a batch is tried."""


class Lost(Exception):
    """One try ended without an answer, for this reason."""

    def __init__(self, error: Exception) -> None:
        super().__init__(state_of(error) or type(error).__name__)


class Link:
    """A connection as the worker, made again whenever it is lost."""

    def __init__(self, database: Database) -> None:
        self._settings = database.settings
        self._url = role_url(database.url, Role.WORKER, database.settings)
        self._connection: asyncpg.Connection | None = None
        self._backend: tuple[Any, ...] | None = None  # of that connection
        self._left: tuple[Any, ...] | None = None  # of one that was lost in the middle
        self._is_down = False

    async def ask(self, payload: str, effort: Effort) -> list[dict[str, Any]]:
        """What post() answers, or the error that it ended with. Until one of them is known, the
        same is sent again."""
        for pause in chain(PAUSES_SECONDS, repeat(PAUSES_SECONDS[-1])):
            try:
                return await self._try(payload, effort)
            except Lost as reason:
                self._abandon()
                if not pause:
                    log.warning("the till has lost the database: %s", reason)
            if self._is_down or effort.seconds_left < pause:
                self._is_down = True  # the next ones try once, until it is there again
                raise Unreachable
            await asyncio.sleep(pause)
        raise AssertionError("repeat() never ends")

    async def _try(self, payload: str, effort: Effort) -> list[dict[str, Any]]:
        try:
            connection = await self._connected()
        except Exception as error:
            raise Lost(error) from error
        before, effort.unknown = effort.unknown, True  # also if this is cancelled from here on
        try:
            answer = await self._fetch(connection, payload, effort)
        except asyncpg.PostgresError as error:
            if not is_lost(error):
                effort.unknown = before
                raise
            if not leaves_open(error):
                effort.unknown = before
            raise Lost(error) from error
        except Exception as error:
            raise Lost(error) from error
        effort.unknown = before
        return list(orjson.loads(answer))

    async def _connected(self) -> asyncpg.Connection:
        if self._connection is None or self._connection.is_closed():
            self._connection = None
            connection = await connect(self._url, self._settings)
            try:
                await self._end_left(connection)
                self._backend = await self._backend_of(connection)
            except BaseException:
                connection.terminate()
                raise
            self._connection = connection
            self._is_down = False
        return self._connection

    async def _end_left(self, connection: asyncpg.Connection) -> None:
        """What may still be at work on the lost connection ends, and with it its locks.

        Otherwise the first sending could happen after the second one, when what the second one was
        refused has been told.
        """
        if self._left:
            await connection.execute(END, *self._left)
            self._left = None

    async def _backend_of(self, connection: asyncpg.Connection) -> tuple[Any, ...] | None:
        """None behind a pooler: there a backend is everybody's."""
        if self._settings.database_unnamed_statements:
            return None
        row = await connection.fetchrow(WHO)
        return tuple(row) if row and row["pid"] == connection.get_server_pid() else None

    async def _fetch(self, connection: asyncpg.Connection, payload: str, effort: Effort) -> Any:
        seconds = max(effort.seconds_left, 1)
        if not self._settings.database_unnamed_statements:
            return await connection.fetchval(POST, payload, timeout=seconds)
        # Through an old PgBouncer each message may reach another server: only a transaction holds.
        async with connection.transaction():
            return await connection.fetchval(POST, payload, timeout=seconds)

    def _abandon(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection, self._left, self._backend = None, self._backend, None

    async def close(self, seconds: float) -> None:
        if self._connection is not None:
            with suppress(Exception):
                await self._connection.close(timeout=seconds)
            self._connection = None
