"""Payments for staff: all of them, cash and checks, refunds, disputes, webhooks with replay."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput
from bursar.core.idempotency import REPLAYED, KeyInFlight, KeyReused, own_key
from bursar.core.money import BAD_AMOUNTS
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, Time, answer
from bursar.payments import inbox, queries
from bursar.payments import service as payments
from bursar.payments.api import KEYED, for_staff, key_of
from bursar.payments.cards import CardNumber
from bursar.payments.currencies import UnknownCurrency
from bursar.payments.inbox import UnknownEvent
from bursar.payments.models import DisputeStatus, EventStatus, Method, RefundStatus, Status
from bursar.payments.providers.registry import BY_HAND
from bursar.payments.queries import Filters, UnknownPayment
from bursar.payments.service import AmountDiffers, NewPayment, NotByHand
from bursar.payments.staff_schemas import (
    BounceIn,
    ConfirmationIn,
    DisputeList,
    DisputeOut,
    EventList,
    EventOut,
    PaymentForStaff,
    PaymentListForStaff,
    ReceivedIn,
    RefundForStaff,
    RefundListForStaff,
    WholeEvent,
)

router = APIRouter(tags=["payments"], route_class=Route)

READ = staff(Permission.PAYMENTS_READ)
WRITE = staff(Permission.PAYMENTS_WRITE)


class PaymentsQuery(PageQuery):
    """A page of payments, perhaps only some of them."""

    status: Status | None = None
    method: Method | None = None
    user_id: UUID | None = None
    reference: str | None = Field(None, max_length=200)
    unclaimed: bool | None = Field(None, description="Those that no wallet could take.")
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")
    sort: str | None = sort_field(queries.PAYMENTS)

    def filters(self) -> Filters:
        return Filters(
            user_id=self.user_id,
            status=self.status,
            method=self.method,
            reference=self.reference,
            unclaimed=self.unclaimed,
            since=self.from_,
            until=self.to,
        )


@router.get("/payments", dependencies=[READ], responses=documented(InvalidInput))
async def list_payments(db: Db, ask: Annotated[PaymentsQuery, Query()]) -> PaymentListForStaff:
    """Payments of all customers, the newest first."""
    page = await queries.payments(db, ask, ask.filters())
    return PaymentListForStaff.of(page, payments=[PaymentForStaff.of(row) for row in page.items])


@router.post(
    "/payments",
    status_code=201,
    dependencies=[WRITE],
    response_model=PaymentForStaff,
    responses=documented(*BAD_AMOUNTS, CardNumber, UnknownCurrency, KeyReused, KeyInFlight),
    openapi_extra=KEYED,
)
@own_key
async def record_received(request: Request, body: ReceivedIn) -> Response:
    """Cash, a check or a transfer that is here: in the customer's wallet at once."""
    if body.payment_method not in BY_HAND:
        allowed = ", ".join(sorted(BY_HAND))
        raise InvalidInput.at("/paymentMethod", f"By hand come: {allowed}.", "not_by_hand")
    key, fingerprint = await key_of(request)
    new = NewPayment(
        user_id=body.user_id,
        method=body.payment_method,
        amount=body.amount,
        currency=body.currency,
        reference=body.reference,
        description=body.description,
        key=key,
        fingerprint=fingerprint,
        by_staff=True,
    )
    async with for_staff(request) as db:
        intended = await payments.intend(db, request.app.state.providers, new)
        payment = intended.payment
        if not intended.replayed:
            payment = await payments.confirm(db, payment.id, amount=None, reason=None)
    return shown(PaymentForStaff.of(payment), 201, replayed=intended.replayed)


def shown(payment: PaymentForStaff, status: int = 200, *, replayed: bool = False) -> Response:
    headers = {"ETag": etag.of(payment.version), **(REPLAYED if replayed else {})}
    return answer(payment, status, headers)


@router.get(
    "/payments/{payment_id}",
    dependencies=[READ],
    response_model=PaymentForStaff,
    responses=documented(UnknownPayment),
)
async def read_payment(db: Db, payment_id: UUID) -> Response:
    """One payment with all that is known of it."""
    return shown(PaymentForStaff.of(await queries.payment(db, payment_id)))


