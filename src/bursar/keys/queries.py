"""Reads of keys: each as its caller, so that row-level security has the last word."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import and_, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.core import paging
from bursar.core.errors import NotFound
from bursar.core.paging import Order, Page, PageQuery
from bursar.keys.models import ApiKey, KeyStatus

KEYS = Order(
    {"created_at": ApiKey.created_at, "name": ApiKey.name}, key=ApiKey.id, default="-created_at"
)

NOT_REVOKED = ApiKey.status == KeyStatus.ACTIVE
HAS_ENDED = func.least(ApiKey.expires_at, ApiKey.grace_until) <= func.now()
STANDING = {
    KeyStatus.ACTIVE: and_(NOT_REVOKED, HAS_ENDED.is_not(True)),
    KeyStatus.EXPIRED: and_(NOT_REVOKED, HAS_ENDED),
    KeyStatus.REVOKED: ApiKey.status == KeyStatus.REVOKED,
}
"""Of a key, as ApiKey.standing says it of one that is read."""


async def keys(
    db: AsyncSession,
    ask: PageQuery,
    *,
    user_id: UUID | None = None,
    services: bool | None = None,
    status: KeyStatus | None = None,
    search: str | None = None,
) -> Page[ApiKey]:
    """Of one customer, of services, or of everybody; the newest first."""
    query = select(ApiKey)
    if user_id:
        query = query.where(ApiKey.user_id == user_id)
    if services is not None:
        query = query.where(ApiKey.user_id.is_(None) if services else ApiKey.user_id.is_not(None))
    if status:
        query = query.where(STANDING[status])
    if search:
        word = search.strip().lower()  # of the name, the beginning or the end
        pattern = f"%{accounts.plain(word)}%"
        if user_id or len(word) < accounts.INDEXED:
            query = query.where(ApiKey.searched.like(pattern))
        else:  # by the index, which staff's policy would keep from being used (keys/database.sql)
            like = func.keys_like(pattern).column_valued("like_it")
            query = query.where(ApiKey.id.in_(select(like)))
    return await paging.fetch(db, query, ask, KEYS, count_to=10_000)


async def key(db: AsyncSession, key_id: UUID, *, user_id: UUID | None = None) -> ApiKey:
    """One key, or NotFound; with an owner, only theirs."""
    row = await db.get(ApiKey, key_id, populate_existing=True)
    if row is None or (user_id is not None and row.user_id != user_id):
        raise nothing()
    return row


def nothing() -> NotFound:
    return NotFound("There is no such API key.")


async def number_of_good(db: AsyncSession, user_id: UUID) -> int:
    good = (ApiKey.user_id == user_id, STANDING[KeyStatus.ACTIVE])
    return await db.scalar(select(func.count()).select_from(ApiKey).where(*good)) or 0


@accounts.keeps_personal_data("api_keys")
async def personal_data(db: AsyncSession, user_id: UUID) -> list[dict[str, Any]]:
    """What is kept of them, masked."""
    query = select(ApiKey).where(ApiKey.user_id == user_id).order_by(ApiKey.created_at, ApiKey.id)
    rows: Sequence[ApiKey] = (await db.scalars(query)).all()
    kept = ("id", "name", "masked", "scopes", "created_at", "expires_at", "last_used_at")
    return [{**{name: getattr(row, name) for name in kept}, "status": row.standing} for row in rows]
