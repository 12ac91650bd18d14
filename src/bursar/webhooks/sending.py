"""One request to one endpoint: never to an address that is not allowed, never longer than 15 s.

No redirect is followed, no proxy asked, no cookie kept. Every socket is made by `open_socket`, for
the very address that it is then connected to: a name that answers otherwise the second time, or a
literal address that no resolver is asked for, comes by there as well.
"""

import asyncio
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from ipaddress import ip_address
from typing import Any, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

import bursar
from bursar.core.errors import BursarError
from bursar.webhooks import addresses
from bursar.webhooks.addresses import PrivateAddress

AT_ONCE = 8  # requests to one endpoint
TIMEOUT = aiohttp.ClientTimeout(total=15)
MOST_READ, MOST_KEPT = 65_536, 2048  # bytes of an answer
LONGEST_WAIT_SECONDS = 86_400  # whatever Retry-After says
HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": f"Bursar/{bursar.__version__}",
    "Accept-Encoding": "identity",
}


class Reason(StrEnum):
    """Why an attempt failed."""

    STATUS = "status"  # it answered, and not with a 2xx
    GONE = "gone"  # 410
    REDIRECTED = "redirected"
    BAD_URL = "bad_url"
    PRIVATE_ADDRESS = "private_address"
    UNRESOLVABLE = "unresolvable"
    UNREACHABLE = "unreachable"
    TLS = "tls"
    TIMED_OUT = "timed_out"
    BAD_ANSWER = "bad_answer"
    SECRET_LOST = "secret_lost"  # noqa: S105 - a word for staff
    SWITCHED_OFF = "switched_off"


DETAILS = {
    Reason.GONE: "It answered 410 Gone: nobody wants to be told there any more.",
    Reason.REDIRECTED: "It answered with a redirect, which is never followed: give its new URL.",
    Reason.PRIVATE_ADDRESS: "The name leads to an address that is not on the public internet.",
    Reason.UNRESOLVABLE: "There is no address behind the name.",
    Reason.UNREACHABLE: "No connection could be made, or it broke.",
    Reason.TLS: "TLS failed: the certificate does not fit the name, or is not trusted.",
    Reason.TIMED_OUT: "There was no answer within 15 seconds.",
    Reason.BAD_ANSWER: "What it answered is not HTTP.",
    Reason.SECRET_LOST: "The secret cannot be read with this BURSAR_SECRET_KEY: rotate it.",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one attempt ended; without a reason it went well."""

    started_at: datetime
    duration_ms: int
    status_code: int | None = None
    reason: Reason | None = None
    detail: str | None = None
    answer: str | None = None
    retry_after_seconds: float = 0

    @classmethod
    def not_sent(cls, reason: Reason) -> "Outcome":
        return cls(datetime.now(UTC), 0, reason=reason, detail=DETAILS[reason])


class Client:
    """Connections to one endpoint, for one turn."""

    def __init__(self, *, allow_private: bool) -> None:
        self.allow_private = allow_private
        self._refused = False

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(
            limit=AT_ONCE, resolver=Lookup(), socket_factory=self.open_socket
        )
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=TIMEOUT,
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.close()

    def open_socket(self, info: Any) -> socket.socket:
        """The only way to a connection, whatever led here."""
        family, kind, protocol, _, place = info
        if not self.allow_private and not addresses.is_public(ip_address(place[0])):
            self._refused = True
            raise OSError("not a public address")
        return socket.socket(family, kind, protocol)

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Outcome:
        """Sends it once; whatever the other side does is an outcome and no error."""
        started_at, begun = datetime.now(UTC), time.monotonic()
        said: dict[str, Any]
        try:
            target = addresses.checked(url, allow_private=self.allow_private)
            async with self._http.post(
                target, data=body, headers={**HEADERS, **headers}, allow_redirects=False
            ) as answer:
                said = await told(answer)
        except BursarError as error:
            private = isinstance(error, PrivateAddress)
            reason = Reason.PRIVATE_ADDRESS if private else Reason.BAD_URL
            said = {"reason": reason, "detail": error.detail}
        except (aiohttp.ClientError, OSError, ValueError) as error:
            reason = Reason.PRIVATE_ADDRESS if self._refused else reason_of(error)
            said = {"reason": reason, "detail": DETAILS[reason]}
        return Outcome(started_at, round((time.monotonic() - begun) * 1000), **said)


def reason_of(error: Exception) -> Reason:
    match error:
        case TimeoutError():
            return Reason.TIMED_OUT
        case aiohttp.ClientConnectorDNSError():
            return Reason.UNRESOLVABLE
        case aiohttp.ClientSSLError():
            return Reason.TLS
        case OSError() | aiohttp.ClientConnectionError():
            return Reason.UNREACHABLE
        case _:
            return Reason.BAD_ANSWER


async def told(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The status decides; what comes behind it is kept for whoever looks into a failure."""
    said = {"status_code": answer.status, "answer": await beginning(answer)}
    if 200 <= answer.status < 300:
        return said
    reason = Reason.STATUS
    if answer.status == 410:
        reason = Reason.GONE
    elif 300 <= answer.status < 400:
        reason = Reason.REDIRECTED
    detail = DETAILS.get(reason, f"It answered {answer.status}; only a 2xx is success.")
    wait = retry_after(answer.headers.get("Retry-After", ""))
    return {**said, "reason": reason, "detail": detail, "retry_after_seconds": wait}


async def beginning(answer: aiohttp.ClientResponse) -> str:
    """The first of the body as text that can be stored; an end that never comes is no failure."""
    content = bytearray()
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        while len(content) < MOST_READ:
            chunk = await answer.content.read(MOST_READ - len(content))
            if not chunk:
                break
            content += chunk
    return content[:MOST_KEPT].decode(errors="replace").replace("\0", "\ufffd")


def retry_after(value: str) -> float:
    """Seconds, or a date of HTTP; 0 for anything else."""
    value = value.strip()
    seconds = 0.0
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    elif value:
        with suppress(ValueError, OverflowError):
            moment = parsedate_to_datetime(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            seconds = (moment - datetime.now(UTC)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS)


LOOKUPS = ThreadPoolExecutor(16, thread_name_prefix="webhook-lookup")


class Lookup(AbstractResolver):
    """The operating system's answer, asked for in threads of its own: a slow name server must not
    take those that the rest of this process works with."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            LOOKUPS, socket.getaddrinfo, host, port, family, socket.SOCK_STREAM
        )
        numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(
                hostname=host,
                host=str(place[0]),
                port=port,
                family=kind,
                proto=proto,
                flags=numeric,
            )
            for kind, _, proto, _, place in found
        ]

    async def close(self) -> None:
        """There is nothing to close: the threads serve every turn."""
