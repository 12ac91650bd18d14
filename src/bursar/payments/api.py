"""Payments: customers pay and follow their own; staff see anybody's and refund."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.actor import Actor, Kind
from bursar.auth.guard import customer_or_staff, staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import WORKER, Database, Db
from bursar.core.errors import InvalidInput
from bursar.core.idempotency import (
    REPLAYED,
    KeyInFlight,
    KeyReused,
    content_of,
    operation_key,
    own_key,
)
from bursar.core.money import BAD_AMOUNTS
from bursar.core.openapi import IDEMPOTENCY_PARAMETER
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, Time, answer
from bursar.payments import asking, purposes, queries, refunds
from bursar.payments import service as payments
from bursar.payments.asking import Desk
from bursar.payments.cards import CardNumber
from bursar.payments.currencies import UnknownCurrency
from bursar.payments.models import Method, Payment, Status
from bursar.payments.providers import ProviderMissing
from bursar.payments.queries import Filters, UnknownPayment
from bursar.payments.schemas import (
    AuditList,
    AuditOut,
    PaymentIn,
    PaymentList,
    PaymentOut,
    RefundIn,
    RefundOut,
    SummaryOut,
    SummedOut,
)
from bursar.payments.service import Intended, NewPayment
from bursar.wallets import ledger

router = APIRouter(prefix="/payments", tags=["payments"], route_class=Route)

READ = customer_or_staff(Permission.PAYMENTS_READ)
WRITE = customer_or_staff(Permission.PAYMENTS_WRITE)
REFUND = staff(Permission.PAYMENTS_REFUND)
KEYED: dict[str, Any] = {"parameters": [IDEMPOTENCY_PARAMETER]}
REFUSALS = (
    *BAD_AMOUNTS,
    CardNumber,
    UnknownCurrency,
    ProviderMissing,
    payments.TopUpLimit,
    payments.UnknownMethod,
    purposes.WrongAmount,
    KeyReused,
    KeyInFlight,
)


def desk(request: Request) -> Desk:
    """Asks providers. What they answer is their doing, and nobody's deed here."""
    state = request.app.state
    return Desk(lambda: state.database.transaction(WORKER), state.providers)


def for_staff(request: Request) -> AbstractAsyncContextManager[AsyncSession]:
    """A transaction of the worker in which a member of staff moves money: it is their deed."""
    database: Database = request.app.state.database
    return database.transaction(WORKER, origin=request.state.origin)


async def key_of(request: Request) -> tuple[str | None, bytes | None]:
    """The Idempotency-Key and what it is for; both kept with what it makes."""
    if "idempotency-key" not in request.headers:
        return None, None
    return operation_key(request), await content_of(request)


@router.post(
    "",
    status_code=201,
    response_model=PaymentOut,
    responses=documented(*REFUSALS),
    openapi_extra=KEYED,
)
@own_key
async def create(request: Request, actor: Annotated[Actor, WRITE], body: PaymentIn) -> Response:
    """Begins a payment. With stripe and paypal, `next_action` says what the customer's page does
    now; cash, checks and transfers wait until staff have confirmed them."""
    key, fingerprint = await key_of(request)
    new = NewPayment(
        user_id=payer(actor, body.user_id),
        method=body.payment_method,
        amount=body.amount,
        currency=body.currency,
        subjects=body.subjects,
        description=body.description,
        reference=body.reference,
        method_id=body.method_id,
        save_method=body.save_method,
        metadata=body.metadata,
        key=key,
        fingerprint=fingerprint,
        by_staff=actor.kind is Kind.STAFF,
    )
    begun = await begin(request, actor, new)
    headers = {"ETag": etag.of(begun.payment.version), **(REPLAYED if begun.replayed else {})}
    return answer(PaymentOut.of(begun.payment), 201, headers)


def payer(actor: Actor, named: UUID | None) -> UUID:
    """A customer pays for themselves; staff say for whom."""
    if actor.kind is Kind.CUSTOMER:
        if actor.id is None or named not in (None, actor.id):
            raise InvalidInput.at("/user_id", "You can only pay for yourself.", "not_yours")
        return actor.id
    if named is None:
        raise InvalidInput.at("/user_id", "Say for which customer this is.", "missing")
    return named


async def begin(request: Request, actor: Actor, new: NewPayment) -> Intended:
    """The intent, the provider, the answer: three steps, each of which may be the last one."""
    database: Database = request.app.state.database
    async with database.transaction(actor.claim, origin=request.state.origin) as db:
        intended = await payments.intend(db, request.app.state.providers, new)
    if not intended.replayed:
        await asking.create(desk(request), intended.payment.id)
    async with database.transaction(actor.claim) as db:
        return replace(intended, payment=await queries.payment(db, intended.payment.id))


