"""The audit trail as a file: CSV or JSON lines, streamed a piece at a time in short transactions.

An export's memory is that of one piece, however long the file becomes, and no transaction stays
open while a slow reader reads. Rows that are recorded after it has begun are not in it: it ends.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from uuid import UUID

from bursar.audit import queries
from bursar.audit.models import AuditLog
from bursar.audit.queries import Filters
from bursar.core import files
from bursar.core.database import Claim, Database
from bursar.core.files import MEDIA_TYPES, Format, begin, cell
from bursar.core.wire import zulu

__all__ = ["COLUMNS", "MEDIA_TYPES", "PIECE", "Format", "begin", "cell", "file_name", "stream"]

PIECE = 500

COLUMNS = (
    "seq", "id", "occurredAt", "eventType", "actorKind", "actorId", "onBehalfOf", "impersonatorId",
    "targetType", "targetId", "before", "after", "address", "requestId",
)  # fmt: skip


def file_name(kind: Format, now: datetime) -> str:
    return files.file_name("audit-logs", kind, now)


async def stream(
    database: Database, claim: Claim, filters: Filters, kind: Format, now: datetime
) -> AsyncIterator[bytes]:
    """The whole file, oldest row first, of what was recorded before now."""
    filters = replace(filters, until=min(filters.until, now) if filters.until else now)
    head = files.head(kind, COLUMNS)
    place = None
    while True:
        async with database.transaction(claim) as db:
            rows = await queries.after(db, filters, place, PIECE)
            seals = await queries.seals(db, rows)
            listed = [values(row, seals.get(row.id)) for row in rows]
            piece = head + files.written(kind, COLUMNS, listed)
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
