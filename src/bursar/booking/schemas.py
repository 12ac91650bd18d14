"""Booking as it goes over the wire to customers, and the fields that staff see as well."""

from datetime import date, datetime
from typing import Annotated, Any, TypeVar
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field, StrictBool

from bursar.booking.models import (
    AppointmentStatus,
    EnrolmentStatus,
    PaymentStatus,
    TrainingStatus,
)
from bursar.core.paging import PageFields
from bursar.core.wire import Line, Moment, Money, Time, Wire

Moments = TypeVar("Moments", date, datetime)


def this_century(moment: Moments) -> Moments:
    """Of times that people book; beyond, adding an hour might lead out of the calendar."""
    if not 2000 <= moment.year < 2200:
        raise ValueError("This is a time between the years 2000 and 2200.")
    return moment


Near = Annotated[Time, AfterValidator(this_century)]
Day = Annotated[date, AfterValidator(this_century)]
Reason = Annotated[Line, Field(min_length=1, max_length=500)]
Note = Annotated[str, Field(max_length=1000)]
Version = Annotated[int, Field(description="The number in the ETag.")]


class ProviderName(Wire):
    """Somebody who gives services."""

    id: UUID
    name: str
    time_zone: str = Field(description="Whose clock their working hours go by.")


class ServiceFields(BaseModel):
    """What everybody sees of a service."""

    id: UUID
    name: str
    description: str
    price: Money
    currency: str
    duration_minutes: int
    payment_in_advance: bool = Field(
        description="Whether it is free again unless it is paid for soon after it was booked."
    )


class ServiceOut(ServiceFields, Wire):
    """Something to book an appointment for."""

    providers: list[ProviderName]


class ServiceList(PageFields, Wire):
    """One page of services."""

    services: list[ServiceOut]


class SlotOut(Wire):
    """A time that can be booked."""

    provider_id: UUID
    starts_at: Moment
    ends_at: Moment


class Availability(Wire):
    """The times at which a service can be booked, the earliest first."""

    slots: list[SlotOut]
    providers: list[ProviderName]
    complete: bool = Field(description="False: there are more; ask again from the last one on.")


class AppointmentFields(BaseModel):
    """What everybody sees who sees an appointment."""

    id: UUID
    service_id: UUID
    service_name: str
    starts_at: Moment
    ends_at: Moment
    status: AppointmentStatus
    price: Money
    currency: str
    payment_status: PaymentStatus
    payment_id: UUID | None
    pay_by: Moment | None = Field(description="Then it is free again, unless it is paid for.")
    note: str | None
    cancelled_at: Moment | None
    cancel_reason: str | None
    refund_percent: int | None = Field(description="The share that goes back, once cancelled.")
    version: Version
    created_at: Moment
    updated_at: Moment


class AppointmentOut(AppointmentFields, Wire):
    """An appointment of yours."""

    provider: ProviderName


class AppointmentList(PageFields, Wire):
    """One page of your appointments."""

    appointments: list[AppointmentOut]


class AppointmentIn(Wire):
    """What to book, and when."""

    service_id: UUID
    provider_id: UUID | None = Field(None, description="Left out: whoever is free.")
    starts_at: Near
    note: Note | None = Field(None, description="What the provider should know.")


class AppointmentMove(Wire):
    """Another time for an appointment."""

    starts_at: Near
    provider_id: UUID | None = Field(None, description="Left out: the same as before.")


class Cancellation(Wire):
    """Why it is cancelled, if you want to say."""

    reason: Reason | None = None


class TrainingFields(BaseModel):
    """What everybody sees of a training."""

    id: UUID
    title: str
    description: str
    starts_at: Moment
    ends_at: Moment
    enrol_until: Moment
    capacity: int
    enrolled: int
    waiting: int
    price: Money
    currency: str
    payment_in_advance: bool
    status: TrainingStatus
    cancel_reason: str | None


class TrainingOut(TrainingFields, Wire):
    """A training that one can enrol for."""

    provider: ProviderName


class TrainingList(PageFields, Wire):
    """One page of trainings."""

    trainings: list[TrainingOut]


class EnrolmentIn(Wire):
    """Whether to wait for a place where there is none."""

    wait: StrictBool = False


class EnrolmentFields(BaseModel):
    """What everybody sees who sees an enrolment."""

    id: UUID
    training_id: UUID
    status: EnrolmentStatus
    position: int | None = Field(None, description="In the waiting list; 1 gets the next place.")
    price: Money
    currency: str
    payment_status: PaymentStatus
    payment_id: UUID | None
    pay_by: Moment | None
    cancelled_at: Moment | None
    cancel_reason: str | None
    refund_percent: int | None
    version: Version
    created_at: Moment
    updated_at: Moment


class EnrolmentOut(EnrolmentFields, Wire):
    """An enrolment of yours."""

    title: str
    starts_at: Moment


class EnrolmentList(PageFields, Wire):
    """One page of your enrolments."""

    enrolments: list[EnrolmentOut]


def with_position(row: Any, kind: type[BaseModel], positions: dict[UUID, int]) -> Any:
    """An enrolment with its place in the waiting list and what it is for."""
    facts = {name: getattr(row, name) for name in kind.model_fields if hasattr(row, name)}
    about: dict[str, datetime | str] = {
        "title": row.training.title,
        "starts_at": row.training.starts_at,
    }
    return kind.model_validate({**facts, **about, "position": positions.get(row.id)})
