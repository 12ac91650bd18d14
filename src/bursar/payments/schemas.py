"""Payments as customers see them; amounts are numbers with all digits of their currency."""

from typing import Annotated, Any
from uuid import UUID

from pydantic import AfterValidator, BaseModel, Field

from bursar.core.money import Amount
from bursar.core.paging import PageFields
from bursar.core.wire import Moment, Money, Wire
from bursar.payments.cards import CardFree, refuse_card
from bursar.payments.currencies import exactly as exactly
from bursar.payments.models import (
    Destination,
    Method,
    Payment,
    PaymentAudit,
    Refund,
    RefundStatus,
    Status,
)
from bursar.payments.purposes import COLUMNS
from bursar.wallets.schemas import Funding

Currency = Annotated[str, Field(pattern=r"^[A-Z]{3}$", examples=["USD"])]


def small(value: dict[str, Any]) -> dict[str, Any]:
    if len(repr(value)) > 8192:
        raise ValueError("This has more than 8192 characters.")
    return value


Metadata = Annotated[dict[str, Any], AfterValidator(refuse_card), AfterValidator(small)]


class PaymentIn(Wire):
    """What is to be paid: a top-up of the wallet, or one thing by its id."""

    payment_method: Method
    amount: Amount | None = Field(None, description="May be left out where a thing has its price.")
    currency: Currency | None = Field(None, description="USD, or that of the thing.")
    user_id: UUID | None = Field(None, description="For staff; customers pay for themselves.")
    service_id: UUID | None = None
    appointment_id: UUID | None = None
    training_id: UUID | None = None
    invoice_id: UUID | None = None
    description: Annotated[CardFree, Field(max_length=500)] | None = None
    reference: Annotated[CardFree, Field(max_length=200)] | None = Field(
        None, description="What stands on the check or the transfer."
    )
    method_id: UUID | None = Field(None, description="A saved method to pay with.")
    save_method: bool = Field(False, description="Keep the method for later payments.")
    metadata: Metadata | None = None

    @property
    def subjects(self) -> dict[str, UUID]:
        return {name: value for name in COLUMNS if (value := getattr(self, name)) is not None}


class PaymentFields(BaseModel):
    """What customers and staff see alike of a payment."""

    id: UUID
    user_id: UUID | None
    amount: Money
    currency: str
    payment_method: Method
    status: Status
    purpose: str
    service_id: UUID | None
    appointment_id: UUID | None
    training_id: UUID | None
    invoice_id: UUID | None
    description: str | None
    reference: str | None
    stripe_payment_intent_id: str | None
    paypal_order_id: str | None
    captured_amount: Money
    refunded_amount: Money
    disputed: bool
    test_mode: bool
    failure_code: str | None
    failure_reason: str | None
    metadata: dict[str, Any] | None
    payment_date: Moment | None
    created_at: Moment
    updated_at: Moment
    version: int


class PaymentOut(PaymentFields, Wire):
    """A payment and what has come of it."""

    next_action: dict[str, Any] | None = Field(description="What the customer's page does now.")

    @classmethod
    def of(cls, row: Payment) -> "PaymentOut":
        return cls.model_validate({**facts(row), "next_action": row.next_action})


def facts(row: Payment) -> dict[str, Any]:
    """What customers and staff see alike."""
    names = (
        "id", "user_id", "currency", "payment_method", "status", "purpose", *COLUMNS,
        "description", "reference", "stripe_payment_intent_id", "paypal_order_id", "test_mode",
        "failure_code", "failure_reason", "payment_date", "created_at", "updated_at", "version",
    )  # fmt: skip
    return {
        **{name: getattr(row, name) for name in names},
        "amount": exactly(row.amount, row.currency),
        "captured_amount": exactly(row.captured, row.currency),
        "refunded_amount": exactly(row.refunded, row.currency),
        "disputed": row.disputed > 0,
        "metadata": row.about,
    }


class PaymentList(PageFields, Wire):
    """One page of payments."""

    payments: list[PaymentOut]


class AuditOut(Wire):
    """One change of a payment."""

    id: UUID
    old_status: Status | None
    new_status: Status
    change_reason: str | None
    changed_by: str
    captured_amount: Money
    refunded_amount: Money
    provider_data: dict[str, Any] | None
    created_at: Moment

    @classmethod
    def of(cls, row: PaymentAudit) -> "AuditOut":
        names = ("id", "old_status", "new_status", "change_reason", "changed_by", "provider_data")
        about = {name: getattr(row, name) for name in (*names, "created_at")}
        return cls(**about, captured_amount=row.captured, refunded_amount=row.refunded)


class AuditList(PageFields, Wire):
    """One page of a payment's changes, the oldest first."""

    audits: list[AuditOut]


class SummedOut(Wire):
    """How many payments there are of one method, status and currency, and how much that is."""

    payment_method: Method
    status: Status
    currency: str
    payment_count: int
    total_amount: Money


class SummaryOut(Wire):
    """All payments of the caller, or for staff of everybody, added up."""

    summary: list[SummedOut]


class RefundIn(Wire):
    """What goes back; without an amount all that is left."""

    amount: Amount | None = None
    destination: Destination = Destination.PROVIDER
    reason: Annotated[CardFree, Field(max_length=500)] | None = None


class RefundFields(BaseModel):
    """What customers and staff see alike of money that goes back."""

    id: UUID
    payment_id: UUID
    amount: Money
    destination: Destination
    status: RefundStatus
    reason: str | None
    failure_reason: str | None
    created_at: Moment
    settled_at: Moment | None


class RefundOut(RefundFields, Wire):
    """Money that goes back, and how far it is."""

    @classmethod
    def of(cls, row: Refund) -> "RefundOut":
        return cls.model_validate(row)


class RefundList(PageFields, Wire):
    """One page of refunds."""

    refunds: list[RefundOut]


class FundsIn(Funding):
    """Money for a wallet; a customer says how it is paid."""

    payment_method: Method = Method.STRIPE


class TopUp(Wire):
    """A customer's own call of add-funds: the payment to go on with, and the balance until then."""

    message: str = "Go on with the payment; the money is in the wallet when it completes."
    user_id: UUID
    amount: Money
    balance: Money
    currency: str
    payment: PaymentOut


class Taken(Wire):
    """A webhook was written down, now or before."""

    received: bool
    new: bool
