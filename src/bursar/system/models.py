"""Settings that staff have changed, and every change that was ever made."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import FetchedValue, Index, func, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class StoredSetting(Base):
    """What staff have set; without a row, and without a value, the default holds."""

    __tablename__ = "settings"

    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True))
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )
    updated_by: Mapped[UUID | None]


class SettingChange(Base):
    """Written by a trigger, so that no writer can forget it; never changed."""

    __tablename__ = "setting_changes"
    __table_args__ = (
        Index("ix_setting_changes_changed_at", "changed_at", "id"),
        Index("ix_setting_changes_key", "key", "changed_at", "id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    key: Mapped[str]
    old: Mapped[Any | None] = mapped_column(JSONB)
    new: Mapped[Any | None] = mapped_column(JSONB)
    changed_at: Mapped[datetime] = mapped_column(server_default=func.now())
    changed_by: Mapped[UUID | None]
