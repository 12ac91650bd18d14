"""Saved methods and automatic top-ups over the wire."""

from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from bursar.core.money import NUMBER, Amount
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Moment, Money, StaffWire, Wire
from bursar.payments.automatic import State, View, Wanted
from bursar.payments.currencies import exactly
from bursar.payments.models import PaymentMethod
from bursar.payments.schemas import Currency


class MethodFields(BaseModel):
    """What customers and staff see alike of a saved way to pay."""

    id: UUID
    provider: str
    kind: str
    brand: str | None
    last_four: str | None
    exp_month: int | None
    exp_year: int | None
    is_default: bool
    test_mode: bool
    created_at: Moment


class MethodOut(MethodFields, Wire):
    """What is known of a saved way to pay."""

    @classmethod
    def of(cls, row: PaymentMethod) -> "MethodOut":
        return cls.model_validate(row)


class MethodList(PageFields, Wire):
    """One page of saved methods."""

    payment_methods: list[MethodOut]


class MethodForStaff(MethodFields, StaffWire):
    """The same as staff see it."""

    user_id: UUID

    @classmethod
    def of(cls, row: PaymentMethod) -> "MethodForStaff":
        return cls.model_validate(row)


class MethodListForStaff(PageFields, StaffWire):
    """One page of saved methods."""

    payment_methods: list[MethodForStaff]


Threshold = Annotated[Decimal, Field(allow_inf_nan=False, ge=0, lt=10**12), NUMBER]


class AutoTopUpIn(Wire):
    """Below what the wallet is filled, with how much, from which saved method, how often."""

    threshold: Threshold
    amount: Amount
    currency: Currency = "USD"
    method_id: UUID | None = Field(None, description="A saved method; else the default one.")
    at_most_per_day: Annotated[int, Field(strict=True, ge=1, le=10), WHOLE] = 1
    enabled: Annotated[bool, Field(strict=True)] = True

    @property
    def wanted(self) -> Wanted:
        return Wanted(**self.model_dump())


def facts(view: View) -> dict[str, Any]:
    row = view.row
    names = ("currency", "method_id", "at_most_per_day", "enabled", "declines", "retry_at")
    return {
        **{name: getattr(row, name) for name in names},
        "threshold": exactly(row.threshold, row.currency),
        "amount": exactly(row.amount, row.currency),
        "state": view.state,
        "updated_at": row.updated_at,
        "version": row.version,
    }


class AutoTopUpOut(Wire):
    """An automatic top-up, and whether it works."""

    threshold: Money
    amount: Money
    currency: str
    method_id: UUID | None
    at_most_per_day: int
    enabled: bool
    state: State = Field(description="What keeps it from working, where something does.")
    declines: int = Field(description="One after the other; the third pauses it.")
    retry_at: Moment | None
    updated_at: Moment
    version: int

    @classmethod
    def of(cls, view: View) -> "AutoTopUpOut":
        return cls.model_validate(facts(view))


class AutoTopUpForStaff(StaffWire):
    """The same as staff see it."""

    user_id: UUID
    threshold: Money
    amount: Money
    currency: str
    method_id: UUID | None
    at_most_per_day: int
    enabled: bool
    state: State
    declines: int
    retry_at: Moment | None
    updated_at: Moment
    version: int

    @classmethod
    def of(cls, view: View) -> "AutoTopUpForStaff":
        return cls.model_validate({**facts(view), "user_id": view.row.user_id})
