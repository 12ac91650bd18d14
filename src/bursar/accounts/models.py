"""Customers, staff, and what they sign in with; a secret is only read by who asks for it."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    Computed,
    FetchedValue,
    ForeignKey,
    Index,
    LargeBinary,
    Text,
    column,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base

SECRET: dict[str, Any] = {"deferred": True, "deferred_raiseload": True}  # read where asked for


class CustomerRole(StrEnum):
    """What sort of customer somebody is."""

    INDIVIDUAL_CLIENT = "individual_client"
    BUSINESS_CLIENT = "business_client"
    PARTNER = "partner"


class Tier(StrEnum):
    """What a customer has subscribed to."""

    FREE = "free"
    PRO = "pro"
    ENTERPRISE = "enterprise"


class Status(StrEnum):
    """Where a customer's account stands."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    PENDING = "pending"  # the e-mail address is not verified yet, and the settings ask for that
    DELETED = "deleted"


class StaffStatus(StrEnum):
    """Where the account of somebody who works here stands."""

    INVITED = "invited"
    ACTIVE = "active"
    SUSPENDED = "suspended"
    DELETED = "deleted"


class Person:
    """What customers and staff share: how they sign in, and how that goes wrong.

    The hash is left out of every ordinary read: most login roles may not see it.
    """

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    email: Mapped[str]
    name: Mapped[str] = mapped_column(server_default="")
    password_hash: Mapped[str | None] = mapped_column(**SECRET)
    login_attempts: Mapped[int] = mapped_column(server_default=text("0"), **SECRET)
    locked_until: Mapped[datetime | None] = mapped_column(**SECRET)
    last_login: Mapped[datetime | None]
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class User(Person, Base):
    """A customer. `name` and its two parts are kept in step by a trigger."""

    __tablename__ = "users"

    email_verified: Mapped[bool] = mapped_column(server_default=text("false"))
    username: Mapped[str | None]
    first_name: Mapped[str] = mapped_column(server_default="")
    last_name: Mapped[str] = mapped_column(server_default="")
    user_type: Mapped[str] = mapped_column(server_default="customer")
    role: Mapped[str] = mapped_column(server_default=CustomerRole.INDIVIDUAL_CLIENT)
    tier: Mapped[str] = mapped_column(server_default=Tier.FREE)
    status: Mapped[str] = mapped_column(server_default=Status.ACTIVE)
    is_active: Mapped[bool] = mapped_column(Computed("status = 'active'", persisted=True))
    # The space in front lets a short word be looked for where words begin, which an index can.
    searched: Mapped[str] = mapped_column(
        Text,
        Computed(
            "lower(' ' || name || ' ' || email || ' ' || coalesce(username, ''))", persisted=True
        ),
        **SECRET,
    )
    deleted_at: Mapped[datetime | None]
    erased_at: Mapped[datetime | None]

    @property
    def is_reachable(self) -> bool:
        """Whether a link may be sent to them that opens the account."""
        return self.status in (Status.ACTIVE, Status.PENDING)

    __table_args__ = (
        Index("uq_users_email", text("lower(email)"), unique=True),
        Index("uq_users_username", text("lower(username)"), unique=True),
        Index("ix_users_created_at", "created_at", "id"),
        Index("ix_users_email", "email", "id"),
        Index("ix_users_name", "name", "id"),
        Index("ix_users_status", "status", "created_at", "id"),
        Index("ix_users_deleted_at", "deleted_at", postgresql_where=column("erased_at").is_(None)),
        Index("ix_users_tier", "tier", "created_at", "id"),
        Index("ix_users_role", "role", "created_at", "id"),
        Index(
            "ix_users_searched",
            "searched",
            postgresql_using="gin",
            postgresql_ops={"searched": "gin_trgm_ops"},
        ),
    )


class UserPreferences(Base):
    """What a customer has chosen; without a row the defaults hold."""

    __tablename__ = "user_preferences"

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True
    )
    document: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class AdminUser(Person, Base):
    """Somebody who works here."""

    __tablename__ = "admin_users"

    role: Mapped[str]
    status: Mapped[str] = mapped_column(server_default=StaffStatus.ACTIVE)
    totp_secret: Mapped[bytes | None] = mapped_column(LargeBinary, **SECRET)
    totp_pending: Mapped[bytes | None] = mapped_column(LargeBinary, **SECRET)
    totp_last_step: Mapped[int | None] = mapped_column(BigInteger, **SECRET)
    totp_confirmed_at: Mapped[datetime | None]
    invited_by: Mapped[UUID | None] = mapped_column(ForeignKey("admin_users.id"))

    @property
    def is_reachable(self) -> bool:
        """Whether a link may be sent to them that opens the account."""
        return self.status == StaffStatus.ACTIVE

    @property
    def has_second_factor(self) -> bool:
        return self.totp_confirmed_at is not None

    __table_args__ = (
        Index(
            "uq_admin_users_email",
            text("lower(email)"),
            unique=True,
            postgresql_where=text("status <> 'deleted'"),
        ),
        Index("ix_admin_users_created_at", "created_at", "id"),
    )


class RecoveryCode(Base):
    """One way in for staff who have lost their second factor; good once."""

    __tablename__ = "recovery_codes"

    admin_user_id: Mapped[UUID] = mapped_column(
        ForeignKey("admin_users.id", ondelete="CASCADE"), primary_key=True
    )
    code_hash: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    used_at: Mapped[datetime | None]


class Identity(Base):
    """Who somebody is at an OpenID provider."""

    __tablename__ = "identities"

    kind: Mapped[str] = mapped_column(primary_key=True)
    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), index=True
    )
    admin_user_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("admin_users.id", ondelete="CASCADE"), index=True
    )
    email: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
