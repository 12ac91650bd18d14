"""Usage over the wire: what is reported, what is said of a key, and what it all adds up to."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    StrictBool,
    ValidationError,
    WrapValidator,
    model_validator,
)

from bursar.accounts.models import Tier
from bursar.core.addresses import canonical
from bursar.core.errors import BursarError
from bursar.core.paging import PageFields
from bursar.core.problems import from_validation
from bursar.core.wire import WHOLE, Line, Moment, StaffWire, Time, Wire
from bursar.metering.events import SAID, Event

MOST_EVENTS = 1000  # in one request


# Without control characters; checked by a pattern, because there are thousands in a request.
PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"


@lru_cache(maxsize=4096)
def address(value: str) -> str:
    try:
        return str(canonical(value))
    except ValueError:
        raise ValueError("This is no IP address.") from None


Endpoint = Annotated[str, Field(min_length=1, max_length=300, pattern=PLAIN)]
EventId = Annotated[str, Field(min_length=1, max_length=300, pattern=PLAIN)]
Short = Annotated[str, Field(max_length=100, pattern=PLAIN)]
Medium = Annotated[str, Field(max_length=500, pattern=PLAIN)]
Long = Annotated[str, Field(max_length=1000, pattern=PLAIN)]
Address = Annotated[str, Field(max_length=45), AfterValidator(address)]


class Call(Wire):
    """One call of the business's API."""

    endpoint: Endpoint = Field(description="A route such as /v1/things/{id}, not each address.")
    location: Medium | None = None
    state: Short | None = None
    date_from: Short | None = None
    date_to: Short | None = None
    response_time_ms: Annotated[int, Field(strict=True, ge=0, le=86_400_000), WHOLE] | None = None
    status_code: Annotated[int, Field(strict=True, ge=100, le=599), WHOLE] | None = None
    error_message: Long | None = None
    ip_address: Address | None = None
    user_agent: Medium | None = None
    units: Annotated[int, Field(strict=True, ge=1, le=10**9), WHOLE] = Field(
        1, description="How much it counts of a quota."
    )
    event_id: EventId | None = Field(
        None, description="The same id counts once, also weeks later, for each customer."
    )

    def facts(self) -> dict[str, Any]:
        return {name: value for name in SAID if (value := getattr(self, name)) is not None}


class VerifyIn(Call):
    """A key that somebody has shown, and the call that it was shown for."""

    key: Annotated[str, Field(max_length=500)]
    scope: Annotated[str, Field(max_length=100)] | None = Field(
        None, description="One that the key must have."
    )
    ip_address: Address | None = Field(
        None, description="Of the caller: some keys are good from certain addresses only."
    )
    count: StrictBool = Field(True, description="false: look at key and rate, count nothing.")


class RateOut(Wire):
    """How far the nearest rate limit is used up."""

    policy: str = Field(description="Whose it is: second, minute, key-second, key-minute.")
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class QuotaState(Wire):
    """What is left of the month."""

    limit: int | None = Field(description="null: without end.")
    used: int
    remaining: int | None


Code = Literal[
    "VALID", "UNKNOWN", "REVOKED", "EXPIRED", "DISABLED_OWNER", "FORBIDDEN_ADDRESS",
    "MISSING_SCOPE", "EVENT_CONFLICT", "RATE_LIMITED", "QUOTA_EXCEEDED",
    "PAYMENT_REQUIRED",
]  # fmt: skip


class VerifyOut(Wire):
    """Whether the call may go on, and why not; what may go on was counted."""

    valid: bool
    code: Code
    key_id: UUID | None
    user_id: UUID | None
    tier: Tier | None
    scopes: list[str] | None
    replayed: bool = Field(description="This event was counted before.")
    usage_id: UUID | None = Field(description="Of the counted call, for usage/outcomes.")
    quota: QuotaState | None
    rate: RateOut | None
    retry_after_seconds: int | None


class EventIn(Call):
    """One call, as it is reported after it."""

    timestamp: Time | None = Field(None, description="When it was; now, if that is left out.")
    api_key_id: UUID | None = None
    user_id: UUID | None = Field(None, description="By services: whose call it was.")

    def event(self) -> Event:
        facts = self.facts()
        if self.timestamp:
            facts["timestamp"] = self.timestamp
        return Event(facts, self.event_id, self.user_id, self.api_key_id)


@dataclass(frozen=True, slots=True)
class Misfit:
    """An item that is none: it is refused alone."""

    event_id: str | None
    error: BursarError


