"""Bank statements as files, CSV or camt.053: exact amounts, or an error that says why.

Nothing is guessed where money is meant: a file whose days or currency could be read in two ways is
refused until somebody says which. Hostile XML (a document type, entities, references to the
outside) is refused before any of it is read.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from hashlib import sha256
from typing import Literal

from bursar.core.errors import BursarError

MAX_BYTES = 16 * 1024 * 1024
MAX_LINES = 50_000
MOST_TOLD = 20

Format = Literal["csv", "camt.053"]
Dates = Literal["dmy", "mdy"]


@dataclass(frozen=True, slots=True)
class Line:
    """What a bank says of one movement; below zero it went out."""

    booked_on: date
    amount: Decimal
    currency: str
    name: str | None = None
    reference: str | None = None
    bank_reference: str | None = None
    account: str | None = None

    def content(self) -> bytes:
        parts = (
            self.account, self.booked_on.isoformat(), format(self.amount.normalize(), "f"),
            self.currency, self.name, self.reference, self.bank_reference,
        )  # fmt: skip
        return "\x1f".join(part or "" for part in parts).encode()


@dataclass(frozen=True, slots=True)
class Hints:
    """What a file does not say itself."""

    currency: str | None = None
    dates: Dates | None = None


class BadStatement(BursarError, status=422, code="payments.bad_statement"):
    """This is no bank statement that can be read, or it can be read in two ways; the sentence says
    where and what to do."""


def refuse(*reasons: str) -> BadStatement:
    told = list(reasons[:MOST_TOLD])
    if len(reasons) > MOST_TOLD:
        told.append(f"and {len(reasons) - MOST_TOLD} more lines")
    return BadStatement("; ".join(told) + ".")


def too_many_lines() -> BadStatement:
    return refuse(f"The file has more than {MAX_LINES} lines: import a shorter period")


def read(content: bytes, hints: Hints) -> tuple[Format, list[Line]]:
    """All lines of the file, or why not one of them is taken."""
    from bursar.payments import bank_camt, bank_csv

    if len(content) > MAX_BYTES:
        raise refuse(f"The file has more than {MAX_BYTES} bytes")
    is_xml = looks_like_xml(content)
    lines = bank_camt.lines(content) if is_xml else bank_csv.lines(content, hints)
    if len(lines) > MAX_LINES:
        raise too_many_lines()
    return "camt.053" if is_xml else "csv", lines


def looks_like_xml(content: bytes) -> bool:
    start = content[:200].replace(b"\x00", b"").lstrip(b"\xef\xbb\xbf\xff\xfe \t\r\n")
    return start.startswith(b"<")


def hashes(lines: list[Line]) -> Iterator[bytes]:
    """By its content, and for each time that it stands there: two gifts of one day are two, and a
    file that overlaps with another has the same ones."""
    seen: Counter[bytes] = Counter()
    for line in lines:
        content = line.content()
        seen[content] += 1
        yield sha256(content + b"\x1f" + str(seen[content]).encode()).digest()
