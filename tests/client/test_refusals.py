"""Each refusal is told in the words of one table, and its type leads to an entry that says them."""

import re
from html import escape
from pathlib import Path
from typing import Any, get_args

import pytest

from bursar import pages
from bursar.client import refusals
from bursar.client.refusals import NO_KEY, REFUSALS, UNREACHABLE
from bursar.core.errors import BursarError
from bursar.metering.schemas import Code

TOLD = [*REFUSALS.values(), NO_KEY, UNREACHABLE]
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"
RATE = {"policy": "second", "limit": 5, "window_seconds": 1, "remaining": 0, "reset_seconds": 1}


def verdict(code: str, **more: Any) -> dict[str, Any]:
    return {"code": code, "retry_after_seconds": None, "rate": RATE, **more}


def test_whatever_bursar_may_say_of_a_key_has_words() -> None:
    """But for a conflict of ids: the middleware makes a new one for each call."""
    assert REFUSALS.keys() == set(get_args(Code)) - {"VALID", "EVENT_CONFLICT"}


@pytest.mark.parametrize("told", TOLD, ids=[code for _, code, _ in TOLD])
async def test_the_type_of_each_refusal_leads_to_an_entry(told: tuple[int, str, str]) -> None:
    status, code, sentence = told
    served = bytes((await pages.errors()).body).decode()
    [entry] = re.findall(rf'<tr id="{re.escape(code)}">.*?</tr>', served)
    assert f"<td>{status}</td>" in entry
    if code not in BursarError.registry:
        assert escape(sentence) in entry
    assert f"| {status} | `{code}` | {sentence} |" in PAGE.read_text().replace("\\<", "<")


@pytest.mark.parametrize("code", REFUSALS)
def test_only_what_may_be_asked_again_says_when(code: str) -> None:
    refused = refusals.of_verdict(verdict(code, retry_after_seconds=7), "usage:read")
    status, told, _ = REFUSALS[code]
    assert (refused.status, refused.code) == (status, told)
    assert ("WWW-Authenticate" in refused.headers) == (status == 401)
    if status == 429:
        assert refused.headers["Retry-After"] == "7"
        assert refused.headers["RateLimit"] == '"second";r=0;t=1'
    else:
        assert refused.headers.keys() <= {"WWW-Authenticate"}


def test_what_a_sentence_is_told_is_only_ever_put_into_it() -> None:
    needed = "{seconds}{0}{needed.__class__}"
    refused = refusals.of_verdict(verdict("MISSING_SCOPE"), needed)
    assert refused.detail == f"This API key needs the scope {needed}."
    soon = refusals.of_verdict(verdict("RATE_LIMITED"), None)
    assert soon.detail == "Too many calls; try again in 1 s."


@pytest.mark.parametrize("code", ["EVENT_CONFLICT", "OF_A_LATER_RELEASE"])
def test_a_verdict_that_is_not_known_is_told_as_an_outage(code: str) -> None:
    refused = refusals.of_verdict(verdict(code), None)
    assert (refused.status, refused.code) == (503, "keys.unreachable")
    assert refused.headers == {"Retry-After": "1"}
