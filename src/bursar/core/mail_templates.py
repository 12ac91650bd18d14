"""Renders a mail: all its parts or an error, one line of subject, nothing in it that can act.

A mail is two files of core/templates: `NAME.txt` has the blocks `subject` and `body` and extends
base.txt; `NAME.html` has the block `body` and extends base.html. The first line of the text file
says which variables it needs; `company` is one of every mail's.
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

LONGEST_SUBJECT = 150
LONGEST_NAME = 80
STEERING = re.compile("[\\u202a-\\u202e\\u2066-\\u2069\\u2028\\u2029]")
UNSEEN = ("Cc", "Cs")
LIKE_AN_ADDRESS = re.compile(r"://|www\.|@|\w\.\w{2,}", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Content:
    """What a mail says."""

    subject: str
    text: str
    html: str


def render(template: str, context: dict[str, Any]) -> Content:
    """A variable that is missing is an error, never an empty place in somebody's mail."""
    context = {key: one_line(v) if isinstance(v, str) else v for key, v in context.items()}
    in_text = environment().get_template(f"{template}.txt")
    in_html = environment().get_template(f"{template}.html")
    block = in_text.blocks["subject"]
    subject = one_line("".join(block(in_text.new_context(context))))[:LONGEST_SUBJECT]
    return Content(
        subject=subject,
        text=in_text.render(context).strip() + "\n",
        html=in_html.render({**context, "subject": subject}).strip() + "\n",
    )


@cache
def environment() -> Environment:
    made = Environment(
        loader=PackageLoader("bursar.core", "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters |= {"greeting": greeting, "counted": counted, "lasting": lasting}
    return made


def greeting(name: str) -> str:
    """Whoever signs up with a stranger's address chooses the name: a web address in it would make
    our mail carry theirs, so such a name is left out."""
    if not name or len(name) > LONGEST_NAME or LIKE_AN_ADDRESS.search(name):
        return "Hello,"
    return f"Hello {name},"


def counted(number: int, unit: str) -> str:
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def lasting(hours: int) -> str:
    whole_days = hours % 24 == 0 and hours > 24
    return counted(hours // 24, "day") if whole_days else counted(hours, "hour")


def one_line(text: str) -> str:
    """Without what ends a header, steers a terminal or turns the direction of writing."""
    kept = (one for one in " ".join(text.split()) if unicodedata.category(one) not in UNSEEN)
    return " ".join(STEERING.sub("", "".join(kept)).split())
