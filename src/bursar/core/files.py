"""Rows as a file to take away: CSV or JSON lines, streamed a piece at a time.

No cell of a CSV is a formula to a spreadsheet, and every number keeps its digits.
"""

import csv
import io
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from bursar.core import exact

Format = Literal["csv", "jsonl"]
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/jsonl",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {kind.partition(";")[0]: {} for kind in MEDIA_TYPES.values()},
    }
}
"""What a route that sends a file says of it in the documents."""


def headers(name: str, kind: Format, now: datetime) -> Mapping[str, str]:
    """Of the answer: a file to be saved, and kept by nothing in between."""
    return {
        "Content-Disposition": f'attachment; filename="{file_name(name, kind, now)}"',
        "Cache-Control": "no-store",
    }


def file_name(name: str, kind: Format, now: datetime) -> str:
    return f"{name}-{now:%Y%m%dT%H%M%SZ}.{kind}"


async def begin(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, once its first piece is read: what fails there can still be told as an error."""
    return go_on(await anext(pieces, b""), pieces)


async def go_on(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in pieces:
        yield piece


def head(kind: Format, columns: Sequence[str]) -> bytes:
    """What stands before the first row."""
    return line(columns).encode() if kind == "csv" else b""


def written(kind: Format, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    """Rows as they stand in the file."""
    if kind == "csv":
        return "".join(line(row) for row in rows).encode()
    return "".join(
        f"{exact.dumps(dict(zip(columns, row, strict=True)))}\n" for row in rows
    ).encode()


def line(row: Sequence[object]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow([cell(value) for value in row])
    return buffer.getvalue()


# Some spreadsheets skip blanks, and take the full-width signs of East Asia for the usual ones.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def cell(value: object) -> str:
    """As text that no spreadsheet takes for a formula; a number stays one, with all its digits."""
    if value is None:
        return ""
    if isinstance(value, Decimal):
        return format(value, "f")
    text = exact.dumps(value) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text
