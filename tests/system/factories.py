"""Things of system, made in one line where a test is about something else."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from bursar.system import queries, service
from bursar.system.queries import SettingView


async def make_setting(
    db: AsyncSession, key: str = "company_name", value: Any = "Tern"
) -> SettingView:
    """A setting that staff have changed."""
    await service.change(db, {key: value})
    return await queries.stored(db, key)
