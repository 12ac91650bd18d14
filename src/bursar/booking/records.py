"""Rows that people edit: locked while they are, changed only where they differ, and audited."""

from collections.abc import Mapping
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import inspect
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.booking.models import Row
from bursar.booking.refusals import missing, refusable
from bursar.core import etag

Kept = TypeVar("Kept", bound=Row)

UNSAID = frozenset((
    "version", "updated_at", "created_at", "letter", "note", "enrolled", "waiting",
))  # fmt: skip


async def held(db: AsyncSession, model: type[Kept], row_id: UUID, if_match: str | None) -> Kept:
    """The row, locked until the transaction ends."""
    row = await db.get(model, row_id, with_for_update={"key_share": True}, populate_existing=True)
    if row is None:
        raise missing(model)
    etag.check(if_match, row.version)
    return row


async def change(db: AsyncSession, row: Kept, facts: Mapping[str, Any], deed: str) -> bool:
    """Whether anything was different; what the database refuses is raised in its words."""
    before = seen(row)
    for name, value in facts.items():
        if getattr(row, name) != value:
            setattr(row, name, value)
    if not db.is_modified(row):
        audit.nothing_changed(db)
        return False
    await written(db, row, deed, before)
    return True


async def add(db: AsyncSession, row: Kept) -> Kept:
    db.add(row)
    await written(db, row, "created", None)
    return row


async def written(db: AsyncSession, row: Kept, deed: str, before: dict[str, Any] | None) -> None:
    with refusable():
        await db.flush()
    await db.refresh(row)
    await record(db, row, deed, before)


async def record(
    db: AsyncSession, row: Kept, deed: str, before: dict[str, Any] | None = None
) -> None:
    name = type(row).__name__.lower()
    await audit.record(db, f"booking.{name}_{deed}", name, row.id, before=before, after=seen(row))


def seen(row: Any) -> dict[str, Any]:
    """As the audit keeps it."""
    columns = inspect(type(row)).column_attrs
    return {
        each.key: getattr(row, each.key)
        for each in columns
        if each.key not in UNSAID and not each.deferred
    }
