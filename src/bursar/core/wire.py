"""What all bodies share: snake_case for customers, camelCase for staff, either one on input."""

import json
import re
import unicodedata
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    PlainSerializer,
    model_validator,
)
from pydantic.alias_generators import to_camel

from bursar.core import etag, idempotency
from bursar.core.database import Claim, Role
from bursar.core.errors import InvalidInput

JSON = "application/json"


def snake_first(name: str) -> AliasChoices:
    return AliasChoices(name, to_camel(name))


def camel_first(name: str) -> AliasChoices:
    return AliasChoices(to_camel(name), name)


class Wire(BaseModel):
    """A body of the customer API: snake_case out, either case in."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=snake_first),
        validate_by_name=True,
        validate_by_alias=True,
        from_attributes=True,
    )

    @model_validator(mode="before")
    @classmethod
    def refuse_a_number(cls, value: Any) -> Any:
        """A Decimal has attributes too, just none of ours: it would pass for an empty object."""
        if isinstance(value, Decimal):
            raise ValueError("This is a number where an object is wanted.")
        return value


class StaffWire(Wire):
    """A body of the staff API: camelCase out, either case in."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=camel_first, serialization_alias=to_camel),
        serialize_by_alias=True,
    )


def zulu(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


Moment = Annotated[datetime, PlainSerializer(zulu, when_used="json")]
"""A time on the wire: UTC, ISO 8601, with Z."""


TURNS_WRITING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """Trimmed and composed; a line break, a control or a turn of the writing could fake a line."""
    text = unicodedata.normalize("NFC", text).strip()
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in TURNS_WRITING:
            raise ValueError("This has a line break or a control character in it.")
    return text


Line = Annotated[str, AfterValidator(one_line)]
"""Text that people read on one line: a name, a reason."""


class Route(APIRoute):
    """Every route of Bursar: reads JSON exactly, honours Idempotency-Key and If-None-Match."""

    role: Role | None = None  # works as its caller, unless a kind of route says otherwise

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        keeps_key = not getattr(self.endpoint, "own_key", False)

        async def handle(request: Request) -> Response:
            if self.role:
                request.state.claim = Claim(self.role, request.state.claim.subject)
            for guard in request.app.state.guards.get(id(request.scope.get("route")), ()):
                await guard(request)  # before the body is read: who may not ask, costs nothing
            exact = ExactRequest(request.scope, request.receive)
            if request.method == "GET":
                return etag.unless_known(request, await handler(exact))
            if request.method == "POST" and "idempotency-key" in request.headers and keeps_key:
                return await idempotency.once(exact, handler)
            return await handler(exact)

        return handle


class DoorRoute(Route):
    """A route of the door: sign-in and what guards it, which read secrets that no caller may."""

    role = Role.DOOR


class ExactRequest(Request):
    """A request whose JSON numbers stay decimal: no binary float between wire and database."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = exact_json(await self.body())
        return self._json


def exact_json(body: bytes) -> Any:
    try:
        text = body.decode()
        value = json.loads(text, parse_float=finite, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput.at(
            "", f"The body is not JSON in UTF-8{place}.", "json_invalid"
        ) from None
    if "\\u" in text and not storable(value):
        raise InvalidInput.at("", "The body holds a NUL or half a character.", "string_unstorable")
    return value


NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def storable(value: Any) -> bool:
    """PostgreSQL keeps every character but NUL, and no half of one (a lone surrogate)."""
    try:
        text = json.dumps(value, default=str, ensure_ascii=False)
        text.encode()
    except UnicodeEncodeError:
        return False
    return not NUL.search(text)


def finite(text: str) -> Decimal:
    number = Decimal(text)
    if abs(number.adjusted()) > 400:  # 1e999999999 would fill the memory once it is written out
        raise ValueError("number out of range")
    return number


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")
