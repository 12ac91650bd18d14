"""A customer's calls as a file, the newest first, read a piece at a time in short transactions.

What is counted after it has begun is not in it.
"""

from collections.abc import AsyncIterator
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import files
from bursar.core.database import Claim, Database
from bursar.core.files import Format
from bursar.core.wire import zulu
from bursar.metering.models import Usage
from bursar.metering.queries import Filters

PIECE = 1000
COLUMNS = (
    "id", "timestamp", "endpoint", "status_code", "response_time_ms", "units", "api_key_id",
    "event_id", "location", "state", "date_from", "date_to", "error_message", "ip_address",
    "user_agent",
)  # fmt: skip


async def stream(
    database: Database, claim: Claim, user_id: UUID, filters: Filters, kind: Format, now: datetime
) -> AsyncIterator[bytes]:
    """The whole file."""
    head, last = files.head(kind, COLUMNS), None
    while True:
        async with database.transaction(claim) as db:
            rows = await read(db, user_id, filters, now, last)
        if piece := head + files.written(kind, COLUMNS, [values(row) for row in rows]):
            yield piece
        if len(rows) < PIECE:
            return
        head, last = b"", rows[-1]


async def read(
    db: AsyncSession, user_id: UUID, filters: Filters, now: datetime, last: Usage | None
) -> list[Usage]:
    query = select(Usage).where(Usage.user_id == user_id, Usage.recorded_at <= now)
    query = query.where(*filters.conditions())
    if last:
        place = tuple_(Usage.timestamp, Usage.id)
        query = query.where(place < tuple_(last.timestamp, last.id))
    query = query.order_by(Usage.timestamp.desc(), Usage.id.desc()).limit(PIECE)
    return list(await db.scalars(query))


def values(row: Usage) -> list[object]:
    """In the order of COLUMNS."""
    texts = {name: text(getattr(row, name)) for name in ("api_key_id", "ip_address")}
    shown = {**texts, "id": str(row.id), "timestamp": zulu(row.timestamp)}
    return [shown.get(name, getattr(row, name)) for name in COLUMNS]


def text(value: object) -> str | None:
    return None if value is None else str(value)
