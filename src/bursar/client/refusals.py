"""Why a call goes no further, told as Bursar itself tells it: an RFC 9457 problem document."""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any
from uuid import uuid4

import orjson

from bursar.client.callers import Connection
from bursar.core.rates import rate_headers

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{8,64}")
POLICY_VIOLATION = 1008  # how a WebSocket is closed
CHALLENGE = 'Bearer error="invalid_token"'

# What Bursar says of a key: the status, the code and the sentence of the answer. The errors page is
# written from this, too (docs/write_reference.py, pages.py).
REFUSALS = {
    "UNKNOWN": (401, "auth.bad_token", "This API key is unknown."),
    "REVOKED": (401, "auth.bad_token", "This API key was revoked."),
    "EXPIRED": (401, "auth.bad_token", "This API key has expired."),
    "DISABLED_OWNER": (401, "auth.bad_token", "The account of this API key is not active."),
    "FORBIDDEN_ADDRESS": (403, "keys.forbidden_address", "This API key may not come from here."),
    "MISSING_SCOPE": (403, "auth.missing_scope", "This API key needs the scope {needed}."),
    "PAYMENT_REQUIRED": (
        402, "usage.payment_required", "The account of this API key has usage to pay for first.",
    ),
    "RATE_LIMITED": (429, "usage.too_many_calls", "Too many calls; try again in {seconds} s."),
    "QUOTA_EXCEEDED": (429, "usage.quota_exceeded", "The month's quota is used up."),
}  # fmt: skip
NO_KEY = (
    401, "auth.sign_in_needed", "Show an API key: Authorization: Bearer <key>, or X-API-Key.",
)  # fmt: skip
UNREACHABLE = (503, "keys.unreachable", "Keys cannot be checked now; try again.")


class Refused(Exception):
    """What is answered in place of the application."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str]) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail, self.headers = status, code, detail, headers


def no_key() -> Refused:
    return Refused(*NO_KEY, {"WWW-Authenticate": "Bearer"})


def unknown_key() -> Refused:
    """As Bursar would say, where it need not be asked."""
    return Refused(*REFUSALS["UNKNOWN"], {"WWW-Authenticate": CHALLENGE})


def unreachable() -> Refused:
    return Refused(*UNREACHABLE, {"Retry-After": "1"})


def of_verdict(verdict: dict[str, Any], needed: str | None) -> Refused:
    """What Bursar has said, in an answer's words."""
    if verdict["code"] not in REFUSALS:
        return unreachable()
    status, code, sentence = REFUSALS[verdict["code"]]
    seconds = str(verdict["retry_after_seconds"] or 1)
    headers = {}
    if status == 401:
        headers = {"WWW-Authenticate": CHALLENGE}
    elif status == 429:
        headers = {"Retry-After": seconds, **rate_headers(verdict["rate"])}
    return Refused(status, code, sentence.format(needed=needed, seconds=seconds), headers)


async def answer(
    refused: Refused, scope: Connection, receive: Receive, send: Send, types: str
) -> None:
    """The problem document; of a WebSocket that cannot have one, its end before it was accepted."""
    kind = "http.response"
    if scope["type"] == "websocket":
        await receive()
        if "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})
            return
        kind = "websocket.http.response"
    request_id = sent_id(scope) or uuid4().hex
    body = orjson.dumps(
        {
            "type": f"{types}#{refused.code}",
            "title": HTTPStatus(refused.status).phrase,
            "status": refused.status,
            "detail": refused.detail,
            "code": refused.code,
            "request_id": request_id,
        }
    )
    headers = {
        "content-type": "application/problem+json",
        "content-length": str(len(body)),
        "cache-control": "no-store",
        "x-request-id": request_id,
        **refused.headers,
    }
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{kind}.start", "status": refused.status, "headers": raw})
    await send({"type": f"{kind}.body", "body": body})


def sent_id(scope: Connection) -> str | None:
    """The id that the caller brought, if it is fit for a log."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and REQUEST_ID.fullmatch(value):
            sent: str = value.decode()
            return sent
    return None