class PaymentsQuery(PageQuery):
    """A page of payments, perhaps only some of them."""

    status: Status | None = None
    method: Method | None = None
    user_id: UUID | None = Field(None, description="For staff; customers see their own.")
    reference: str | None = Field(None, max_length=200)
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")
    sort: str | None = sort_field(queries.PAYMENTS)

    def filters(self, actor: Actor) -> Filters:
        """A customer's own is asked for by name too: the database would show no other anyway."""
        return Filters(
            user_id=actor.id if actor.kind is Kind.CUSTOMER else self.user_id,
            status=self.status,
            method=self.method,
            reference=self.reference,
            since=self.from_,
            until=self.to,
        )


@router.get("", responses=documented(InvalidInput))
async def list_payments(
    db: Db, actor: Annotated[Actor, READ], ask: Annotated[PaymentsQuery, Query()]
) -> PaymentList:
    """Your payments, or for staff all of them, the newest first."""
    page = await queries.payments(db, ask, ask.filters(actor))
    return PaymentList.of(page, payments=[PaymentOut.of(row) for row in page.items])


@router.get("/summary", dependencies=[READ])
async def read_summary(db: Db) -> SummaryOut:
    """Count and total by method, status and currency: of your payments, or for staff of all."""
    return SummaryOut(
        summary=[SummedOut.model_validate(each) for each in await queries.summary(db)]
    )


@router.get("/{payment_id}", dependencies=[READ], responses=documented(UnknownPayment))
async def read_payment(db: Db, payment_id: UUID, response: Response) -> PaymentOut:
    """One payment as it stands now."""
    return shown(await queries.payment(db, payment_id), response)


def shown(payment: Payment, response: Response) -> PaymentOut:
    response.headers["ETag"] = etag.of(payment.version)
    return PaymentOut.of(payment)


class AuditsQuery(PageQuery):
    """A page of changes."""

    sort: str | None = sort_field(queries.AUDITS)


@router.get(
    "/{payment_id}/audit",
    dependencies=[READ],
    responses=documented(UnknownPayment, InvalidInput),
)
async def list_changes(db: Db, payment_id: UUID, ask: Annotated[AuditsQuery, Query()]) -> AuditList:
    """Every change of a payment: from what to what, why, who, and the provider's words."""
    page = await queries.audits(db, payment_id, ask)
    return AuditList.of(page, audits=[AuditOut.of(row) for row in page.items])


@router.post(
    "/{payment_id}/confirmation",
    response_model=PaymentOut,
    responses=documented(UnknownPayment, ProviderMissing),
)
@own_key
async def complete(request: Request, actor: Annotated[Actor, WRITE], payment_id: UUID) -> Response:
    """The customer has approved: takes the money now, without waiting for the webhook. Again, it
    only says how the payment stands."""
    return await after(request, actor, payment_id, asking.complete)


@router.post(
    "/{payment_id}/cancellation",
    response_model=PaymentOut,
    responses=documented(UnknownPayment, ProviderMissing),
)
@own_key
async def cancel(request: Request, actor: Annotated[Actor, WRITE], payment_id: UUID) -> Response:
    """Gives up a payment that nobody has paid; one that was paid meanwhile is completed."""
    return await after(request, actor, payment_id, asking.cancel)


async def after(
    request: Request, actor: Actor, payment_id: UUID, ask: Callable[[Desk, UUID], Awaitable[None]]
) -> Response:
    """Only whoever sees the payment asks for it."""
    database: Database = request.app.state.database
    async with database.transaction(actor.claim) as db:
        await queries.payment(db, payment_id)
    await ask(desk(request), payment_id)
    async with database.transaction(actor.claim) as db:
        payment = await queries.payment(db, payment_id)
    return answer(PaymentOut.of(payment), headers={"ETag": etag.of(payment.version)})


@router.post(
    "/{payment_id}/refunds",
    status_code=201,
    response_model=RefundOut,
    responses=documented(
        UnknownPayment,
        refunds.NotCaptured,
        refunds.Disputed,
        refunds.RefundTooLarge,
        refunds.NotToWallet,
        ledger.InsufficientFunds,
        ledger.AccountFrozen,
        *BAD_AMOUNTS,
        CardNumber,
        KeyReused,
    ),
    openapi_extra=KEYED,
)
@own_key
async def refund(
    request: Request, actor: Annotated[Actor, REFUND], payment_id: UUID, body: RefundIn
) -> Response:
    """Gives back a part, or all that is left: the way it came, or into the customer's wallet."""
    key, fingerprint = await key_of(request)
    async with for_staff(request) as db:
        asked, replayed = await refunds.request(
            db,
            payment_id,
            body.amount,
            destination=body.destination,
            reason=body.reason,
            key=key,
            fingerprint=fingerprint,
        )
    if not replayed:
        await asking.give_back(desk(request), asked.id)
    async with request.app.state.database.transaction(actor.claim) as db:
        made = RefundOut.of(await queries.refund(db, asked.id))
    return answer(made, 201, REPLAYED if replayed else None)