@router.post(
    "/payments/{payment_id}/confirmation",
    dependencies=[WRITE],
    response_model=PaymentForStaff,
    responses=documented(UnknownPayment, NotByHand, AmountDiffers, *BAD_AMOUNTS, CardNumber),
)
@own_key
async def confirm(
    request: Request, payment_id: UUID, body: ConfirmationIn | None = None
) -> Response:
    """The cash was counted, the check is cleared, the transfer has come. Again, it changes
    nothing."""
    said = body or ConfirmationIn()
    async with for_staff(request) as db:
        payment = await payments.confirm(db, payment_id, amount=said.amount, reason=said.reason)
    return shown(PaymentForStaff.of(payment))


@router.post(
    "/payments/{payment_id}/bounce",
    dependencies=[WRITE],
    response_model=PaymentForStaff,
    responses=documented(UnknownPayment, NotByHand, CardNumber),
)
@own_key
async def bounce(request: Request, payment_id: UUID, body: BounceIn) -> Response:
    """The money is not here after all. What was credited goes out of the wallet again, as far as
    it is there; the rest is the company's loss."""
    async with for_staff(request) as db:
        payment = await payments.bounce(db, payment_id, reason=body.reason)
    return shown(PaymentForStaff.of(payment))


class RefundsQuery(PageQuery):
    """A page of refunds."""

    status: RefundStatus | None = None
    payment_id: UUID | None = None
    sort: str | None = sort_field(queries.REFUNDS)


@router.get("/refunds", dependencies=[READ], responses=documented(InvalidInput))
async def list_refunds(db: Db, ask: Annotated[RefundsQuery, Query()]) -> RefundListForStaff:
    """Refunds, the newest first; the pending ones are on their way."""
    page = await queries.refunds(db, ask, payment_id=ask.payment_id, status=ask.status)
    return RefundListForStaff.of(page, refunds=[RefundForStaff.of(row) for row in page.items])


class DisputesQuery(PageQuery):
    """A page of disputes."""

    status: DisputeStatus | None = None
    sort: str | None = sort_field(queries.DISPUTES)


@router.get("/disputes", dependencies=[READ], responses=documented(InvalidInput))
async def list_disputes(db: Db, ask: Annotated[DisputesQuery, Query()]) -> DisputeList:
    """Disputes, the newest first."""
    page = await queries.disputes(db, ask, status=ask.status)
    return DisputeList.of(page, disputes=[DisputeOut.of(row) for row in page.items])


class EventsQuery(PageQuery):
    """A page of webhooks."""

    status: EventStatus | None = None
    provider: str | None = Field(None, max_length=40)
    type: str | None = Field(None, max_length=255)
    from_: Time | None = Field(None, alias="from")
    sort: str | None = sort_field(inbox.EVENTS)


@router.get("/payment-events", dependencies=[READ], responses=documented(InvalidInput))
async def list_events(db: Db, ask: Annotated[EventsQuery, Query()]) -> EventList:
    """What providers have told, the newest first."""
    page = await inbox.events(
        db, ask, status=ask.status, provider=ask.provider, type_=ask.type, since=ask.from_
    )
    return EventList.of(page, events=[EventOut.of(row) for row in page.items])


@router.get("/payment-events/{event_id}", dependencies=[READ], responses=documented(UnknownEvent))
async def read_event(db: Db, event_id: UUID) -> WholeEvent:
    """One webhook with its payload."""
    return WholeEvent.of(await inbox.event(db, event_id))


@router.post(
    "/payment-events/{event_id}/replay",
    dependencies=[WRITE],
    response_model=EventOut,
    responses=documented(UnknownEvent),
)
@own_key
async def replay_event(request: Request, event_id: UUID) -> Response:
    """Reads a webhook once more, as if it had come now; what it had done already stays done."""
    async with for_staff(request) as db:
        replayed = EventOut.of(await inbox.replay(db, event_id))
    return answer(replayed)
