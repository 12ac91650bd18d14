"""Hears what the database announces: one connection of this process for any number of channels.

    notices.on("bursar_sessions_ended", endings.heard, look=endings.look)

A notice is a hint and may be missed; the table is the truth. So whoever listens also says how to
`look` there. That is done after each connecting (for what was announced while nobody listened), now
and then as a net, and at every turn while there is no connection to listen on: then it is later by
a second, not by as long as that lasts. Where a pooler stands before the database, listening goes
past it (BURSAR_DATABASE_DIRECT_URL), looking does not.

Whether it hears is proved, not believed: at each beat it announces something to itself, as others
would, over a connection of their kind. Notices arrive in the order of their commits, so with this
echo all that was announced before it has arrived too. Sent over the listening connection it would
prove nothing: a pooler that swallows what comes unasked hands on what comes with an answer.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from random import uniform
from typing import Any

from sqlalchemy.engine import URL, make_url

from bursar.core import failures
from bursar.core.database import DOOR, Database, Role, connect, role_url
from bursar.core.database_errors import DRIVER_ERRORS
from bursar.core.errors import BursarError

log = logging.getLogger(__name__)

TROUBLE = (*DRIVER_ERRORS, BursarError, TimeoutError)  # what a database can do to a listener

ANNOUNCE = "select pg_notify($2, $3)"

Hear = Callable[[str], None]  # given what was announced, at once and in between: it must be quick
Look = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Pace:
    """How often things happen; only tests are in another hurry."""

    look_seconds: float = 30
    beat_seconds: float = 5  # how often it asks itself whether it hears, and waits for the echo
    retry_seconds: float = 0.25  # after an error, doubled up to `rest_seconds`
    rest_seconds: float = 1
    first_seconds: float = 5  # how long a start waits for the first look


@dataclass(slots=True)
class Watch:
    """What one listener wants to hear, and when it looks again by itself."""

    channel: str
    hear: Hear
    look: Look
    due_at: float = 0
    looked: asyncio.Event = field(default_factory=asyncio.Event)


class Notices:
    """Of one process; what is wanted is said with `on` before it starts."""

    def __init__(self, database: Database, pace: Pace | None = None) -> None:
        self.database = database
        self.pace = pace or Pace()
        self.watches: list[Watch] = []
        self._hears_until = 0.0
        self._failed = 0  # in a row

    @property
    def hears(self) -> bool:
        """All that was announced has arrived here, but for what is younger than two beats."""
        return time.monotonic() < self._hears_until

    def on(self, channel: str, hear: Hear, *, look: Look) -> None:
        self.watches.append(Watch(channel, hear, look))

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[None]:
        """Listens while the block runs. It begins after a first look, if there is a database."""
        for watch in self.watches:
            watch.looked = asyncio.Event()
        task = asyncio.create_task(self.run(), name="notices")
        try:
            await self.first_look()
            yield
        finally:
            task.cancel()
            await asyncio.wait([task], timeout=self.pace.beat_seconds)

    async def first_look(self) -> None:
        try:
            async with asyncio.timeout(self.pace.first_seconds):
                for watch in self.watches:
                    await watch.looked.wait()
        except TimeoutError:
            log.warning("notices: the database cannot be looked at yet; starting without")

    async def run(self) -> None:
        """Turn after turn until it is cancelled; no error ends it."""
        while self.watches:
            try:
                await self.listen()
            except Exception as error:
                self._failed += 1
                rest = self.rest()
                if self._failed.bit_count() == 1:  # 1st, 2nd, 4th, 8th: an outage fills no log
                    self.complain("listening", error, f"; again in {rest:.1f} s")
                await self.look_at_all()
                await asyncio.sleep(rest)

    def rest(self) -> float:
        """Spread, so that the processes that lost one database do not come back as one."""
        doubled = self.pace.retry_seconds * 2.0 ** min(self._failed - 1, 20)
        return min(doubled, self.pace.rest_seconds) * uniform(0.75, 1.25)  # noqa: S311 - no secret

    def complain(self, what: str, error: Exception, more: str = "") -> None:
        line = failures.message(error)
        if isinstance(error, TROUBLE):
            log.warning("notices: %s: %s%s", what, line, more)
        else:
            log.error("notices: %s: %s%s\n%s", what, line, more, failures.where(error))

    async def listen(self) -> None:
        """On a connection of its own, until that dies or nothing comes through it."""
        connection = await connect(self.address(), self.database.settings)
        lost = asyncio.Event()
        echo = Echo(self.database)

        def lose(_: Any) -> None:
            self._hears_until = 0
            lost.set()
            echo.came.set()  # in vain: nobody waits for it any longer

        try:
            connection.add_termination_listener(lose)
            async with asyncio.timeout(self.pace.beat_seconds):
                await connection.add_listener(echo.channel, echo.heard)
                for channel in {watch.channel for watch in self.watches}:
                    await connection.add_listener(channel, self.heard)
            await self.look_at_all()
            while not lost.is_set():
                sent_at = time.monotonic()
                came = await echo.come(within_seconds=self.pace.beat_seconds)
                if came and not lost.is_set():
                    self._failed = 0
                    self._hears_until = sent_at + 2 * self.pace.beat_seconds
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.seconds_to_turn()):
                        await lost.wait()
                await connection.execute("select 1", timeout=self.pace.beat_seconds)
                await self.look_where_due()
        finally:
            self._hears_until = 0
            connection.terminate()

    def address(self) -> URL:
        """Any login role may listen; this one sees no row without saying who asks."""
        settings = self.database.settings
        direct = settings.database_direct_url
        url = make_url(direct.get_secret_value()) if direct else self.database.url
        return role_url(url, Role.CUSTOMER, settings)

    def heard(self, _: Any, __: int, channel: str, payload: str) -> None:
        for watch in self.watches:
            if watch.channel == channel:
                try:
                    watch.hear(payload)
                except Exception as error:
                    self.complain(f"a notice of {channel}", error)

    def seconds_to_turn(self) -> float:
        due = min(watch.due_at for watch in self.watches) - time.monotonic()
        return max(0.0, min(due, self.pace.beat_seconds))

    async def look_at_all(self) -> None:
        for watch in self.watches:
            watch.due_at = 0
        await self.look_where_due()

    async def look_where_due(self) -> None:
        """One that fails is repeated soon and keeps nobody else from looking."""
        for watch in self.watches:
            if watch.due_at > time.monotonic():
                continue
            try:
                async with asyncio.timeout(self.pace.look_seconds):
                    await watch.look()
            except Exception as error:
                watch.due_at = time.monotonic() + self.pace.rest_seconds
                if not (self._failed and isinstance(error, TROUBLE)):  # then that is told already
                    self.complain(f"looking after {watch.channel}", error)
            else:
                watch.due_at = time.monotonic() + self.pace.look_seconds
                watch.looked.set()


class Echo:
    """What one listening connection announces to itself, on a channel of its own."""

    def __init__(self, database: Database) -> None:
        self.channel = f"bursar_echo_{secrets.token_hex(8)}"
        self._database = database
        self._waited_for = ""
        self.came = asyncio.Event()

    def heard(self, _: Any, __: int, ___: str, payload: str) -> None:
        if payload == self._waited_for:
            self.came.set()

    async def come(self, *, within_seconds: float) -> bool:
        """Whether what is announced now has come back; an error if it does not come. Where nothing
        can be announced, as while all connections are in use, that says nothing of hearing."""
        self._waited_for = secrets.token_hex(8)
        self.came.clear()
        try:
            async with asyncio.timeout(within_seconds):
                await self._database.fetch_one(DOOR, ANNOUNCE, self.channel, self._waited_for)
        except (BursarError, TimeoutError):
            return False
        try:  # with time of its own: how long a connection was waited for says nothing of hearing
            async with asyncio.timeout(within_seconds):
                await self.came.wait()
        except TimeoutError:
            raise TimeoutError(
                f"nothing was heard of what was announced {within_seconds} s ago; a pooler in "
                "between may swallow notices"
            ) from None
        return True
