"""The tables of the ledger: wallets/posting.sql writes them, wallets/guards.sql watches."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Numeric,
    SmallInteger,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class AccountStatus(StrEnum):
    """Whether money moves: out of a frozen account none does, in a closed one none at all."""

    OPEN = "open"
    FROZEN = "frozen"
    CLOSED = "closed"


class HoldState(StrEnum):
    """Where a hold stands."""

    OPEN = "open"
    CAPTURED = "captured"
    VOIDED = "voided"
    EXPIRED = "expired"


class Asset(Base):
    """What accounts are kept in: a currency, or points."""

    __tablename__ = "assets"

    code: Mapped[str] = mapped_column(primary_key=True)
    scale: Mapped[int] = mapped_column(SmallInteger)
    kind: Mapped[str] = mapped_column(server_default="currency")
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Account(Base):
    """A customer's wallet, or one of the company's own accounts. A version is what `seq` is.

    Without an overdraft there is no limit, which is for the company's own alone.
    """

    __tablename__ = "accounts"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    asset: Mapped[str] = mapped_column(ForeignKey("assets.code"))
    owner_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    purpose: Mapped[str] = mapped_column(server_default="wallet")
    shard: Mapped[int] = mapped_column(SmallInteger, server_default=text("0"))
    posted: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    held: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    spent: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    overdraft: Mapped[int | None] = mapped_column(BigInteger, server_default=text("0"))
    seq: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    moved_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(server_default=AccountStatus.OPEN)
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("id", "asset"),
        Index(
            "uq_accounts_owner_id",
            "owner_id",
            "asset",
            unique=True,
            postgresql_where=text("owner_id is not null"),
        ),
        Index(
            "uq_accounts_purpose",
            "purpose",
            "asset",
            "shard",
            unique=True,
            postgresql_where=text("purpose <> 'wallet'"),
        ),
    )


class Operation(Base):
    """What was asked, by whom, and what came of it: for ever."""

    __tablename__ = "operations"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    scope: Mapped[str]
    key: Mapped[str]
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary)
    outcome: Mapped[dict[str, Any]]
    actor: Mapped[str]
    request_id: Mapped[str | None]
    created_at: Mapped[datetime]

    __table_args__ = (
        Index("uq_operations_mark", text("operation_mark(scope, key)"), unique=True),
        Index("ix_operations_created_at", "created_at", postgresql_using="brin"),
        Index(
            "ix_operations_granted",
            "scope",
            "created_at",
            postgresql_where=text("starts_with(scope, 'rewards.grants ')"),
        ),
    )


class Hold(Base):
    """An amount set aside in an account; parts of it are captured, the rest goes back."""

    __tablename__ = "holds"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"))
    account_id: Mapped[UUID]
    asset: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    captured: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    state: Mapped[str] = mapped_column(server_default=HoldState.OPEN)
    kind: Mapped[str]
    category: Mapped[str | None]
    # `metadata` is SQLAlchemy's own name
    about: Mapped[dict[str, Any] | None] = mapped_column("metadata")
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"))

    __table_args__ = (
        ForeignKeyConstraint(["account_id", "asset"], ["accounts.id", "accounts.asset"]),
        Index(
            "ix_holds_open",
            "account_id",
            postgresql_include=["amount", "captured"],
            postgresql_where=text("state = 'open'"),
        ),
        Index("ix_holds_expires_at", "expires_at", postgresql_where=text("state = 'open'")),
        Index("ix_holds_account_id", "account_id", "created_at", "id"),
    )


# From when it was posted to when it took effect, whichever came first.
BETWEEN = text("tstzrange(least(effective_at, posted_at), greatest(effective_at, posted_at))")


class Transfer(Base):
    """One debit and one credit. Each side of each account is a chain of numbers and balances."""

    __tablename__ = "transfers"

    id: Mapped[UUID] = mapped_column(primary_key=True)
    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id"))
    asset: Mapped[str]
    amount: Mapped[int] = mapped_column(BigInteger)
    debit_id: Mapped[UUID]
    debit_seq: Mapped[int] = mapped_column(BigInteger)
    debit_after: Mapped[int] = mapped_column(BigInteger)
    credit_id: Mapped[UUID]
    credit_seq: Mapped[int] = mapped_column(BigInteger)
    credit_after: Mapped[int] = mapped_column(BigInteger)
    kind: Mapped[str]
    category: Mapped[str | None]
    reverses: Mapped[UUID | None] = mapped_column(ForeignKey("transfers.id"))
    hold_id: Mapped[UUID | None] = mapped_column(ForeignKey("holds.id"))
    posted_at: Mapped[datetime]
    effective_at: Mapped[datetime | None]
    about: Mapped[dict[str, Any] | None] = mapped_column("metadata")

    __table_args__ = (
        UniqueConstraint("debit_id", "debit_seq"),
        UniqueConstraint("credit_id", "credit_seq"),
        ForeignKeyConstraint(["debit_id", "asset"], ["accounts.id", "accounts.asset"]),
        ForeignKeyConstraint(["credit_id", "asset"], ["accounts.id", "accounts.asset"]),
        Index("ix_transfers_reverses", "reverses", postgresql_where=text("reverses is not null")),
        Index("ix_transfers_hold_id", "hold_id", postgresql_where=text("hold_id is not null")),
        Index(
            "ix_transfers_sent",
            "debit_id",
            "posted_at",
            postgresql_include=["amount"],
            postgresql_where=text("kind = 'transfer'"),
        ),
        Index(
            "ix_transfers_debit_between",
            "debit_id",
            BETWEEN,
            postgresql_using="gist",
            postgresql_where=text("effective_at is not null"),
        ),
        Index(
            "ix_transfers_credit_between",
            "credit_id",
            BETWEEN,
            postgresql_using="gist",
            postgresql_where=text("effective_at is not null"),
        ),
        Index("ix_transfers_posted_at", "posted_at", postgresql_using="brin"),
    )


class Adjustment(Base):
    """A correction by staff. Above a limit a second person decides, whom the table tells apart."""

    __tablename__ = "adjustments"

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    asset: Mapped[str] = mapped_column(ForeignKey("assets.code"))
    amount: Mapped[int] = mapped_column(BigInteger)  # below zero: it is taken
    reason: Mapped[str]
    state: Mapped[str] = mapped_column(server_default="proposed")
    proposed_by: Mapped[UUID]
    key: Mapped[str | None]  # of whoever proposed it, for ever
    decided_by: Mapped[UUID | None]
    decided_at: Mapped[datetime | None]
    operation_id: Mapped[UUID | None] = mapped_column(ForeignKey("operations.id"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())

    __table_args__ = (
        UniqueConstraint("proposed_by", "key"),
        UniqueConstraint("operation_id"),
        Index("ix_adjustments_state", "state", "created_at", "id"),
        Index("ix_adjustments_user_id", "user_id", "created_at", "id"),
    )


class AccountPosition(Base):
    """How far a follower has read the entries of an account (wallets/followers.py)."""

    __tablename__ = "account_positions"
    unaudited = True

    follower: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger)


class WalletDay(Base):
    """What a wallet spent in one day on one category, as far as its follower has read."""

    __tablename__ = "wallet_days"
    unaudited = True

    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    day: Mapped[date] = mapped_column(primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True)
    spent: Mapped[int] = mapped_column(Numeric, server_default=text("0"))
    transfers: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
