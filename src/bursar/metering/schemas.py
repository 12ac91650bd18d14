"""Usage over the wire: a call, what is said of a key, and what it all adds up to."""

from datetime import date, datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    Field,
    PlainSerializer,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from bursar.accounts.models import Tier
from bursar.core import api_keys
from bursar.core.addresses import canonical
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, StaffWire, Wire, begins_with_date
from bursar.metering.events import SAID

LONGEST_ID = 300

# Without control characters; checked by a pattern, because there are thousands in a request.
PLAIN = r"^[^\x00-\x1f\x7f-\x9f]*$"


@lru_cache(maxsize=4096)
def address(value: str) -> str:
    try:
        return str(canonical(value))
    except ValueError:
        raise ValueError("This is no IP address.") from None


@lru_cache(maxsize=4096)
def day_or_time(value: str) -> str:
    """As it was said: a report repeats it, and only its order is looked at."""
    try:
        datetime.fromisoformat(begins_with_date(value))
    except ValueError:
        raise ValueError("This is no date, as 2026-11-21 is, and no time of one.") from None
    return value


# What is said of a call may have a key in it, as error messages do: it counts all the same.
HIDDEN = AfterValidator(api_keys.masked)
Endpoint = Annotated[str, Field(min_length=1, max_length=300, pattern=PLAIN), HIDDEN]
EventId = Annotated[
    str,
    Field(min_length=1, max_length=LONGEST_ID, pattern=PLAIN),
    AfterValidator(api_keys.refuse),
]
Short = Annotated[str, Field(max_length=100, pattern=PLAIN), HIDDEN]
Day = Annotated[str, Field(max_length=100, pattern=PLAIN), AfterValidator(day_or_time)]
Medium = Annotated[str, Field(max_length=500, pattern=PLAIN), HIDDEN]
Long = Annotated[str, Field(max_length=1000, pattern=PLAIN), HIDDEN]
Address = Annotated[str, Field(max_length=45), AfterValidator(address)]


class Call(Wire):
    """One call of the business's API."""

    endpoint: Endpoint = Field(description="A route such as /v1/things/{id}, not each address.")
    location: Medium | None = None
    state: Short | None = None
    date_from: Day | None = None
    date_to: Day | None = None
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

    @field_validator("date_to")
    @classmethod
    def ends_after_it_begins(cls, value: str | None, info: ValidationInfo) -> str | None:
        since = info.data.get("date_from")
        if value and since and value[:10] < since[:10]:
            raise ValueError("This lies before date_from.")
        return value

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
    count: StrictBool = Field(
        True, description="false: only look; nothing is counted, and no rate is used up."
    )


class RateOut(Wire):
    """How far the nearest rate limit is used up."""

    policy: str = Field(description="Whose it is: second, minute, key-second, key-minute.")
    limit: int
    window_seconds: int
    remaining: int
    reset_seconds: int


class QuotaState(Wire):
    """What is left of the month: to the customer, or to the key where that is less."""

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
    successful_requests: int = Field(
        description="With a status below 400; calls without one are in total_requests alone."
    )
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
    p50_ms: float | None = Field(description="30000 means 30 s or more, as in all of these.")
    p95_ms: float | None
    p99_ms: float | None


class RestOut(PartOut):
    """All that is not among the 1,000 largest parts, together."""

    parts: int = Field(description="How many these are.")


class Breakdown(Wire):
    """Usage by one thing, in a span of days (UTC): with the rest, if there is one, all of it."""

    by: Literal["endpoint", "key", "status", "day", "hour"]
    from_: date = Field(serialization_alias="from", validation_alias="from_")
    to: date = Field(description="The first day that is not in it.")
    parts: list[PartOut] = Field(description="The 1,000 largest; days and hours in their order.")
    rest: RestOut | None


class PartForStaff(PartOut, StaffWire):
    """Calls that have one thing in common, for staff."""


class RestForStaff(RestOut, StaffWire):
    """All that is not among the 1,000 largest parts, together, for staff."""


class BreakdownForStaff(Breakdown, StaffWire):
    """The same for staff."""

    parts: list[PartForStaff]  # type: ignore[assignment]
    rest: RestForStaff | None


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
