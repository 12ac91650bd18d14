"""How commands speak: answers on stdout, the rest on stderr, questions only to people."""

import sys
from typing import Any

import orjson

from bursar.core.errors import BursarError


def say(text: str) -> None:
    """For the person who watches."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def answer(text: str) -> None:
    """What the command was asked for."""
    sys.stdout.write(f"{text}\n")


def answer_json(value: Any) -> None:
    answer(orjson.dumps(value, default=str, option=orjson.OPT_INDENT_2).decode())


class NeedsYes(BursarError, status=400, code="cli.needs_yes", exit_code=2):
    """A command that destroys something was run without a terminal and without --yes."""


class Declined(BursarError, status=400, code="cli.declined", exit_code=1):
    """The question was answered with no; nothing was done."""


def confirm(question: str, *, yes: bool) -> None:
    """Goes on only after a yes, from the person or from the command line."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise NeedsYes(f"{question} There is nobody to ask here; add --yes to go on.")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Declined("Nothing was done.")
