"""add-funds: staff put money into a wallet at once; a customer's own call begins a payment."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from bursar.auth.actor import Actor, Kind
from bursar.auth.guard import customer_or_staff
from bursar.auth.permissions import Permission
from bursar.core.database import Database
from bursar.core.idempotency import REPLAYED, own_key
from bursar.core.money import decimal
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.payments.api import KEYED, REFUSALS, begin, key_of, payer
from bursar.payments.schemas import FundsIn, PaymentOut, TopUp, exactly
from bursar.payments.service import NewPayment
from bursar.wallets import api as wallets_api
from bursar.wallets import queries as wallets
from bursar.wallets.schemas import Funded

router = APIRouter(tags=["wallets"], route_class=Route)

FUND = customer_or_staff(Permission.WALLETS_FUND)
MODELS: dict[int | str, dict[str, Any]] = {200: {"model": Funded}, 201: {"model": TopUp}}


@router.post(
    "/add-funds",
    response_model=None,
    responses={**documented(*wallets_api.FUNDING_REFUSED, *REFUSALS), **MODELS},
    openapi_extra=KEYED,
)
@own_key
async def add_funds(request: Request, actor: Annotated[Actor, FUND], body: FundsIn) -> Response:
    """Money for a wallet: at once where staff put it in (200); for a customer it begins a payment
    (201), and the money is there when that completes."""
    database: Database = request.app.state.database
    if actor.kind is Kind.STAFF:
        async with database.transaction(actor.claim, origin=request.state.origin) as db:
            return await wallets_api.put_in(request, db, actor, body)
    key, fingerprint = await key_of(request)
    new = NewPayment(
        user_id=payer(actor, body.user_id),
        method=body.payment_method,
        amount=body.amount,
        currency=body.currency,
        key=key,
        fingerprint=fingerprint,
    )
    begun = await begin(request, actor, new)
    balance = await wallets.balance(database, actor.claim, new.user_id)
    topping = TopUp(
        user_id=new.user_id,
        amount=exactly(begun.payment.amount, begun.payment.currency),
        balance=decimal(balance.posted - balance.held, balance.scale),
        currency=begun.payment.currency,
        payment=PaymentOut.of(begun.payment),
    )
    return answer(topping, 201, REPLAYED if begun.replayed else None)
