"""Billing over the wire: to customers in snake_case, to staff in camelCase."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, Field, WithJsonSchema, model_validator

from bursar.accounts.models import Tier
from bursar.billing.models import Charging, Counts, Invoice, InvoiceStatus, PricePlan
from bursar.billing.queries import Charge
from bursar.core.money import NUMBER
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, Money, StaffWire, Wire
from bursar.payments.models import Payment
from bursar.payments.schemas import PaymentOut
from bursar.payments.staff_schemas import PaymentForStaff

MOST_UNITS = 10**12
MOST_TIERS = 20

Month = Annotated[str, Field(pattern=r"^20\d\d-(0[1-9]|1[0-2])$", examples=["2026-11"])]
Code = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$", examples=["reports"])]
Name = Annotated[Line, Field(min_length=1, max_length=100)]
Endpoint = Annotated[Line, Field(min_length=1, max_length=300)]
Units = Annotated[int, Field(strict=True, ge=0, le=MOST_UNITS), WHOLE]
Reason = Annotated[Line, Field(min_length=3, max_length=500)]
UnitPrice = Annotated[
    Decimal,
    Field(ge=0, le=1_000_000, decimal_places=12, allow_inf_nan=False),
    NUMBER,
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1_000_000}, mode="validation"),
]


class PriceTier(Wire):
    """What each unit costs up to `up_to`, counted from the first unit of the month."""

    up_to: Annotated[int, Field(strict=True, ge=1, le=MOST_UNITS), WHOLE] | None = Field(
        None, description="Null in the last tier: it has no end."
    )
    unit_price: UnitPrice

    def stored(self) -> dict[str, Any]:
        return {"up_to": self.up_to, "unit_price": f"{self.unit_price.normalize():f}"}


class PriceTierOut(Wire):
    """What each unit costs up to `up_to`, counted from the first unit of the month."""

    up_to: int | None
    unit_price: Money


class PriceTierForStaff(PriceTierOut, StaffWire):
    """The same for staff."""


class MeterIn(StaffWire):
    """What is to be counted: all usage, or that of some endpoints."""

    code: Code
    name: Name
    counts: Counts = Counts.UNITS
    endpoints: Annotated[list[Endpoint], Field(max_length=100)] = Field(
        default=[], description="As they are reported; none: all."
    )


class MeterForStaff(StaffWire):
    """A meter; it is never changed."""

    code: str
    name: str
    counts: Counts
    endpoints: list[str]
    created_at: Moment


class MeterList(PageFields, StaffWire):
    """One page of meters."""

    meters: list[MeterForStaff]


class PlanIn(StaffWire):
    """Prices of a meter for whole months: for one customer, for a tier, or for everybody."""

    name: Name
    meter: Code
    charging: Charging
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    tier: Tier | None = None
    user_id: UUID | None = None
    included: Units = Field(0, description="The first units of each month that cost nothing.")
    price_tiers: Annotated[list[PriceTier], Field(min_length=1, max_length=MOST_TIERS)]
    first_month: Month
    last_month: Month | None = None

    @model_validator(mode="after")
    def fits(self) -> Self:
        *before, last = [each.up_to for each in self.price_tiers]
        bounds = [each or 0 for each in before]
        if last is not None or 0 in bounds or bounds != sorted(set(bounds)):
            raise ValueError("Tiers rise by upTo; the last one, and only that, has none.")
        if self.tier and self.user_id:
            raise ValueError("A plan is for a tier or for a customer, not for both.")
        if self.last_month and self.last_month < self.first_month:
            raise ValueError("A plan ends after it has begun.")
        return self

    def facts(self) -> dict[str, Any]:
        facts = self.model_dump(by_alias=False)
        return {**facts, "price_tiers": [each.stored() for each in self.price_tiers]}


class PlanChange(StaffWire):
    """What of a plan can change; what is left out stays."""

    name: Name = ""
    last_month: Month | None = None

    def facts(self) -> dict[str, Any]:
        return self.model_dump(by_alias=False, exclude_unset=True)


class PlanFields(BaseModel):
    """What everybody sees of a plan."""

    id: UUID
    name: str
    meter: str
    charging: Charging
    currency: str
    included: int
    first_month: str
    last_month: str | None


class PlanOut(PlanFields, Wire):
    """What a meter costs you, unless another plan is nearer: yours before your tier's, and that
    before everybody's."""

    price_tiers: list[PriceTierOut]


class PlanForStaff(PlanFields, StaffWire):
    """A plan; its prices are never changed."""

    tier: Tier | None
    user_id: UUID | None
    price_tiers: list[PriceTierForStaff]
    version: int
    created_at: Moment


class PlanList(PageFields, Wire):
    """One page of plans."""

    price_plans: list[PlanOut]


class PlanListForStaff(PageFields, StaffWire):
    """One page of plans."""

    price_plans: list[PlanForStaff]


class Quote(StaffWire):
    """What so many units of one month cost."""

    plan_id: UUID
    units: int
    amount: Money
    currency: str

    @classmethod
    def of(cls, plan: PricePlan, units: int, amount: Decimal) -> "Quote":
        return cls(plan_id=plan.id, units=units, amount=amount, currency=plan.currency)


class CostFields(BaseModel):
    """What a month costs at one meter so far."""

    meter: str
    plan_id: UUID
    plan: str
    charging: Charging
    currency: str
    included: int
    units: int = Field(description="Used in this month so far.")
    amount: Money = Field(description="What they cost by the plan.")
    billed_units: int = Field(description="Of them, those that are charged or on an invoice.")
    billed_amount: Money
    unpaid_since: datetime | None


