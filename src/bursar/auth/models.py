"""Tables of sign-in."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class Session(Base):
    """Somebody signed in somewhere; it ends once, by a reason, or expires unused.

    `refresh_hash` is never loaded: only the door may read it, and only `sessions.rotate` needs it.
    """

    __tablename__ = "sessions"
    __table_args__ = (
        Index("ix_sessions_subject", "subject"),
        Index(
            "ix_sessions_impersonator",
            "impersonator",
            postgresql_where=text("impersonator is not null"),
        ),
        Index("ix_sessions_ended_at", "ended_at", postgresql_where=text("ended_at is not null")),
        Index("ix_sessions_expires_at", "expires_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    kind: Mapped[str]
    subject: Mapped[UUID]
    scope: Mapped[str]
    method: Mapped[str]
    impersonator: Mapped[UUID | None]
    address: Mapped[str | None]
    user_agent: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    last_used_at: Mapped[datetime] = mapped_column(server_default=func.now())
    idle_seconds: Mapped[int]
    expires_at: Mapped[datetime]
    renewable_until: Mapped[datetime]
    refresh_hash: Mapped[bytes | None] = mapped_column(deferred=True, deferred_raiseload=True)
    generation: Mapped[int] = mapped_column(server_default=text("0"))
    ended_at: Mapped[datetime | None]
    end_reason: Mapped[str | None]
