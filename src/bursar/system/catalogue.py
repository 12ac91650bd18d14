"""Every setting that staff may change: its type, its default, its limits, declared once.

A domain declares its settings where it uses them:

    CACHE_TTL_SECONDS = setting("cache_ttl_seconds", int, 300, "How long …", ge=0, le=86_400)

and reads one with `await system.value(db, CACHE_TTL_SECONDS)`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from bursar.core.errors import BursarError

T = TypeVar("T")


@dataclass(frozen=True)
class Setting(Generic[T]):
    """What may be set, and what holds until it is."""

    key: str
    kind: type[T]
    default: T
    description: str
    limits: dict[str, Any] = field(default_factory=dict)
    check: Callable[[T], T] | None = None
    """What no limit can say; it raises a ValueError that goes on from the setting's name."""

    @cached_property
    def adapter(self) -> TypeAdapter[T]:
        kind: Any = Annotated[self.kind, Field(strict=True, **self.limits)]
        return TypeAdapter(Annotated[kind, AfterValidator(self.check)] if self.check else kind)

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The type and limits in JSON Schema, for forms and clients."""
        schema = self.adapter.json_schema()
        if self.kind is Decimal:  # pydantic would take its digits as a text too; parse() does not
            return next(each for each in schema["anyOf"] if each["type"] == "number")
        return schema

    def parse(self, value: Any, *, pointer: str | None = None) -> T:
        """The value in its type, or BadValue; JSON has one kind of number, and 600.0 is whole."""
        if self.kind is int and isinstance(value, Decimal) and value == value.to_integral_value():
            value = int(value)
        if self.kind is Decimal and isinstance(value, int) and not isinstance(value, bool):
            value = Decimal(value)
        try:
            return self.adapter.validate_python(value)
        except ValidationError as error:
            raise BadValue.of(
                self.key, error.errors()[0]["msg"], pointer or f"/{self.key}"
            ) from None


FRAME = re.compile(r"^(Input|Value error,) ")


class BadValue(BursarError, status=422, code="system.bad_value"):
    """The value has the wrong type or lies outside the limits of its setting."""

    @classmethod
    def of(cls, key: str, message: str, pointer: str) -> "BadValue":
        detail = f"{key} {FRAME.sub('', message).rstrip('.')}."
        return cls(detail, errors=[{"pointer": pointer, "detail": detail, "code": "bad_value"}])


CATALOGUE: dict[str, Setting[Any]] = {}


def setting(
    key: str,
    kind: type[T],
    default: T,
    description: str,
    *,
    check: Callable[[T], T] | None = None,
    **limits: Any,
) -> Setting[T]:
    """Declares a setting; two with one key are a mistake in the code."""
    if key in CATALOGUE:
        raise TypeError(f"the setting {key} is declared twice")
    declared = Setting(key, kind, default, description, limits, check)
    declared.parse(default)
    CATALOGUE[key] = declared
    return declared


COMPANY_NAME = setting(
    "company_name",
    str,
    "Bursar",
    "The name on pages, receipts and mails.",
    min_length=1,
    max_length=100,
)
SUPPORT_EMAIL = setting(
    "support_email",
    str,
    "support@example.com",
    "Where customers are told to write.",
    max_length=254,
    pattern=r"^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\.[A-Za-z]{2,}$",
)
CACHE_TTL_SECONDS = setting(
    "cache_ttl_seconds", int, 300, "How long figures on the dashboard may be old.", ge=0, le=86_400
)
IDEMPOTENCY_KEYS_DAYS = setting(
    "idempotency_keys_days",
    int,
    30,
    "How long the answer to an Idempotency-Key is kept.",
    ge=1,
    le=3650,
)
