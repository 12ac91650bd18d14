"""Payments as staff see them, in camelCase: also fees, disputes, and what providers told."""

from typing import Annotated
from uuid import UUID

from pydantic import Field

from bursar.core.money import Amount
from bursar.core.paging import PageFields
from bursar.core.wire import Moment, Money, StaffWire
from bursar.payments.cards import CardFree
from bursar.payments.models import (
    Dispute,
    DisputeStatus,
    EventStatus,
    Method,
    Payment,
    PaymentEvent,
    ProviderState,
    Refund,
)
from bursar.payments.schemas import Currency, PaymentFields, RefundFields, exactly, facts

Reason = Annotated[CardFree, Field(min_length=3, max_length=500)]


class PaymentForStaff(PaymentFields, StaffWire):
    """A payment with all that is known of it."""

    stripe_customer_id: str | None
    stripe_charge_id: str | None
    paypal_payment_id: str | None
    paypal_payer_id: str | None
    refund_pending_amount: Money
    disputed_amount: Money
    fee: Money
    unclaimed: bool = Field(description="The wallet could not take it; it waits to be refunded.")
    automatic: bool
    provider: str
    provider_state: ProviderState

    @classmethod
    def of(cls, row: Payment) -> "PaymentForStaff":
        names = (
            "stripe_customer_id", "stripe_charge_id", "paypal_payment_id", "paypal_payer_id",
            "unclaimed", "automatic", "provider", "provider_state",
        )  # fmt: skip
        more = {name: getattr(row, name) for name in names}
        amounts = {
            "refund_pending_amount": exactly(row.refund_pending, row.currency),
            "disputed_amount": exactly(row.disputed, row.currency),
            "fee": exactly(row.fee, row.currency),
        }
        return cls.model_validate({**facts(row), **more, **amounts})


class PaymentListForStaff(PageFields, StaffWire):
    """One page of payments."""

    payments: list[PaymentForStaff]


class ReceivedIn(StaffWire):
    """Cash, a check or a transfer that is here already: recorded and confirmed in one."""

    user_id: UUID
    payment_method: Method
    amount: Amount
    currency: Currency = "USD"
    reference: Annotated[CardFree, Field(max_length=200)] | None = None
    description: Annotated[CardFree, Field(max_length=500)] | None = None


class ConfirmationIn(StaffWire):
    """How much was really received; all of it where nothing is said."""

    amount: Amount | None = None
    reason: Reason | None = None


class BounceIn(StaffWire):
    """Why the money is not here after all."""

    reason: Reason


class RefundForStaff(RefundFields, StaffWire):
    """Money that goes back, and who asked for it."""

    provider_state: ProviderState
    provider_refund_id: str | None
    requested_by: str
    taken: bool = Field(description="From us: it bounced, or a bank has. Nobody has given it.")
    attempts: int

    @classmethod
    def of(cls, row: Refund) -> "RefundForStaff":
        return cls.model_validate(row)


class RefundListForStaff(PageFields, StaffWire):
    """One page of refunds."""

    refunds: list[RefundForStaff]


class DisputeOut(StaffWire):
    """A payment that its payer contests."""

    id: UUID
    payment_id: UUID
    provider_dispute_id: str
    amount: Money
    held: Money = Field(description="What of it was there to be held.")
    status: DisputeStatus
    reason: str | None
    opened_at: Moment
    due_at: Moment | None = Field(description="Until when the provider takes evidence.")
    closed_at: Moment | None

    @classmethod
    def of(cls, row: Dispute) -> "DisputeOut":
        return cls.model_validate(row)


class DisputeList(PageFields, StaffWire):
    """One page of disputes."""

    disputes: list[DisputeOut]


class EventOut(StaffWire):
    """A webhook and what became of it."""

    id: UUID
    provider: str
    event_id: str
    type: str
    status: EventStatus
    attempts: int
    outcome: str | None
    payment_id: UUID | None
    happened_at: Moment | None
    received_at: Moment
    next_try_at: Moment | None
    settled_at: Moment | None

    @classmethod
    def of(cls, row: PaymentEvent) -> "EventOut":
        return cls.model_validate(row)


class WholeEvent(EventOut):
    """A webhook with its payload as it came, and what of its headers is no secret."""

    payload: str
    headers: dict[str, str]

    @classmethod
    def of(cls, row: PaymentEvent) -> "WholeEvent":
        return cls.model_validate(row)


class EventList(PageFields, StaffWire):
    """One page of webhooks."""

    events: list[EventOut]
