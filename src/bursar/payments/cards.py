"""A card's number never gets in: what looks like one is refused at the edge, and not repeated."""

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from bursar.core.errors import BursarError
from bursar.core.wire import Line

RUN = re.compile(r"(?<![0-9])[0-9](?:[ \-.]?[0-9]){12,18}(?![0-9])")


class CardNumber(BursarError, status=422, code="payments.card_number"):
    """This looks like the number of a card. Bursar never takes one: pay on the provider's page."""


def looks_like_card(text: str) -> bool:
    """13 to 19 digits whose last one is right by Luhn's rule, however they are grouped."""
    return any(is_luhn(re.sub(r"[^0-9]", "", run)) for run in RUN.findall(text))


def is_luhn(number: str) -> bool:
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def refuse_card(value: Any) -> Any:
    """Of a text, or of all texts in what is nested."""
    if isinstance(value, str):
        if looks_like_card(value):
            raise CardNumber(
                "This looks like the number of a card, which is never taken here: pay on the"
                " provider's page."
            )
    elif isinstance(value, dict):
        for key, each in value.items():
            refuse_card(str(key))
            refuse_card(each)
    elif isinstance(value, list | tuple):
        for each in value:
            refuse_card(each)
    return value


CardFree = Annotated[Line, AfterValidator(refuse_card)]
"""A line of text without a card's number in it."""
