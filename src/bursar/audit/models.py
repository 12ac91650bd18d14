"""Tables of the audit trail: rows, what waits for a seal, seals, checkpoints and their shipment."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Computed,
    Index,
    LargeBinary,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base

AREA = "split_part(event_type, '.', 1)"


class AuditLog(Base):
    """Who did what to what: written by record_audit alone, never changed."""

    __tablename__ = "audit_logs"
    __table_args__ = (
        Index("ix_audit_logs_occurred_at", "occurred_at", "id"),
        Index("ix_audit_logs_event_type", "event_type", "occurred_at", "id"),
        Index("ix_audit_logs_area", "area", "occurred_at", "id"),
        Index("ix_audit_logs_actor_id", "actor_id", "occurred_at", "id"),
        Index(
            "ix_audit_logs_on_behalf_of",
            "on_behalf_of",
            "occurred_at",
            "id",
            postgresql_where=text("on_behalf_of is not null"),
        ),
        Index(
            "ix_audit_logs_impersonator_id",
            "impersonator_id",
            "occurred_at",
            "id",
            postgresql_where=text("impersonator_id is not null"),
        ),
        Index("ix_audit_logs_target_type", "target_type", "occurred_at", "id"),
        Index("ix_audit_logs_target_id", "target_id", "occurred_at", "id"),
        Index(
            "ix_audit_logs_request_id",
            "request_id",
            "occurred_at",
            "id",
            postgresql_where=text("request_id is not null"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    event_type: Mapped[str]
    actor_kind: Mapped[str]
    actor_id: Mapped[UUID | None]
    on_behalf_of: Mapped[UUID | None]
    impersonator_id: Mapped[UUID | None]
    target_type: Mapped[str | None]
    target_id: Mapped[str | None]
    before: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    after: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    address: Mapped[str | None]
    request_id: Mapped[str | None]
    occurred_at: Mapped[datetime]
    login_role: Mapped[str]
    subject: Mapped[UUID | None]
    xid: Mapped[int] = mapped_column(BigInteger)
    # of an event type what stands before the point
    area: Mapped[str] = mapped_column(Computed(AREA, persisted=True))


class Unsealed(Base):
    """A row that waits for its seal."""

    __tablename__ = "audit_unsealed"

    xid: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    log_id: Mapped[UUID] = mapped_column(primary_key=True)


class AuditSeal(Base):
    """A link of the chain: it holds the digest of one row and, by the hash, all links before it."""

    __tablename__ = "audit_seals"
    __table_args__ = (
        UniqueConstraint("log_id"),
        CheckConstraint("seq > 0", name="counted"),
        CheckConstraint("octet_length(digest) = 32 and octet_length(hash) = 32", name="sha256"),
    )

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    log_id: Mapped[UUID]
    digest: Mapped[bytes] = mapped_column(LargeBinary)
    hash: Mapped[bytes] = mapped_column(LargeBinary)
    sealed_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AuditCheckpoint(Base):
    """What the chain was at a moment, signed."""

    __tablename__ = "audit_checkpoints"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    document: Mapped[str]
    made_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AuditShipment(Base):
    """A checkpoint that has arrived where checkpoints are kept."""

    __tablename__ = "audit_shipments"

    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    place: Mapped[str] = mapped_column(primary_key=True)
    shipped_at: Mapped[datetime] = mapped_column(server_default=func.clock_timestamp())


class AuditChain(Base):
    """The name of this history, in its one row."""

    __tablename__ = "audit_chains"

    installation: Mapped[UUID] = mapped_column(
        primary_key=True, server_default=text("gen_random_uuid()")
    )
    started_at: Mapped[datetime] = mapped_column(server_default=func.now())
