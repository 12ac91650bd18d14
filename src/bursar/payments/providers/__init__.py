"""What a provider is to Bursar: asked by our key, it answers in facts; its webhooks are facts too.

A fact has one name (`stripe:pi_1:captured`) wherever it comes from: the answer to our call, a
webhook, a sweep, a member of staff. payments/settling.py gives each one effect.

A call that ends without an answer raises `Unknown`: it may have happened. The same key is then sent
again until somebody knows. What a provider refuses for good is an answer, not an error.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol
from uuid import UUID

from bursar.core.errors import BursarError
from bursar.payments.models import ProviderState


class What(StrEnum):
    """What a fact says."""

    APPROVED = "approved"  # by the payer; the money is still to be taken
    CAPTURED = "captured"
    DECLINED = "declined"  # one attempt; the customer may try another way
    CANCELLED = "cancelled"  # nothing will come any more
    REFUNDED = "refunded"
    REFUND_FAILED = "refund_failed"
    DISPUTE_OPENED = "dispute_opened"
    DISPUTE_WON = "dispute_won"
    DISPUTE_LOST = "dispute_lost"
    METHOD_SAVED = "method_saved"


@dataclass(frozen=True, slots=True)
class SavedMethod:
    """What may be kept of a way to pay."""

    token: str
    kind: str = "card"
    brand: str | None = None
    last_four: str | None = None
    exp_month: int | None = None
    exp_year: int | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that has happened at a provider."""

    what: What
    provider: str
    object_id: str  # the provider's id of what it happened to: an intent, a capture, a refund, …
    payment: Mapping[str, str]  # how to find the payment: columns of it, our own `id` among them
    amount: Decimal | None = None
    currency: str | None = None
    fee: Decimal | None = None
    ids: Mapping[str, str] = field(default_factory=dict)  # columns of the payment to fill in
    refund_id: str | None = None  # our own, where the provider tells it back
    is_reversal: bool = False  # of a refund: the provider itself took it back, by a dispute mostly
    customer_id: str | None = None
    method: SavedMethod | None = None
    code: str | None = None
    reason: str | None = None
    happened_at: datetime | None = None
    due_at: datetime | None = None
    data: Mapping[str, Any] | None = None  # what the audit keeps: the provider's own words

    @property
    def name(self) -> str:
        """The one name of it, and the key of its effect in the ledger."""
        return f"{self.provider}:{self.object_id}:{self.what}"


@dataclass(frozen=True, slots=True)
class Charge:
    """What a provider is asked to collect."""

    key: str  # ours, stable for ever
    payment_id: UUID
    amount: Decimal
    currency: str
    description: str
    return_url: str
    ids: Mapping[str, str] = field(default_factory=dict)  # the provider's ids that we know already
    customer_id: str | None = None
    customer_email: str | None = None
    method: str | None = None  # the token of a saved one
    off_session: bool = False  # nobody is there to act
    save_method: bool = False
    begun_at: datetime | None = None  # when it was written down here


@dataclass(frozen=True, slots=True)
class Return:
    """What a provider is asked to give back."""

    key: str
    refund_id: UUID
    payment_id: UUID
    amount: Decimal
    currency: str
    is_whole: bool
    ids: Mapping[str, str]  # of the payment
    provider_refund_id: str | None = None
    reason: str | None = None
    begun_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a provider said."""

    state: ProviderState
    facts: tuple[Fact, ...] = ()
    ids: Mapping[str, str] = field(default_factory=dict)  # columns of the payment, or refund
    next_action: Mapping[str, Any] | None = None  # what the customer's page does now
    customer_id: str | None = None
    code: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """A webhook whose signature is right."""

    event_id: str
    type: str
    happened_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Booked:
    """A line of the provider's own books, for reconciliation."""

    object_id: str
    what: str  # captured, refunded, disputed, fee
    amount: Decimal
    currency: str
    fee: Decimal
    booked_at: datetime
    payment: Mapping[str, str]


class Unknown(Exception):
    """The call ended without an answer: it may have happened."""


class NotShown(Exception):
    """The provider does not show its books; the sentence says why, for staff."""


class ProviderMissing(BursarError, status=422, code="payments.provider_missing"):
    """This way to pay is not set up here."""


class BadSignature(BursarError, status=400, code="payments.bad_signature"):
    """The webhook is not signed by the provider, or was altered on its way."""


class BadClock(BursarError, status=400, code="payments.bad_clock"):
    """The webhook's time is more than 300 seconds from ours."""


class BadEvent(BursarError, status=400, code="payments.bad_event"):
    """The webhook is signed, and not what the provider's events look like."""


class Provider(Protocol):
    """stripe, paypal, demo. Cash, checks and transfers have none: people confirm them."""

    name: str
    is_test: bool

    async def create(self, charge: Charge) -> Answer:
        """Begins a payment, or finds the one that this key began."""

    async def look(self, charge: Charge) -> Answer:
        """How a payment stands now."""

    async def complete(self, charge: Charge) -> Answer:
        """Takes what the customer has approved."""

    async def cancel(self, charge: Charge) -> Answer:
        """Ends a payment that nobody has paid."""

    async def refund(self, back: Return) -> Answer:
        """Gives back, once for its key; or finds what that key began."""

    async def look_at_refund(self, back: Return) -> Answer:
        """How a refund stands now."""

    async def forget(self, token: str) -> None:
        """Forgets a saved method; one that is not known there any more is forgotten."""

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """The event of a webhook whose signature, over the raw bytes, and time are right."""

    def facts(self, payload: Mapping[str, Any]) -> tuple[Fact, ...]:
        """What an event says; nothing for a type that changes nothing here."""

    def booked(self, since: datetime, until: datetime) -> AsyncIterator[Booked]:
        """The provider's own books between two moments, or NotShown."""

    async def close(self) -> None:
        """Ends its connections."""
