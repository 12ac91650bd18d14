"""What looks like a card number is refused wherever it stands; what has many digits is not."""

from typing import Any
from uuid import UUID

import pytest

from bursar.payments.cards import CardNumber, looks_like_card, refuse_card

CARDS = [
    "4242424242424242",
    "my card is 4242 4242 4242 4242, thanks",
    "4242-4242-4242-4242",
    "4242.4242.4242.4242",
    "4242  4242  4242  4242",
    "4242\u00a04242\u00a04242\u00a04242",
    "378282246310005",
    "3782 822463 10005",
    "6011111111111117",
    "4222222222222",  # an old one of 13 digits
    "6304000000000000000",  # one of 19
]
NO_CARDS = [
    "4242424242424241",
    "424242424242",
    "42424242424242424242424242",
    "1795850491128",  # milliseconds, right by Luhn's rule
    "2026-11-28 07:24:09",
    "DE89 3704 0044 0532 0130 00",
    "invoice 2026-000123",
    "00000000-0000-4000-8000-000000000000",
    "018f0000-0000-7000-8000-000000000018",
]


@pytest.mark.parametrize("text", CARDS)
def test_what_looks_like_a_card_is_one(text: str) -> None:
    assert looks_like_card(text)


@pytest.mark.parametrize("text", NO_CARDS)
def test_what_has_many_digits_is_none(text: str) -> None:
    assert not looks_like_card(text)


def test_no_id_is_ever_taken_for_a_card() -> None:
    """One of some hundred ids has a run of digits that is right by Luhn's rule."""
    ids = [str(UUID(int=number * 7**40 % 2**128)) for number in range(1, 5000)]
    assert not any(looks_like_card(f"order {each}") for each in ids)


@pytest.mark.parametrize(
    "value",
    [
        {"card": 4242424242424242},
        {"a": [{"b": "4242 4242 4242 4242"}]},
        {"4242424242424242": True},
        [["378282246310005"]],
    ],
)
def test_however_deep_it_is_hidden(value: Any) -> None:
    with pytest.raises(CardNumber) as refused:
        refuse_card(value)
    assert "4242" not in str(refused.value)


def test_other_values_stay_as_they_are() -> None:
    value = {"a": 1, "b": [True, None, 2.5], "at": 1795850491128}
    assert refuse_card(value) == value
