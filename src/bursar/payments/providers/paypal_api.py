"""PayPal's REST API over aiohttp: an answer, what it refuses, or that nobody knows.

The token is kept until shortly before it expires. Nothing is retried here, no redirect followed.
"""

import ssl
import time
from collections.abc import Mapping
from typing import Any

import aiohttp
import orjson

from bursar.core import exact
from bursar.payments.providers import Unknown

TIMEOUT = aiohttp.ClientTimeout(total=20, connect=5)
MOST_BYTES = 4 * 1024 * 1024
EARLY_SECONDS = 60  # before a token expires another one is fetched
OPEN = (401, 403, 408, 409, 429)  # the call may yet succeed, by the same key


class Refused(Exception):
    """PayPal says no, for good; `issue` is its name for why."""

    def __init__(self, status: int, issue: str, description: str) -> None:
        super().__init__(f"{status} {issue}")
        self.status, self.issue, self.description = status, issue, description


class Api:
    """The calls of one app at PayPal, over connections that are kept."""

    def __init__(self, base: str, client_id: str, secret: str) -> None:
        self.base = base
        self._login = aiohttp.encode_basic_auth(client_id, secret)
        self._tls = ssl.create_default_context()
        self._session: aiohttp.ClientSession | None = None
        self._token, self._until = "", 0.0

    async def get(self, path: str, **query: str) -> dict[str, Any]:
        return await self._call("GET", path, params=query)

    async def report(self, path: str, **query: str) -> dict[str, Any]:
        """Likewise; that an app may not see it is no passing trouble."""
        still_open = tuple(status for status in OPEN if status != 403)
        return await self._call("GET", path, still_open, params=query)

    async def post(self, path: str, key: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Done once for its key, as long as PayPal keeps that."""
        headers = {"PayPal-Request-Id": key, "Prefer": "return=representation"}
        return await self._call("POST", path, data=exact.dumps(body), headers=headers)

    async def _call(
        self,
        method: str,
        path: str,
        still_open: tuple[int, ...] = OPEN,
        *,
        headers: Mapping[str, str] | None = None,
        **given: Any,
    ) -> dict[str, Any]:
        token = await self._signed_in()
        said = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        status, answer = await self._ask(method, path, headers={**said, **(headers or {})}, **given)
        if status == 401:  # taken back before its time: the next call fetches another
            self._token = ""
        if status in still_open or status >= 500 or (status < 300 and not answer):
            raise Unknown(f"PayPal answers {status} {issue_of(answer)[0]}")
        if status >= 300:
            raise Refused(status, *issue_of(answer))
        return answer

    async def _signed_in(self) -> str:
        if not self._token or time.monotonic() > self._until:
            status, answer = await self._ask(
                "POST",
                "/v1/oauth2/token",
                data={"grant_type": "client_credentials"},
                headers={"Authorization": self._login},
            )
            if status != 200 or not isinstance(answer.get("access_token"), str):
                raise Unknown(f"PayPal answers {status} to our client id and secret")
            self._token = answer["access_token"]
            lifetime = float(answer.get("expires_in") or 0)
            self._until = time.monotonic() + lifetime - EARLY_SECONDS
        return self._token

    async def _ask(self, method: str, path: str, **given: Any) -> tuple[int, dict[str, Any]]:
        try:
            status, content = await self.fetch(method, f"{self.base}{path}", **given)
            answer = orjson.loads(content) if content else {}
        except (aiohttp.ClientError, OSError, ValueError) as error:  # a time-out is an OSError
            raise Unknown(type(error).__name__) from error
        return status, answer if isinstance(answer, dict) else {}

    async def fetch(self, method: str, url: str, **given: Any) -> tuple[int, bytes]:
        """Status and content, up to a limit."""
        if self._session is None or self._session.closed:
            self._session = aiohttp.ClientSession(
                timeout=TIMEOUT,
                cookie_jar=aiohttp.DummyCookieJar(),
                connector=aiohttp.TCPConnector(ssl=self._tls),
            )
        async with self._session.request(method, url, allow_redirects=False, **given) as answer:
            content = await answer.content.read(MOST_BYTES + 1)
            while not answer.content.at_eof() and len(content) <= MOST_BYTES:
                content += await answer.content.read(MOST_BYTES)
            if len(content) > MOST_BYTES:
                raise ValueError("an answer too long")
            return answer.status, content

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


def issue_of(answer: Mapping[str, Any]) -> tuple[str, str]:
    """PayPal's name for what is wrong, and its sentence about it."""
    details = answer.get("details")
    first = details[0] if isinstance(details, list) and details else {}
    first = first if isinstance(first, Mapping) else {}
    issue = first.get("issue") or answer.get("name") or "ERROR"
    said = first.get("description") or answer.get("message") or "PayPal refuses this."
    return str(issue)[:100], str(said)[:500]
