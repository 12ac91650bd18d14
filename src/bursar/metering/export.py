"""Calls as a file, the newest first, read a piece at a time in short transactions.

What is counted after it has begun is not in it. Of everybody's calls those of one customer stand
together. No statement looks at more than so many rows, however few of them are wanted.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic.alias_generators import to_camel
from sqlalchemy import Select, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bursar.core import files
from bursar.core.database import Claim, Database
from bursar.core.files import Format
from bursar.core.wire import zulu
from bursar.metering.models import Usage
from bursar.metering.queries import Filters

PIECE, WINDOW = 1000, 50_000
COLUMNS = (
    "id", "timestamp", "endpoint", "status_code", "response_time_ms", "units", "api_key_id",
    "event_id", "location", "state", "date_from", "date_to", "error_message", "ip_address",
    "user_agent",
)  # fmt: skip
FOR_STAFF = ("user_id", *COLUMNS)

Place = tuple[UUID, datetime, UUID]  # of a call, in the order of the table's key


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whose calls, which of them, counted until when; without a customer everybody's."""

    user_id: UUID | None
    filters: Filters
    now: datetime


async def stream(
    database: Database, claim: Claim, wanted: Wanted, kind: Format, columns: Sequence[str] = COLUMNS
) -> AsyncIterator[bytes]:
    """The whole file."""
    names = [to_camel(name) for name in columns] if columns is FOR_STAFF else columns
    head, place = files.head(kind, names), None
    while True:
        async with database.transaction(claim) as db:
            rows, place = await read(db, wanted, place)
        if piece := head + files.written(kind, names, [values(row, columns) for row in rows]):
            yield piece
        if place is None:
            return
        head = b""


async def read(
    db: AsyncSession, wanted: Wanted, place: Place | None
) -> tuple[Sequence[Usage], Place | None]:
    """The next rows that are wanted, and where to go on; None: there are no more."""
    call = aliased(Usage, window(wanted, place).limit(WINDOW).subquery())
    query = select(call).where(*wanted.filters.conditions(call))
    query = query.order_by(call.user_id.desc(), call.timestamp.desc(), call.id.desc())
    rows = list(await db.scalars(query.limit(PIECE)))
    if len(rows) == PIECE:
        last = rows[-1]
        return rows, (last.user_id, last.timestamp, last.id)
    ends = window(wanted, place).with_only_columns(Usage.user_id, Usage.timestamp, Usage.id)
    end = (await db.execute(ends.offset(WINDOW - 1).limit(1))).first()
    return rows, (end.user_id, end.timestamp, end.id) if end else None


def window(wanted: Wanted, place: Place | None) -> Select[Any]:
    query = select(Usage).where(Usage.recorded_at <= wanted.now)
    query = query.where(*wanted.filters.bounds())
    if wanted.user_id:
        query = query.where(Usage.user_id == wanted.user_id)
    if place:
        query = query.where(tuple_(Usage.user_id, Usage.timestamp, Usage.id) < tuple_(*place))
    return query.order_by(Usage.user_id.desc(), Usage.timestamp.desc(), Usage.id.desc())


def values(row: Usage, columns: Sequence[str]) -> list[object]:
    """In the order of the columns."""
    texts = {name: text(getattr(row, name)) for name in ("user_id", "api_key_id", "ip_address")}
    shown = {**texts, "id": str(row.id), "timestamp": zulu(row.timestamp)}
    return [shown.get(name, getattr(row, name)) for name in columns]


def text(value: object) -> str | None:
    return None if value is None else str(value)
