"""Bodies of many items: each is taken or refused by itself, whatever is wrong with it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError, WrapValidator

from bursar.core import api_keys
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.problems import from_validation, of_body
from bursar.core.wire import UNSTORABLE, storable

Item = TypeVar("Item")
LONGEST = 300  # of what is repeated of an item in an answer


@dataclass(frozen=True, slots=True)
class Misfit:
    """An item that is none: it is refused alone, under the name that it has itself."""

    name: str | None
    error: InvalidInput


def or_misfit(*names: str) -> WrapValidator:
    """For the items of a list; `names` are the fields that one may be named by."""

    def read_one(value: Any, read: Callable[[Any], Any]) -> Any:
        was_read = isinstance(value, BaseModel | Misfit)
        return value if was_read else item_of(value, read, *names)

    return WrapValidator(read_one)


def item_of(value: Any, read: Callable[[Any], Item], *names: str) -> Item | Misfit:
    """The item, or all that is wrong with it."""
    if not storable(value):
        place = ("body", *place_in(value))
        error = from_validation([{"loc": place, "msg": UNSTORABLE, "type": "unstorable"}])
        return Misfit(name_of(value, *names), error)
    try:
        return read(value)
    except ValidationError as error:
        return Misfit(name_of(value, *names), of_body(error))


def place_in(item: Any) -> tuple[str, ...]:
    """The field, or the field of a field, that cannot be stored; none, where its name cannot."""
    path: tuple[str, ...] = ()
    while isinstance(item, dict) and len(path) < 2 and all(map(storable, item)):
        name, item = next(field for field in item.items() if not storable(field[1]))
        path = (*path, name[:LONGEST])
    return path


def refused(error: BursarError) -> dict[str, Any]:
    """What an answer of many says of one; `status_code` is what it would have been told alone."""
    said = {"status": "refused", "status_code": error.status}
    said |= {"code": error.code, "detail": error.detail}
    return {**said, "errors": error.errors} if error.errors else said


def name_of(item: Any, *names: str) -> str | None:
    """By the first of these fields that is a text, as far as an answer can repeat it."""
    said = [item.get(name) for name in names] if isinstance(item, dict) else []
    texts = (each for each in said if isinstance(each, str) and each and storable(each))
    return next((api_keys.masked(text)[:LONGEST] for text in texts), None)
