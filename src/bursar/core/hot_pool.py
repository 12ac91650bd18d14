"""Connections for hot statements: bounded, taken and put back without a task or a timer.

asyncpg's own pool makes a timer for each acquire and a task for each release, an eighth of a hot
read. This one can be so small because a hot statement leaves nothing behind: a connection on which
anything unclear happened is thrown away.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from bursar.core.database_errors import DatabaseBusy


class HotPool:
    """At most `size` connections; the one used last is used next, the others may rest."""

    def __init__(
        self, connect: Callable[[], Awaitable[Any]], *, size: int, timeout_seconds: float
    ) -> None:
        self._connect = connect
        self._timeout_seconds = timeout_seconds
        self._places = asyncio.Semaphore(size)
        self._size = size
        self._idle: list[Any] = []

    async def take(self) -> Any:
        """A connection, or DatabaseBusy where none comes free in time."""
        await self._take_place()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
        try:
            return await self._connect()
        except BaseException:
            self._places.release()
            raise

    async def _take_place(self) -> None:
        if not self._places.locked():
            await self._places.acquire()
            return
        try:
            async with asyncio.timeout(self._timeout_seconds):
                await self._places.acquire()
        except TimeoutError:
            raise DatabaseBusy.now() from None

    def discard(self, connection: Any) -> None:
        """Before it is put back: nobody may use it again. The server notices by itself."""
        connection.terminate()

    def put_back(self, connection: Any) -> None:
        if not connection.is_closed():
            self._idle.append(connection)
        self._places.release()

    async def close(self) -> None:
        """Waits for the statements at work, then closes everything."""
        for _ in range(self._size):
            await self._places.acquire()
        for connection in self._idle:
            await connection.close()
        self._idle.clear()
        for _ in range(self._size):
            self._places.release()
