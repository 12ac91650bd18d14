"""What all bodies share: snake_case for customers, camelCase for staff, either one on input.

Numbers are exact both ways: a Decimal comes in as a number and goes out as one, with its digits.
"""

import json
import re
import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from functools import wraps
from typing import Annotated, Any, ClassVar

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import (
    AfterValidator,
    AliasChoices,
    AliasGenerator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    PlainSerializer,
    TypeAdapter,
    WithJsonSchema,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import to_jsonable_python

from bursar.core import api_keys, etag, idempotency
from bursar.core.database import Claim, Role
from bursar.core.errors import InvalidInput
from bursar.core.exact import as_number

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


class Batch:
    """Marks a body whose items are each refused alone: whoever reads them (core/batch.py) looks in
    each for what cannot be stored."""

    most_items: ClassVar[int]

    @classmethod
    def framed(cls, value: Any, _: Sequence[tuple[bytes, bytes]]) -> Any:
        """The body, with what its request says of it in headers."""
        return value


Moment = Annotated[datetime, PlainSerializer(zulu, when_used="json")]
"""A time on the wire: UTC, ISO 8601, with Z."""


def begins_with_date(value: Any) -> Any:
    """pydantic would take a bare number for seconds since 1970."""
    if isinstance(value, date) or (isinstance(value, str) and DATE.match(value)):
        return value
    raise ValueError("a time begins with its date, as in 2026-11-21T08:00:00Z")


def in_utc(moment: datetime) -> datetime:
    """A time without a zone, or a day, is one in UTC."""
    try:
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("a time lies within the years 1 to 9999 in UTC") from None


DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
Time = Annotated[datetime, BeforeValidator(begins_with_date), AfterValidator(in_utc)]
"""A time that somebody says, in a body or in a query."""

Day = Annotated[date, BeforeValidator(begins_with_date)]
"""The same, a day."""


def whole(value: Any) -> Any:
    """JSON has one kind of number, and 600.0 is a whole one."""
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)
    return value


WHOLE = BeforeValidator(whole)
"""Goes with a strict int, after its limits: a whole number in a body; true and "7" are none."""

Money = Annotated[Decimal, WithJsonSchema({"type": "number"}, mode="serialization")]
"""An exact amount in an answer."""


def answer(
    content: BaseModel | dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """For routes that make their answer themselves: those that are hot, or answer once more."""
    value = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    return Response(as_json(value), status, headers, JSON)


def as_json(value: Any) -> bytes:
    return orjson.dumps(value, default=plain, option=orjson.OPT_PASSTHROUGH_DATETIME)


def plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return zulu(value)
    if isinstance(value, Decimal):
        return as_number(value)
    return to_jsonable_python(value)  # an id of the driver's own kind, an address, …


TURNS_WRITING = set("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def one_line(text: str) -> str:
    """Trimmed and composed; a line break, a control or a turn of the writing could fake a line,
    and what people have written is kept, which a key never is."""
    text = unicodedata.normalize("NFC", text).strip()
    for character in text:
        if unicodedata.category(character) in ("Cc", "Zl", "Zp") or character in TURNS_WRITING:
            raise ValueError("This has a line break or a control character in it.")
    return api_keys.refuse(text)


Line = Annotated[str, AfterValidator(one_line)]
"""Text that people read on one line: a name, a reason."""


class Route(APIRoute):
    """Every route of Bursar: JSON exact both ways, Idempotency-Key and If-None-Match honoured."""

    role: Role | None = None  # works as its caller, unless a kind of route says otherwise

    def __init__(self, path: str, endpoint: Callable[..., Any], **about: Any) -> None:
        is_hot = getattr(endpoint, "hot", False)
        super().__init__(path, endpoint if is_hot else self.exactly(endpoint), **about)
        self.answers: TypeAdapter[Any] = TypeAdapter(self.response_model)
        models = [param.field_info.annotation for param in self.dependant.body_params]
        self.by_item = any(isinstance(each, type) and issubclass(each, Batch) for each in models)

    def exactly(self, endpoint: Callable[..., Any]) -> Callable[..., Any]:
        """Answers what the endpoint returns; FastAPI itself would make a text of each Decimal."""

        @wraps(endpoint)
        async def call(**arguments: Any) -> Any:
            found = await endpoint(**arguments)
            if isinstance(found, Response) or self.response_model is None:
                return found
            said = next((a for a in arguments.values() if isinstance(a, Response)), None)
            content = self.answers.validate_python(found, from_attributes=True)
            response = Response(
                as_json(self.answers.dump_python(content, by_alias=True)),
                (said and said.status_code) or self.status_code or 200,
                media_type=JSON,
            )
            response.headers.raw.extend(said.headers.raw if said else ())
            return response

        return call

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        keeps_key = not getattr(self.endpoint, "own_key", False)

        async def handle(request: Request) -> Response:
            if self.role:
                request.state.claim = Claim(self.role, request.state.claim.subject)
            for guard in request.app.state.guards.get(id(request.scope.get("route")), ()):
                await guard(request)  # before the body is read: who may not ask, costs nothing
            exact = ExactRequest(request.scope, request.receive)
            exact.by_item = self.by_item
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

    by_item = False

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = exact_json(await self.body(), by_item=self.by_item)
        return self._json


def exact_json(body: bytes, *, by_item: bool = False) -> Any:
    """`by_item`: who reads the items looks in each of them for what cannot be stored."""
    try:
        text = body.decode()
        value = decoded(text, by_item=by_item)
    except (ValueError, RecursionError) as error:
        place = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput.at(
            "", f"The body is not JSON in UTF-8{place}.", "json_invalid"
        ) from None
    if "\\u" in text and not by_item and not storable(value):
        raise InvalidInput.at("", UNSTORABLE, "unstorable")
    return value


def decoded(text: str, *, by_item: bool) -> Any:
    try:
        return EXACT.decode(text)
    except json.JSONDecodeError:
        raise
    except ValueError:
        if not by_item:
            raise
    return FORGIVING.decode(text)  # slower, so only where a number was none that can be read


UNSTORABLE = "This holds a NUL, half a character or an endless number, which cannot be stored."


def storable(value: Any) -> bool:
    """PostgreSQL keeps every character but NUL, and no half of one (a lone surrogate)."""
    try:
        if b"\\u0000" not in orjson.dumps(value, default=str):
            return True  # as almost always, at the speed of C
    except TypeError:
        pass  # half a character, or a number or a depth that orjson does not write
    waiting = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and BAD_CHARACTER.search(part):
            return False
    return True


BAD_CHARACTER = re.compile(r"[\0\ud800-\udfff]")


def finite(text: str) -> Decimal:
    try:
        number = Decimal(text)
    except InvalidOperation:  # its exponent is no number of 64 bits
        raise ValueError("number out of range") from None
    if abs(number.adjusted()) > 400:  # 1e999999999 would fill the memory once it is written out
        raise ValueError("number out of range")
    return number


def or_unstorable(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """So that an item with such a number is found by the same look as one with a NUL."""

    def read_one(text: str) -> Any:
        try:
            return read(text)
        except ValueError:
            return "\0"

    return read_one


def refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


EXACT = json.JSONDecoder(parse_float=finite, parse_constant=refuse)  # made once: half of the work
FORGIVING = json.JSONDecoder(
    parse_float=or_unstorable(finite), parse_int=or_unstorable(int), parse_constant=refuse
)
