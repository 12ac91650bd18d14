"""The audit trail as it goes over the wire."""

from typing import Any, Self
from uuid import UUID

from pydantic import Field

from bursar.audit.models import AuditLog
from bursar.auth.actor import Kind
from bursar.core.paging import PageFields
from bursar.core.wire import Moment, StaffWire


class ActorOut(StaffWire):
    """Who did it."""

    kind: Kind
    id: UUID | None
    on_behalf_of: UUID | None = Field(description="The customer whose key it was.")
    impersonator_id: UUID | None = Field(
        description="The member of staff who acted as this customer."
    )


class TargetOut(StaffWire):
    """What it was done to."""

    type: str | None
    id: str | None


class AuditLogOut(StaffWire):
    """One deed; of before and after only what differs is kept, and no secret."""

    id: UUID
    event_type: str
    actor: ActorOut
    impersonated: bool
    target: TargetOut
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    address: str | None
    request_id: str | None
    occurred_at: Moment
    seq: int | None = Field(description="Its place in the chain, once it is sealed.")
    sealed: bool

    @classmethod
    def of(cls, row: AuditLog, seq: int | None) -> Self:
        return cls(
            id=row.id,
            event_type=row.event_type,
            actor=ActorOut(
                kind=Kind(row.actor_kind),
                id=row.actor_id,
                on_behalf_of=row.on_behalf_of,
                impersonator_id=row.impersonator_id,
            ),
            impersonated=row.impersonator_id is not None,
            target=TargetOut(type=row.target_type, id=row.target_id),
            before=row.before,
            after=row.after,
            address=row.address,
            request_id=row.request_id,
            occurred_at=row.occurred_at,
            seq=seq,
            sealed=seq is not None,
        )


class AuditLogList(PageFields, StaffWire):
    """One page of the audit trail."""

    logs: list[AuditLogOut]
