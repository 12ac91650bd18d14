"""The line to Bursar: connections that stay open, never too many, each call bounded in time."""

import asyncio
import logging
from typing import Any

import aiohttp
import orjson

from bursar.keys import secret

log = logging.getLogger("bursar.client")

API = "/api/v1"


class Unreachable(Exception):
    """Bursar has not answered, or not as it should."""


class Line:
    """One per middleware; opened by the first call."""

    def __init__(
        self,
        url: str,
        service_key: str,
        *,
        timeout_seconds: float,
        most_at_once: int,
        most_waiting: int,
    ) -> None:
        if not secret.is_sound(service_key):
            raise ValueError("the service key is none of Bursar's: it was mistyped or cut off")
        if timeout_seconds <= 0:
            raise ValueError("timeout_seconds is more than zero")
        self.url = url.rstrip("/").removesuffix(API)
        self._headers = {
            "Authorization": f"Bearer {service_key}",
            "Content-Type": "application/json",
        }
        self._timeout_seconds = timeout_seconds
        self._most_at_once, self._most = most_at_once, most_at_once + most_waiting
        self._at_work = 0
        self._session: aiohttp.ClientSession | None = None

    async def post(self, path: str, content: Any) -> tuple[int, Any]:
        """The status and what was answered; Unreachable where nobody has, or too many wait."""
        if self._at_work >= self._most:
            raise Unreachable("too many calls wait for Bursar")
        self._at_work += 1
        try:
            async with asyncio.timeout(self._timeout_seconds):  # both tries together
                return await self._insist(path, orjson.dumps(content))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise Unreachable(type(error).__name__) from error
        finally:
            self._at_work -= 1

    async def _insist(self, path: str, body: bytes) -> tuple[int, Any]:
        """A kept connection may just have been closed, or the answer was lost; what is sent has an
        id and counts once."""
        try:
            return await self._send(path, body)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientPayloadError):
            return await self._send(path, body)

    async def _send(self, path: str, body: bytes) -> tuple[int, Any]:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._most_at_once)
            without_end = aiohttp.ClientTimeout(total=None)  # `post` bounds it
            self._session = aiohttp.ClientSession(connector=connector, timeout=without_end)
        async with self._session.post(
            f"{self.url}{API}{path}", data=body, headers=self._headers, allow_redirects=False
        ) as answer:
            return answer.status, orjson.loads(await answer.read())

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
            await asyncio.sleep(0)  # transports are closed in the loop's next turn
