"""Booking as staff see and set it."""

from decimal import Decimal
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import Field, StrictBool, model_validator

from bursar.accounts.emails import Email
from bursar.booking.models import AppointmentStatus, ExceptionKind, TrainingStatus
from bursar.booking.schemas import (
    AppointmentFields,
    AppointmentIn,
    AppointmentMove,
    Cancellation,
    Day,
    EnrolmentFields,
    EnrolmentIn,
    Near,
    ProviderName,
    Reason,
    ServiceFields,
    SlotOut,
    TrainingFields,
    Version,
)
from bursar.core.money import NUMBER
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, StaffWire

Name = Annotated[Line, Field(min_length=1, max_length=200)]
Description = Annotated[str, Field(max_length=5000)]
Price = Annotated[
    Decimal,
    Field(le=1_000_000_000, allow_inf_nan=False, description="In the digits of its currency."),
    NUMBER,
]
CurrencyCode = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217.")]
Minutes = Annotated[int, Field(ge=0, le=1440, strict=True), WHOLE]
Percent = Annotated[int, Field(ge=0, le=100, strict=True), WHOLE]
Clock = Annotated[
    str,
    Field(
        pattern="^([01][0-9]|2[0-3]):[0-5][0-9]$|^24:00$", description="By the provider's clock."
    ),
]


class ProviderIn(StaffWire):
    """A provider as a whole."""

    name: Name
    email: Email | None = None
    time_zone: Annotated[str, Field(min_length=1, max_length=100)] = Field(
        "UTC", description="An IANA name such as Europe/Berlin."
    )
    active: StrictBool = True


class ProviderNameForStaff(ProviderName, StaffWire):
    """Somebody who gives services."""


class ProviderForStaff(ProviderNameForStaff):
    """A provider; the version is the ETag."""

    email: str | None
    active: bool
    version: Version
    created_at: Moment
    updated_at: Moment


class ProviderList(PageFields, StaffWire):
    """One page of providers."""

    providers: list[ProviderForStaff]


class Stretch(StaffWire):
    """Hours of one weekday."""

    weekday: Annotated[int, Field(ge=1, le=7, strict=True, description="Monday is 1."), WHOLE]
    starts: Clock
    ends: Clock

    @model_validator(mode="after")
    def ends_later(self) -> Self:
        if minutes(self.ends) <= minutes(self.starts):
            raise ValueError("Hours end after they have begun; 24:00 is the end of the day.")
        return self

    def facts(self) -> dict[str, int]:
        return {
            "weekday": self.weekday,
            "starts_minute": minutes(self.starts),
            "ends_minute": minutes(self.ends),
        }


def minutes(clock: str) -> int:
    """Since midnight; anything else than a time on a clock is refused elsewhere."""
    hours, _, rest = clock.partition(":")
    return int(hours) * 60 + int(rest)


def on_clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


class WeekIn(StaffWire):
    """All working hours of a week."""

    hours: Annotated[list[Stretch], Field(max_length=100)]


class Week(StaffWire):
    """All working hours of a week, by the provider's clock."""

    provider_id: UUID
    time_zone: str
    hours: list[Stretch]


class ExceptionIn(StaffWire):
    """A time, or a whole day by the provider's clock."""

    kind: ExceptionKind
    day: Day | None = None
    starts_at: Near | None = None
    ends_at: Near | None = None
    reason: Reason | None = None

    @model_validator(mode="after")
    def one_of_both(self) -> Self:
        times = (self.starts_at is not None, self.ends_at is not None)
        if times not in ((True, True), (False, False)) or (self.day is None) == (not all(times)):
            raise ValueError("Send a day, or startsAt and endsAt.")
        return self


class ExceptionForStaff(StaffWire):
    """A time at which a provider is closed, or works although the week does not say so."""

    id: UUID
    provider_id: UUID
    kind: ExceptionKind
    starts_at: Moment
    ends_at: Moment
    reason: str | None
    created_at: Moment


