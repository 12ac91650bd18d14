"""JSON whose numbers keep every digit: a Decimal goes out as a number and comes back as one."""

import json
from decimal import Decimal
from typing import Any

import orjson


def dumps(value: Any) -> str:
    return orjson.dumps(value, default=as_number).decode()


def as_number(value: Any) -> Any:
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f"))
    raise TypeError(f"{type(value).__name__} is not for JSON")


def loads(text: str | bytes) -> Any:
    """The standard reader: orjson would make binary floats, also of large whole numbers."""
    return json.loads(text, parse_float=Decimal)
