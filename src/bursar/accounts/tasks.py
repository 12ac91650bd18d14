"""What accounts do by themselves: links that were asked for, and the end of deleted accounts."""

from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import erasure, letters, queries
from bursar.accounts.models import Status, User
from bursar.accounts.rules import ERASE_AFTER_DAYS
from bursar.auth.actor import Kind
from bursar.core import jobs
from bursar.core.database import Role
from bursar.system import queries as system


@jobs.job("accounts.send_reset", added_by={Role.DOOR, Role.WORKER})
async def send_reset(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Mails a link for a new password, if anybody has the address."""
    kind = Kind(payload["kind"])
    person = await queries.by_email(db, kind, payload["email"])
    if person is not None and person.is_reachable:
        await letters.send_reset(db, kind, person)


@jobs.job("accounts.send_email_change", added_by={Role.DOOR})
async def send_email_change(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Mails a link to the address that a customer wants to have, unless somebody else has it."""
    user = await db.get(User, UUID(payload["user_id"]))
    taken = await queries.by_email(db, Kind.CUSTOMER, payload["email"])
    if user is not None and user.is_reachable and taken is None:
        await letters.send_verification(db, user, payload["email"])


@jobs.cron("47 2 * * *", "accounts.erase_deleted")
async def erase_deleted(db: AsyncSession, _: dict[str, Any]) -> None:
    """Erases the personal data of accounts that were deleted long enough ago."""
    days = await system.value(db, ERASE_AFTER_DAYS)
    due = select(User).where(
        User.erased_at.is_(None),
        User.status == Status.DELETED,
        User.deleted_at <= func.now() - timedelta(days=days),
    )
    for user in await db.scalars(due.limit(erasure.AT_ONCE).with_for_update(skip_locked=True)):
        await erasure.erase(db, user)
