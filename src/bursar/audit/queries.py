"""Reads of the audit trail: the rows that somebody asks for, and how far the sealing has come."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Select, select, text, tuple_, union_all
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bursar.audit import chain
from bursar.audit.models import AuditChain, AuditLog, AuditSeal
from bursar.core.paging import Order, Page, PageQuery, fetch

COUNTED = 10_000  # rows, beyond which a list only says "more"


@dataclass(frozen=True, slots=True)
class Filters:
    """What somebody looks for; None is anything."""

    event_type: str | None = None  # whole, or an area with a point at its end: "users."
    actor_kind: str | None = None
    actor_id: UUID | None = None
    user_id: UUID | None = None  # who did it, for whom, in whose name, or to whom
    target_type: str | None = None
    target_id: str | None = None
    request_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


PLACE = (AuditLog.occurred_at, AuditLog.id)


def order(log: Any = AuditLog) -> Order:
    return Order({"occurred_at": log.occurred_at}, key=log.id, default="-occurred_at")


async def logs(db: AsyncSession, ask: PageQuery, filters: Filters) -> Page[AuditLog]:
    query, log = matching(filters, newest_first=ask.sort != "occurred_at")
    return await fetch(db, query, ask, order(log), count_to=COUNTED)


def matching(filters: Filters, *, newest_first: bool) -> tuple[Select[AuditLog], Any]:
    """The rows, and what their columns are called in the query.

    A user may stand in four columns. Each gives its rows in order by its own index, and PostgreSQL
    merges them: `or` would read all of a busy user's rows and sort them for one page. The order
    stands in each arm, because the planner does not see through a union that they are in order.
    """
    conditions = [*narrowed(filters)]
    if filters.user_id is None:
        return select(AuditLog).where(*conditions), AuditLog
    arms: list[Select[AuditLog]] = []
    before: list[ColumnElement[bool]] = []
    for place in places_of(filters.user_id):
        arm = select(AuditLog).where(place, *before, *conditions)
        arms.append(arm.order_by(*(key.desc() if newest_first else key for key in PLACE)))
        before.append(place.is_not(True))  # so that no row comes twice
    log = aliased(AuditLog, union_all(*arms).subquery())
    return select(log), log


def places_of(user_id: UUID) -> list[ColumnElement[bool]]:
    return [
        AuditLog.actor_id == user_id,
        AuditLog.on_behalf_of == user_id,
        AuditLog.impersonator_id == user_id,
        AuditLog.target_id == str(user_id),
    ]


def narrowed(filters: Filters) -> Iterable[ColumnElement[bool]]:
    if filters.event_type and filters.event_type.endswith("."):
        yield AuditLog.area == filters.event_type.removesuffix(".")
    elif filters.event_type:
        yield AuditLog.event_type == filters.event_type
    for name in ("actor_kind", "actor_id", "target_type", "target_id", "request_id"):
        if (value := getattr(filters, name)) is not None:
            yield getattr(AuditLog, name) == value
    if filters.since:
        yield AuditLog.occurred_at >= filters.since
    if filters.until:
        yield AuditLog.occurred_at < filters.until


async def after(
    db: AsyncSession, filters: Filters, place: tuple[datetime, UUID] | None, limit: int
) -> Sequence[AuditLog]:
    """The next rows behind this place, oldest first: an export, a piece at a time."""
    query, log = matching(filters, newest_first=False)
    key = (log.occurred_at, log.id)
    if place:
        query = query.where(tuple_(*key) > tuple_(*place))
    return (await db.scalars(query.order_by(*key).limit(limit))).all()


async def seals(db: AsyncSession, rows: Sequence[AuditLog]) -> dict[UUID, int]:
    """The seal of each row that has one."""
    query = select(AuditSeal.log_id, AuditSeal.seq)
    found = await db.execute(query.where(AuditSeal.log_id.in_([row.id for row in rows])))
    return {log_id: seq for log_id, seq in found}  # noqa: C416


HEAD = select(AuditSeal.seq, AuditSeal.hash).order_by(AuditSeal.seq.desc()).limit(1)


async def head(db: AsyncSession) -> tuple[int, bytes]:
    """The newest seal; 0 and the hash that stands before the first one, if there is none."""
    newest = (await db.execute(HEAD)).one_or_none()
    if newest:
        return newest.seq, newest.hash
    return 0, chain.beginning(await installation(db))


async def installation(db: AsyncSession) -> UUID:
    return (await db.scalars(select(AuditChain.installation))).one()


# A new place begins with the newest one, which vouches for all before it.
UNSHIPPED = text("""
  select seq, document, made_at from audit_checkpoints
  where seq > coalesce(
    (select max(seq) from audit_shipments where place = :place),
    (select max(seq) - 1 from audit_checkpoints))
  order by seq limit :limit
""")


async def unshipped(db: AsyncSession, place: str, *, limit: int) -> list[tuple[int, str]]:
    rows = await db.execute(UNSHIPPED, {"place": place, "limit": limit})
    return [(row.seq, row.document) for row in rows]


OLDEST_UNSEALED = text("""
  select extract(epoch from clock_timestamp() - log.occurred_at)
  from audit_unsealed as waiting join audit_logs as log on log.id = waiting.log_id
  order by waiting.xid, waiting.log_id limit 1
""")
OLDEST_UNSHIPPED = text("""
  select extract(epoch from clock_timestamp() - made_at) from audit_checkpoints
  where seq > coalesce((select max(seq) from audit_shipments where place = :place), 0)
  order by seq limit 1
""")


@dataclass(frozen=True, slots=True)
class Lag:
    """How long the oldest row waits for its seal, and the oldest checkpoint for its shipment."""

    seal_seconds: float
    shipment_seconds: float


async def lag(db: AsyncSession, place: str | None) -> Lag:
    """As the worker."""
    unsealed = await db.scalar(OLDEST_UNSEALED)
    waiting = await db.scalar(OLDEST_UNSHIPPED, {"place": place}) if place else None
    return Lag(float(unsealed or 0), float(waiting or 0))
