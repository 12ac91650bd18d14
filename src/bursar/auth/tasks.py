"""What sign-in does at night."""

from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth import sessions
from bursar.core import jobs


@jobs.cron("47 2 * * *", "auth.prune_sessions")
async def prune_sessions(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets sessions that ended or expired a month ago."""
    await sessions.prune(db)


@jobs.cron("*/10 * * * *", "auth.prune_attempts")
async def prune_attempts(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets counted attempts whose window is over."""
    await db.execute(text("select prune_attempts()"))


@jobs.cron("52 2 * * *", "auth.prune_one_time_tokens")
async def prune_one_time_tokens(db: AsyncSession, _: dict[str, Any]) -> None:
    """Forgets links from mails that nobody used in time."""
    await db.execute(text("select prune_one_time_tokens()"))
