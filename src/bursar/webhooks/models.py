"""Who is told of events, what each was sent, and how every attempt ended."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    FetchedValue,
    ForeignKey,
    Index,
    String,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from bursar.core.database import Base


class EndpointStatus(StrEnum):
    """How an endpoint does."""

    ACTIVE = "active"
    FAILING = "failing"  # still tried: nothing has arrived since a failure
    OFF = "off"


class OffReason(StrEnum):
    """Why an endpoint is told of nothing."""

    STAFF = "staff"  # somebody switched it off
    GONE = "gone"  # it answered 410 Gone
    FAILING = "failing"  # a week of nothing but failure


class WebhookEndpoint(Base):
    """A URL that is told of events; its secrets are sealed."""

    __tablename__ = "webhook_endpoints"
    __table_args__ = (Index("ix_webhook_endpoints_created_at", "created_at", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    url: Mapped[str]
    description: Mapped[str] = mapped_column(server_default="")
    events: Mapped[list[str]] = mapped_column(ARRAY(String))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    off_reason: Mapped[str | None]
    off_at: Mapped[datetime | None]
    failing_since: Mapped[datetime | None]
    secret: Mapped[bytes]
    old_secret: Mapped[bytes | None]
    old_secret_until: Mapped[datetime | None]
    created_by: Mapped[UUID | None] = mapped_column(ForeignKey("admin_users.id"))
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )

    @property
    def status(self) -> EndpointStatus:
        if not self.enabled:
            return EndpointStatus.OFF
        return EndpointStatus.FAILING if self.failing_since else EndpointStatus.ACTIVE


class DeliveryStatus(StrEnum):
    """Where a delivery is."""

    PENDING = "pending"  # being sent, or waiting for its next attempt
    DELIVERED = "delivered"
    FAILED = "failed"  # nobody tries any more, unless it is replayed


class WebhookDelivery(Base):
    """One event for one endpoint; its id is the webhook-id, the same at every attempt."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        UniqueConstraint("event_id", "endpoint_id"),
        Index("ix_webhook_deliveries_created_at", "created_at", "id"),
        Index("ix_webhook_deliveries_status", "status", "created_at", "id"),
        Index("ix_webhook_deliveries_event_type", "event_type", "created_at", "id"),
        Index("ix_webhook_deliveries_endpoint_id", "endpoint_id", "created_at", "id"),
        Index(
            "ix_webhook_deliveries_due",
            "endpoint_id",
            "next_attempt_at",
            postgresql_where=text("status = 'pending'"),
        ),
        Index(
            "ix_webhook_deliveries_claimed",
            "endpoint_id",
            postgresql_where=text("claimed_by IS NOT NULL"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    endpoint_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_endpoints.id", ondelete="CASCADE")
    )
    event_id: Mapped[int | None] = mapped_column(BigInteger)  # none: a test
    event_type: Mapped[str]
    body: Mapped[str]
    status: Mapped[str] = mapped_column(server_default="pending")
    reason: Mapped[str | None]  # of the last failure
    attempts: Mapped[int] = mapped_column(server_default="0")  # since it was made or replayed
    next_attempt_at: Mapped[datetime | None] = mapped_column(server_default=func.now())
    claimed_by: Mapped[str | None]
    claimed_until: Mapped[datetime | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    settled_at: Mapped[datetime | None]


class WebhookAttempt(Base):
    """One request to an endpoint and how it ended; without a reason it went well."""

    __tablename__ = "webhook_attempts"
    __table_args__ = (Index("ix_webhook_attempts_delivery_id", "delivery_id", "id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    delivery_id: Mapped[UUID] = mapped_column(
        ForeignKey("webhook_deliveries.id", ondelete="CASCADE")
    )
    started_at: Mapped[datetime]
    duration_ms: Mapped[int]
    status_code: Mapped[int | None]
    reason: Mapped[str | None]
    detail: Mapped[str | None]
    answer: Mapped[str | None]
