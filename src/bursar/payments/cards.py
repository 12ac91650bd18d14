"""A card's number never gets in: what looks like one is refused at the edge, and not repeated."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator

from bursar.core.errors import BursarError
from bursar.core.wire import Line

RUN = re.compile(r"(?<![0-9])[0-9](?:[ \-.\u00a0\u2009\u202f]{0,3}[0-9]){12,18}(?![0-9])")
UUIDS = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", re.IGNORECASE)


class CardNumber(BursarError, status=422, code="payments.card_number"):
    """This looks like the number of a card. Bursar never takes one: pay on the provider's page."""


def looks_like_card(text: str) -> bool:
    """13 to 19 digits whose last one is right by Luhn's rule, however they are grouped."""
    runs = RUN.findall(UUIDS.sub("", text))
    return any(is_card(re.sub(r"[^0-9]", "", run)) for run in runs)


def is_card(number: str) -> bool:
    """Of 13 digits there are only old ones that begin with a 4; others are milliseconds."""
    if len(number) == 13 and number[0] != "4":
        return False
    total = 0
    for place, digit in enumerate(reversed(number)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def refuse_card(value: Any) -> Any:
    """Of a text or a number, or of all of them in what is nested."""
    if isinstance(value, str | int | float | Decimal):
        if looks_like_card(str(value)):
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
