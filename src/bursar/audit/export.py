"""The audit trail as a file: CSV or JSON lines, streamed a piece at a time in short transactions.

An export's memory is that of one piece, however long the file becomes, and no transaction stays
open while a slow reader reads. Rows that are recorded after it has begun are not in it: it ends.
"""

import csv
import io
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from bursar.audit import queries
from bursar.audit.models import AuditLog
from bursar.audit.queries import Filters
from bursar.core import exact
from bursar.core.database import Claim, Database
from bursar.core.wire import zulu

PIECE = 500

Format = Literal["csv", "jsonl"]
MEDIA_TYPES: dict[Format, str] = {
    "csv": "text/csv; charset=utf-8; header=present",
    "jsonl": "application/jsonl",
}
COLUMNS = (
    "seq", "id", "occurredAt", "eventType", "actorKind", "actorId", "onBehalfOf", "impersonatorId",
    "targetType", "targetId", "before", "after", "address", "requestId",
)  # fmt: skip


def file_name(kind: Format, now: datetime) -> str:
    return f"audit-logs-{now:%Y%m%dT%H%M%SZ}.{kind}"


async def begin(pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same, once its first piece is read: what fails there can still be told as an error."""
    return go_on(await anext(pieces, b""), pieces)


async def go_on(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if first:
        yield first
    async for piece in pieces:
        yield piece


async def stream(
    database: Database, claim: Claim, filters: Filters, kind: Format, now: datetime
) -> AsyncIterator[bytes]:
    """The whole file, oldest row first, of what was recorded before now."""
    filters = replace(filters, until=min(filters.until, now) if filters.until else now)
    write = as_csv if kind == "csv" else as_lines
    head = line(COLUMNS).encode() if kind == "csv" else b""
    place = None
    while True:
        async with database.transaction(claim) as db:
            rows = await queries.after(db, filters, place, PIECE)
            seals = await queries.seals(db, rows)
            piece = head + write([values(row, seals.get(row.id)) for row in rows])
        if piece:
            yield piece
        head = b""
        if len(rows) < PIECE:
            return
        place = (rows[-1].occurred_at, rows[-1].id)


def values(row: AuditLog, seq: int | None) -> Sequence[object]:
    """In the order of COLUMNS."""
    return (
        seq, str(row.id), zulu(row.occurred_at), row.event_type, row.actor_kind,
        text(row.actor_id), text(row.on_behalf_of), text(row.impersonator_id),
        row.target_type, row.target_id, row.before, row.after, row.address, row.request_id,
    )  # fmt: skip


def text(value: UUID | None) -> str | None:
    return str(value) if value else None


def as_lines(rows: Sequence[Sequence[object]]) -> bytes:
    return "".join(
        f"{exact.dumps(dict(zip(COLUMNS, row, strict=True)))}\n" for row in rows
    ).encode()


def as_csv(rows: Sequence[Sequence[object]]) -> bytes:
    return "".join(line(row) for row in rows).encode()


def line(row: Sequence[object]) -> str:
    written = io.StringIO()
    csv.writer(written).writerow([cell(value) for value in row])
    return written.getvalue()


FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def cell(value: object) -> str:
    """As text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    written = exact.dumps(value) if isinstance(value, dict) else str(value)
    return f"'{written}" if written.startswith(FORMULA) else written
