"""Lists of people from other systems, as files: every line becomes a record or says why not.

A file is read piece by piece and never held as a whole. What one line does wrong is said of that
line, and the next one is read as if nothing had been.
"""

import codecs
import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, BinaryIO

import orjson

from bursar.core.errors import BursarError

LONGEST_LINE = 1_048_576  # bytes
LONGEST_FIELD = csv.field_size_limit()
DELIMITERS = (",", ";", "\t", "|")
OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)  # that of UTF-32 begins like these

NAMES_OF_FIELDS = {
    "id": ("user_id", "uuid"),
    "email": ("e_mail", "email_address", "mail"),
    "username": ("user_name",),
    "name": ("full_name", "fullname"),
    "first_name": ("firstname", "given_name"),
    "last_name": ("lastname", "surname", "family_name"),
    "user_type": (),
    "role": (),
    "tier": (),
    "status": (),
    "is_active": ("active", "enabled"),
    "email_verified": ("verified", "is_verified", "email_confirmed"),
    "password_hash": ("hashed_password", "password"),
    "created_at": ("created", "date_joined", "join_date", "registered_at"),
    "last_login": ("last_login_at",),
}
FIELDS = {name: field for field, more in NAMES_OF_FIELDS.items() for name in (field, *more)}


class Format(StrEnum):
    """What a file of people may be written in."""

    CSV = "csv"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True)
class Column:
    """A column or member by the name that the file gives it; without a field, nobody knows it."""

    name: str
    field: str | None


@dataclass(frozen=True, slots=True)
class Record:
    """What stands on one line, or on several where a quoted field goes on."""

    line: int
    last_line: int
    cells: list[tuple[Column, Any]] = field(default_factory=list, repr=False)
    fault: str | None = None


class BadImport(BursarError, status=422, code="accounts.bad_import", exit_code=2):
    """The file cannot be read as a list of people; the sentence says how it should look."""


def records(source: BinaryIO, kind: Format) -> Iterator[Record]:
    """Everything in the file, one after the other; BadImport where nothing can be made of it."""
    lines = Lines(source)
    return csv_records(lines) if kind is Format.CSV else json_records(lines)


class OverlongLine(Exception):
    """A line has more than LONGEST_LINE bytes."""


class Lines:
    """The lines as text, counted. An overlong one raises, and the next one can be asked for."""

    def __init__(self, source: BinaryIO) -> None:
        self.number = 0
        self.broken = 0  # the last line that is not UTF-8
        self._source = source

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = self._source.readline(LONGEST_LINE)
        if not line:
            raise StopIteration
        self.number += 1
        if len(line) == LONGEST_LINE and not line.endswith(b"\n"):
            self._skip_rest()
            raise OverlongLine
        if self.number == 1:
            line = without_mark(line)
        try:
            return line.decode()
        except UnicodeDecodeError:
            self.broken = self.number
            return line.decode(errors="surrogateescape")  # the quotes in it still count

    def _skip_rest(self) -> None:
        while (rest := self._source.readline(LONGEST_LINE)) and not rest.endswith(b"\n"):
            pass


def without_mark(line: bytes) -> bytes:
    if line.startswith(OTHER_ENCODINGS):
        raise BadImport("The file is written in UTF-16 or UTF-32; save it as UTF-8.")
    return line.removeprefix(codecs.BOM_UTF8)


NO_UTF8 = "the text is not UTF-8"
TOO_LONG = f"the line has more than {LONGEST_LINE:,} bytes"


def csv_records(lines: Lines) -> Iterator[Record]:
    delimiter, columns = header(lines)
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        line = lines.number + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except OverlongLine:
            yield Record(line, lines.number, fault=TOO_LONG)
        except csv.Error as error:
            yield Record(line, lines.number, fault=csv_fault(str(error)))
        else:
            if any(cells):
                yield csv_record(lines, line, columns, cells)


def header(lines: Lines) -> tuple[str, list[Column]]:
    """The delimiter is the one with which the first line names most that is known."""
    try:
        first = next(lines, None)
    except OverlongLine:
        raise no_header() from None
    if first is None:
        raise BadImport("The file is empty.")
    if lines.broken:
        raise BadImport("The file is not written in UTF-8: its first line cannot be read.")
    found = [(delimiter, split(first, delimiter)) for delimiter in DELIMITERS]
    delimiter, columns = max(found, key=lambda each: sum(c.field is not None for c in each[1]))
    if "email" not in [column.field for column in columns]:
        raise no_header()
    return delimiter, columns


def no_header() -> BadImport:
    return BadImport(
        "The first line names no column `email`: it should look like email,name,password_hash."
    )


def split(line: str, delimiter: str) -> list[Column]:
    try:
        return [column(name) for name in next(csv.reader([line], delimiter=delimiter, strict=True))]
    except (csv.Error, StopIteration):
        return []


@lru_cache(maxsize=1000)
def column(name: str) -> Column:
    """`passwordHash`, `Password Hash` and `password_hash` are the same."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())
    return Column(name.strip(), FIELDS.get(re.sub(r"[\s_-]+", "_", snake).lower()))


def csv_fault(said: str) -> str:
    if "field limit" in said:
        return f"a field has more than {LONGEST_FIELD:,} characters, or its quote is never closed"
    if "unexpected end" in said:
        return "a quote is opened and never closed"
    return "a quote stands in the middle of a field"


def csv_record(lines: Lines, line: int, columns: list[Column], cells: list[str]) -> Record:
    if lines.broken >= line:
        return Record(line, lines.number, fault=NO_UTF8)
    if len(cells) != len(columns):
        fault = f"there are {len(cells)} fields, and the first line names {len(columns)}"
        return Record(line, lines.number, fault=fault)
    return Record(line, lines.number, list(zip(columns, cells, strict=True)))


def json_records(lines: Lines) -> Iterator[Record]:
    while True:
        try:
            text = next(lines, None)
        except OverlongLine:
            yield Record(lines.number, lines.number, fault=TOO_LONG)
            continue
        if text is None:
            break
        if text.strip():
            yield json_record(lines, text)
    if lines.number == 0:
        raise BadImport("The file is empty.")


def json_record(lines: Lines, text: str) -> Record:
    if lines.broken == lines.number:
        return Record(lines.number, lines.number, fault=NO_UTF8)
    if lines.number == 1 and text.lstrip().startswith("["):
        raise BadImport(
            "The file is one JSON array; one object on each line is needed: `jq -c '.[]'` does it."
        )
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return Record(lines.number, lines.number, fault="the line is not JSON")
    if not isinstance(found, dict):
        return Record(lines.number, lines.number, fault="the line is not a JSON object")
    cells = [(column(name), value) for name, value in found.items()]
    return Record(lines.number, lines.number, cells)