def or_why_not(value: Any, read: Callable[[Any], EventIn]) -> EventIn | Misfit:
    try:
        return read(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        event_id = value.get("event_id", value.get("eventId")) if isinstance(value, dict) else None
        problem = from_validation({**each, "loc": ("body", *each["loc"])} for each in found)
        return Misfit(event_id[:300] if isinstance(event_id, str) else None, problem)


class TooManyEvents(BursarError, status=413, code="usage.too_many_events"):
    """A request has at most 1,000 events; send the rest in another."""


def bounded(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_EVENTS:
        raise TooManyEvents(
            f"{len(value)} items were sent; a request has at most {MOST_EVENTS}.",
            limit=MOST_EVENTS,
        )
    return value


class EventsIn(Wire):
    """Calls that are counted or refused each by itself; also as CloudEvents, one or a batch."""

    events: Annotated[
        list[Annotated[EventIn, WrapValidator(or_why_not)]],
        Field(min_length=1),
        BeforeValidator(bounded),
    ]

    @model_validator(mode="before")
    @classmethod
    def of_cloud_events(cls, value: Any) -> Any:
        if isinstance(value, dict) and "specversion" in value:
            value = [value]
        if isinstance(value, list):
            return {"events": [of_cloud_event(each) for each in bounded(value)]}
        return value

    def items(self) -> list[EventIn | Misfit]:
        return [*self.events]


def of_cloud_event(value: Any) -> Any:
    """Its source and id are the id, its time the timestamp, its data the rest."""
    data = value.get("data") if isinstance(value, dict) else None
    if not isinstance(data, dict) or not all(
        isinstance(value.get(name), str) and value[name] for name in ("source", "id")
    ):
        return {}  # refused for what it lacks
    about = {"event_id": f"{value['source']} {value['id']}"}
    if value.get("time") is not None:
        about["timestamp"] = value["time"]
    if value.get("subject") is not None:
        about["user_id"] = value["subject"]
    return {**data, **about}


class EventOutcome(Wire):
    """What became of one event."""

    event_id: str | None
    status: Literal["counted", "duplicate", "refused"]
    status_code: int = Field(description="What it would have been answered alone.")
    code: str | None = None
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


class EventsOut(Wire):
    """An outcome for each event, in their order."""

    counted: int
    duplicates: int
    refused: int
    outcomes: list[EventOutcome]


class Counted(Wire):
    """What became of the event."""

    event_id: str | None
    status: Literal["counted", "duplicate"]


Shown = Annotated[IPv4Address | IPv6Address, PlainSerializer(str, return_type=str)]


class UsageOut(Wire):
    """One call."""

    id: UUID
    timestamp: Moment
    endpoint: str
    api_key_id: UUID | None
    status_code: int | None
    response_time_ms: int | None
    units: int
    event_id: str | None
    location: str | None
    state: str | None
    date_from: str | None
    date_to: str | None
    error_message: str | None
    ip_address: Shown | None
    user_agent: str | None


class UsageList(PageFields, Wire):
    """One page of calls."""

    usage: list[UsageOut]


class UsageForStaff(UsageOut, StaffWire):
    """One call, as staff see it."""

    user_id: UUID


class UsageListForStaff(PageFields, StaffWire):
    """One page of calls."""

    usage: list[UsageForStaff]


class MonthOut(Wire):
    """What a month adds up to."""

    month: str = Field(examples=["2026-11"])
    total_requests: int
    successful_requests: int
    failed_requests: int
    total_response_time_ms: int
    units: int
    last_updated: Moment


class Summary(PageFields, Wire):
    """Months, the newest first."""

    months: list[MonthOut]


class MonthForStaff(MonthOut, StaffWire):
    """What a month adds up to, for staff."""


class SummaryForStaff(PageFields, StaffWire):
    """Months, the newest first."""

    months: list[MonthForStaff]


class QuotaOut(Wire):
    """What the tier has in this month (UTC), what is left of it, and how often one may call."""

    tier: Tier
    month: str
    quota: int | None = Field(description="null: without end.")
    granted: int = Field(description="Of that, given by staff for this month.")
    used: int
    remaining: int | None
    is_hard: bool = Field(description="Whether calls are refused when nothing is left.")
    resets_at: Moment
    rate_per_second: int | None
    rate_per_minute: int | None


class QuotaForStaff(QuotaOut, StaffWire):
    """The same for staff."""


class PartOut(Wire):
    """Calls that have one thing in common."""

    part: str | None
    requests: int
    failed_requests: int
    units: int
    average_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


class Breakdown(Wire):
    """Usage by one thing, in a span of days (UTC)."""

    by: Literal["endpoint", "key", "status", "day", "hour"]
    from_: date = Field(serialization_alias="from", validation_alias="from_")
    to: date = Field(description="The first day that is not in it.")
    parts: list[PartOut]


class PartForStaff(PartOut, StaffWire):
    """Calls that have one thing in common, for staff."""


class BreakdownForStaff(Breakdown, StaffWire):
    """The same for staff."""

    parts: list[PartForStaff]  # type: ignore[assignment]


class GrantIn(StaffWire):
    """More than the tier has, for one month."""

    month: Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$")] | None = Field(
        None, description="The current one (UTC), if it is left out."
    )
    units: Annotated[int, Field(strict=True, ge=1, le=10**12), WHOLE]
    reason: Annotated[Line, Field(min_length=1, max_length=500)]


class GrantOut(StaffWire):
    """What was granted."""

    id: UUID
    user_id: UUID
    month: str
    units: int
    reason: str
    granted_by: UUID | None
    created_at: Moment


class GrantList(PageFields, StaffWire):
    """One page of grants."""

    grants: list[GrantOut]