class CostOut(CostFields, Wire):
    """What a month costs at one meter so far."""

    unpaid_since: Moment | None


class CostForStaff(CostFields, StaffWire):
    """What a month costs at one meter so far, for staff."""

    unpaid_since: Moment | None
    waits_because: str | None = Field(
        description="Why this meter is not billed: its usage or its price cannot be right."
    )


class Costs(Wire):
    """What a month of usage costs so far, meter by meter."""

    month: str
    stopped: bool = Field(description="Calls are refused until what is owed is paid.")
    costs: list[CostOut]


class CostsForStaff(StaffWire):
    """What a month of a customer's usage costs so far, meter by meter."""

    month: str
    stopped: bool
    costs: list[CostForStaff]


class ChargeFields(BaseModel):
    """Money for the units of a month from one to another. By the plan it can be computed again:
    what `to_units` cost, less what `from_units` cost."""

    id: UUID
    meter: str
    month: str
    plan_id: UUID
    from_units: int
    to_units: int
    amount: Money
    currency: str
    operation_id: UUID | None = Field(description="Of the ledger, where it was paid at once.")
    invoice_id: UUID | None


class ChargeOut(ChargeFields, Wire):
    """Money for the units of a month from one to another. By the plan it can be computed again:
    what `to_units` cost, less what `from_units` cost."""

    created_at: Moment


class ChargeForStaff(ChargeFields, StaffWire):
    """Money for a customer's usage, with all that it takes to compute it again."""

    user_id: UUID | None
    created_at: Moment


class ChargeList(PageFields, Wire):
    """One page of charges."""

    charges: list[ChargeOut]


class ChargeListForStaff(PageFields, StaffWire):
    """One page of charges."""

    charges: list[ChargeForStaff]


class InvoiceFields(BaseModel):
    """What everybody sees of an invoice."""

    id: UUID
    number: str
    month: str
    currency: str
    total: Money
    to_pay: Money = Field(
        description="What pays it: the total, less what had been given back deliberately before it "
        "was open again."
    )
    refunded: Money = Field(description="Of what has paid it, so much has gone back since.")
    status: InvoiceStatus
    payment_id: UUID | None
    operation_id: UUID | None
    void_reason: str | None
    reopen_reason: str | None = Field(
        description="Why it was to be paid again, where what had paid it is gone."
    )


class InvoiceOut(InvoiceFields, Wire):
    """What a month of usage costs, and whether it is paid."""

    issued_at: Moment
    due_at: Moment
    paid_at: Moment | None
    reopened_at: Moment | None

    @classmethod
    def of(cls, row: Invoice) -> "InvoiceOut":
        return cls.model_validate(facts(row))


class InvoiceWithLines(InvoiceOut):
    """An invoice with its lines and payments. The exact sum of the lines is rounded down to what
    can be paid."""

    lines: list[ChargeOut]
    payments: list[PaymentOut] = Field(description="All that were for it, the newest first.")

    @classmethod
    def told(
        cls, row: Invoice, lines: list[Charge], payments: Sequence[Payment]
    ) -> "InvoiceWithLines":
        paid = [PaymentOut.of(each) for each in payments]
        return cls.model_validate({**facts(row), "lines": lines, "payments": paid})


class InvoiceList(PageFields, Wire):
    """One page of invoices."""

    invoices: list[InvoiceOut]


class InvoiceForStaff(InvoiceFields, StaffWire):
    """An invoice, whose it is, and how collecting it goes."""

    user_id: UUID | None
    next_try_at: Moment
    issued_at: Moment
    due_at: Moment
    paid_at: Moment | None
    reopened_at: Moment | None
    version: int

    @classmethod
    def of(cls, row: Invoice) -> "InvoiceForStaff":
        names = ("user_id", "next_try_at", "version")
        return cls.model_validate(facts(row) | {name: getattr(row, name) for name in names})


class InvoiceWithLinesForStaff(InvoiceForStaff):
    """An invoice with its lines and payments."""

    lines: list[ChargeForStaff]
    payments: list[PaymentForStaff] = Field(description="All that were for it, the newest first.")

    @classmethod
    def told(
        cls, row: Invoice, lines: list[Charge], payments: Sequence[Payment]
    ) -> "InvoiceWithLinesForStaff":
        known = InvoiceForStaff.of(row).model_dump(by_alias=False)
        paid = [PaymentForStaff.of(each) for each in payments]
        return cls.model_validate({**known, "lines": lines, "payments": paid})


class InvoiceListForStaff(PageFields, StaffWire):
    """One page of invoices."""

    invoices: list[InvoiceForStaff]


class Cancellation(StaffWire):
    """Why nobody is asked for it any more."""

    reason: Reason


class Reopening(StaffWire):
    """Why it is to be paid again; the customer is told."""

    reason: Reason


def facts(row: Invoice) -> dict[str, Any]:
    names = (
        "id", "month", "currency", "total", "to_pay", "status", "payment_id", "operation_id",
        "void_reason", "issued_at", "due_at", "paid_at", "reopened_at", "reopen_reason",
    )  # fmt: skip
    refunded = Decimal(0) if row.kept is None else max(Decimal(0), row.to_pay - row.kept)
    known = {"number": row.title, "refunded": refunded}
    return known | {name: getattr(row, name) for name in names}