class ExceptionList(PageFields, StaffWire):
    """One page of exceptions."""

    exceptions: list[ExceptionForStaff]


class ServiceIn(StaffWire):
    """A service as a whole."""

    name: Name
    description: Description = ""
    price: Price
    currency: CurrencyCode = "USD"
    duration_minutes: Annotated[int, Field(ge=1, le=1440, strict=True), WHOLE]
    buffer_before_minutes: Minutes = 0
    buffer_after_minutes: Minutes = 0
    payment_in_advance: StrictBool = False
    active: StrictBool = True
    provider_ids: Annotated[list[UUID], Field(max_length=100)] = Field(
        default_factory=list, description="Who gives it."
    )


class ServiceForStaff(ServiceFields, StaffWire):
    """A service; the version is the ETag."""

    buffer_before_minutes: int
    buffer_after_minutes: int
    active: bool
    providers: list[ProviderNameForStaff]
    version: Version
    created_at: Moment
    updated_at: Moment


class ServiceListForStaff(PageFields, StaffWire):
    """One page of services."""

    services: list[ServiceForStaff]


class SlotForStaff(SlotOut, StaffWire):
    """A time that can be booked."""


class AvailabilityForStaff(StaffWire):
    """The times at which a service can be booked, the earliest first."""

    slots: list[SlotForStaff]
    providers: list[ProviderNameForStaff]
    complete: bool


class AppointmentForStaff(AppointmentFields, StaffWire):
    """An appointment; the version is the ETag."""

    user_id: UUID | None = Field(description="Null: the account is gone, the record stays.")
    provider: ProviderNameForStaff
    buffer_before_minutes: int
    buffer_after_minutes: int


class AppointmentListForStaff(PageFields, StaffWire):
    """One page of appointments."""

    appointments: list[AppointmentForStaff]


class AppointmentForAnother(AppointmentIn, StaffWire):
    """Whom to book for, what, and when."""

    user_id: UUID


class AppointmentMoveByStaff(AppointmentMove, StaffWire):
    """Another time for an appointment."""


class CancellationByStaff(Cancellation, StaffWire):
    """Why it is cancelled, and what goes back."""

    refund_percent: Percent | None = Field(
        None, description="Of what was paid; left out: by the policy."
    )


class AppointmentStatusIn(StaffWire):
    """What has become of an appointment."""

    status: Literal[
        AppointmentStatus.CONFIRMED, AppointmentStatus.COMPLETED, AppointmentStatus.NO_SHOW
    ]
    refund_percent: Percent | None = Field(
        None, description="Of a missed one what goes back nevertheless; left out: nothing."
    )


class TrainingIn(StaffWire):
    """A training as a whole."""

    title: Name
    description: Description = ""
    provider_id: UUID
    starts_at: Near
    ends_at: Near
    enrol_until: Near | None = Field(None, description="Left out: until it begins.")
    capacity: Annotated[int, Field(ge=1, le=10_000, strict=True), WHOLE]
    price: Price
    currency: CurrencyCode = "USD"
    payment_in_advance: StrictBool = False


class TrainingForStaff(TrainingFields, StaffWire):
    """A training; the version is the ETag. Who enrols does not change it."""

    provider: ProviderNameForStaff
    version: Version
    created_at: Moment
    updated_at: Moment


class TrainingListForStaff(PageFields, StaffWire):
    """One page of trainings."""

    trainings: list[TrainingForStaff]


class TrainingStatusIn(StaffWire):
    """Whether it took place."""

    status: Literal[TrainingStatus.CANCELLED, TrainingStatus.COMPLETED]
    reason: Reason | None = None


class EnrolmentForAnother(EnrolmentIn, StaffWire):
    """Whom to enrol."""

    user_id: UUID


class EnrolmentForStaff(EnrolmentFields, StaffWire):
    """Somebody's enrolment."""

    user_id: UUID | None


class EnrolmentListForStaff(PageFields, StaffWire):
    """One page of enrolments."""

    enrolments: list[EnrolmentForStaff]
