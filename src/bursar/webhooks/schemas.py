"""Webhook endpoints and deliveries as they go over the wire."""

from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import Field, StrictBool, field_validator

from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, StaffWire, Time
from bursar.webhooks.addresses import LONGEST_URL
from bursar.webhooks.models import DeliveryStatus, EndpointStatus, OffReason
from bursar.webhooks.sending import Reason

Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=LONGEST_URL,
        description="https, at a public address.",
        examples=["https://example.com/webhooks"],
    ),
]
Description = Annotated[Line, Field(max_length=200)]
Filters = Annotated[
    list[Annotated[str, Field(min_length=1, max_length=100)]],
    Field(
        min_length=1,
        max_length=50,
        description="Names of events, what names begin with (users.*), or *.",
        examples=[["users.*"]],
    ),
]


class EndpointIn(StaffWire):
    """A new endpoint."""

    url: Url
    description: Description = ""
    events: Filters = Field(default_factory=lambda: ["*"])
    enabled: StrictBool = True


class EndpointEdit(StaffWire):
    """What changes of an endpoint; what is left out stays as it is."""

    url: Url | None = None
    description: Description | None = None
    events: Filters | None = None
    enabled: StrictBool | None = None

    def facts(self) -> dict[str, Any]:
        return {key: value for key, value in dict(self).items() if value is not None}


class EndpointOut(StaffWire):
    """An endpoint; the version is the ETag."""

    id: UUID
    url: str
    description: str
    events: list[str]
    enabled: bool
    status: EndpointStatus
    off_reason: OffReason | None
    off_at: Moment | None
    failing_since: Moment | None = Field(description="Since then nothing has arrived there.")
    old_secret_until: Moment | None = Field(description="Until then two secrets sign.")
    created_by: UUID | None
    version: int
    created_at: Moment
    updated_at: Moment


class EndpointWithSecret(EndpointOut):
    """An endpoint with its new secret, which is shown this once."""

    secret: str = Field(examples=["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"])


class EndpointList(PageFields, StaffWire):
    """One page of endpoints."""

    webhook_endpoints: list[EndpointOut]


class RotationIn(StaffWire):
    """How long the secret before signs too."""

    grace_hours: Annotated[int, Field(ge=0, le=168, strict=True), WHOLE] = 24


class EventTypeOut(StaffWire):
    """An event that endpoints may be told of."""

    name: str
    description: str
    data_schema: dict[str, Any] = Field(description="What stands in `data`, as JSON Schema.")


class EventTypeList(PageFields, StaffWire):
    """One page of events."""

    webhook_event_types: list[EventTypeOut]


class DeliveryOut(StaffWire):
    """One event for one endpoint."""

    id: UUID = Field(description="The webhook-id, the same at every attempt.")
    endpoint_id: UUID
    event_id: int | None = Field(description="Null: a test.")
    event_type: str
    status: DeliveryStatus
    reason: Reason | None = Field(description="Of the last failure.")
    attempts: int = Field(description="Since it was made, or replayed.")
    next_attempt_at: Moment | None
    created_at: Moment
    settled_at: Moment | None


class AttemptOut(StaffWire):
    """One request and how it ended; without a reason it went well."""

    started_at: Moment
    duration_ms: int
    status_code: int | None
    reason: Reason | None
    detail: str | None
    answer: str | None = Field(description="The first 2 KB of it.")


class DeliveryWithAttempts(DeliveryOut):
    """A delivery with what was sent, and its attempts, the newest first."""

    body: dict[str, Any]
    attempt_log: list[AttemptOut]

    @field_validator("body", mode="before")
    @classmethod
    def as_sent(cls, value: Any) -> Any:
        return orjson.loads(value) if isinstance(value, str) else value


class DeliveryList(PageFields, StaffWire):
    """One page of deliveries."""

    webhook_deliveries: list[DeliveryOut]


class ReplayIn(StaffWire):
    """From when on what has failed is sent again."""

    since: Time


class ReplayedOut(StaffWire):
    """What is on its way again."""

    replayed: int
    more: bool = Field(description="There are more than are taken at once: ask again.")
