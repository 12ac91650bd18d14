"""Calls of our own routes with a key are limited like those of the business's API.

They cost no quota. Every answer says how far it has come: RateLimit and RateLimit-Policy, as the
IETF draft has them.
"""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bursar.auth.guard import bearer
from bursar.core.errors import BursarError
from bursar.core.problems import answer
from bursar.core.rates import rate_headers
from bursar.keys import secret
from bursar.keys.keyring import bad_key
from bursar.metering.desk import Desk, Question


class TooManyCalls(BursarError, status=429, code="usage.too_many_calls"):
    """This API key, or all keys of its owner together, called more often than they may."""


class Pace:
    """ASGI middleware, inside of Identify: nobody without a key notices it."""

    def __init__(self, app: ASGIApp, desk: Desk) -> None:
        self.app, self.desk = app, desk

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["state"]["actor"].is_paced:
            await self.app(scope, receive, send)
            return
        try:
            headers = await self.admit(scope)
        except BursarError as error:
            response = answer(error, scope["state"].get("request_id") or "")
            await response(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        await self.app(scope, receive, with_headers)

    async def admit(self, scope: Scope) -> list[tuple[bytes, bytes]]:
        digest = secret.digest(bearer(scope) or "")
        verdict = await self.desk.ask(
            Question(digest, address=scope["state"]["origin"].address, counts=False)
        )
        headers = rate_headers(verdict["rate"])
        if verdict["code"] == "RATE_LIMITED":
            seconds = str(verdict["retry_after_seconds"])
            raise TooManyCalls(
                f"Too many calls; try again in {seconds} s.",
                headers={"Retry-After": seconds, **headers},
            )
        if verdict["code"] != "VALID":
            raise bad_key()  # it has ended since this process looked it up
        return [(name.lower().encode(), value.encode()) for name, value in headers.items()]
