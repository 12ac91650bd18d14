"""API keys; of the key itself only the hash is kept, and hardly anybody may read that."""

from datetime import UTC, datetime
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Computed,
    FetchedValue,
    ForeignKey,
    Index,
    LargeBinary,
    String,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, CIDR
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base

Network = IPv4Network | IPv6Network


class KeyStatus(StrEnum):
    """Whether it is good. Only its end is written down: that a key has expired, time says."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"


class ApiKey(Base):
    """A key of a customer or, without one, of another service of the business."""

    __tablename__ = "api_keys"
    __table_args__ = (
        UniqueConstraint("user_id", "id"),
        Index("ix_api_keys_user_id", "user_id", "created_at", "id"),
        Index("ix_api_keys_created_at", "created_at", "id"),
        Index(
            "ix_api_keys_searched",
            "searched",
            postgresql_using="gin",
            postgresql_ops={"searched": "gin_trgm_ops"},
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    name: Mapped[str] = mapped_column(server_default="")
    key_hash: Mapped[bytes] = mapped_column(
        LargeBinary, unique=True, deferred=True, deferred_raiseload=True
    )
    start: Mapped[str]
    last_four: Mapped[str]
    scopes: Mapped[list[str]] = mapped_column(ARRAY(String), server_default="{}")
    allowed_addresses: Mapped[list[Network]] = mapped_column(ARRAY(CIDR), server_default="{}")
    per_second: Mapped[int | None]
    per_minute: Mapped[int | None]
    per_month: Mapped[int | None] = mapped_column(BigInteger)
    expires_at: Mapped[datetime | None]
    grace_until: Mapped[datetime | None]
    rotated_from: Mapped[UUID | None] = mapped_column(
        ForeignKey("api_keys.id", ondelete="SET NULL"), index=True
    )
    line_id: Mapped[UUID] = mapped_column(ForeignKey("api_keys.id"), index=True)
    """The first of the keys that were rotated into this one: one limit holds for all of them."""
    status: Mapped[str] = mapped_column(server_default=KeyStatus.ACTIVE)
    revoked_at: Mapped[datetime | None]
    revoke_reason: Mapped[str | None]
    last_used_at: Mapped[datetime | None]
    created_by: Mapped[UUID | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    searched: Mapped[str | None] = mapped_column(
        Text,
        Computed("lower(' ' || name || ' ' || start || ' ' || last_four)", persisted=True),
        deferred=True,
        deferred_raiseload=True,
    )

    @property
    def ends_at(self) -> datetime | None:
        return min((each for each in (self.expires_at, self.grace_until) if each), default=None)

    @property
    def standing(self) -> KeyStatus:
        """As of now."""
        if self.status == KeyStatus.ACTIVE and self.ends_at and self.ends_at <= datetime.now(UTC):
            return KeyStatus.EXPIRED
        return KeyStatus(self.status)

    @property
    def shown_since(self) -> datetime | None:
        """When it was used last, or ended: what is shown and is no new version."""
        end = self.ends_at if self.standing == KeyStatus.EXPIRED else None
        return max((each for each in (self.last_used_at, end) if each), default=None)

    @property
    def masked(self) -> str:
        """Enough to recognise it, too little to use it."""
        return f"{self.start}…{self.last_four}"
