"""Charges and holds that services of the business ask for, alone or many at once, each done once.

They go through the till: what arrives together is one statement, and nothing is answered before it
is committed. An Idempotency-Key is the key of the operation itself, kept for ever.
"""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from bursar.auth.actor import Actor, Origin
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.auth.scopes import KeyScope
from bursar.core.batch import Misfit
from bursar.core.database import WORKER, Db
from bursar.core.errors import BursarError
from bursar.core.hot import hot
from bursar.core.idempotency import REPLAYED, KeyReused, operation_key, own_key
from bursar.core.money import BAD_AMOUNTS, decimal, minor
from bursar.core.openapi import IDEMPOTENCY_PARAMETER
from bursar.core.problems import documented
from bursar.core.wire import Route, answer, zulu
from bursar.wallets import assets, ledger, statements
from bursar.wallets.charge_schemas import (
    BulkCharge,
    BulkIn,
    BulkOut,
    CaptureIn,
    CaptureOut,
    ChargeIn,
    ChargeOut,
    HoldIn,
    HoldMade,
    HoldOut,
    VoidOut,
)
from bursar.wallets.ledger import Outcome
from bursar.wallets.models import HoldState
from bursar.wallets.statements import HeldFor
from bursar.wallets.till import Till, TillFull

router = APIRouter(prefix="/wallets", route_class=Route)

CHARGE = staff(Permission.WALLETS_CHARGE, scope=KeyScope.WALLETS_CHARGE)
READ = staff(Permission.WALLETS_READ)
KEYED: dict[str, Any] = {"parameters": [IDEMPOTENCY_PARAMETER]}
OF_WALLET = (
    ledger.InsufficientFunds,
    ledger.AccountFrozen,
    ledger.AccountClosed,
    ledger.UnknownAccount,
    ledger.UnknownAsset,
    *BAD_AMOUNTS,
    KeyReused,
    TillFull,
)
OF_HOLD = (
    ledger.UnknownHold,
    ledger.HoldClosed,
    ledger.AccountFrozen,
    ledger.AccountClosed,
    KeyReused,
    TillFull,
)


@router.post(
    "/charges",
    response_model=ChargeOut,
    responses=documented(*OF_WALLET),
    openapi_extra=KEYED,
)
@own_key
@hot
async def charge(request: Request, actor: Annotated[Actor, CHARGE], body: ChargeIn) -> Response:
    """Takes from a customer's wallet what they used; the same key again changes nothing."""
    state = request.app.state
    scale = await assets.scale(state.database, actor.claim, body.currency)
    asked = charging(body, scale, operation_key(request), request.state.origin)
    outcome = await state.till.post(asked)
    return replayable(charged(body.user_id, outcome, scale), outcome)


def charging(body: ChargeIn, scale: int, key: str, origin: Origin) -> ledger.Request:
    leg = ledger.transfer(
        ledger.user(body.user_id),
        "revenue",
        minor(body.amount, scale),
        body.currency,
        kind="charge",
        category=body.category,
        metadata=body.about(),
    )
    return ledger.Request(origin.actor.remembered_as, key, (leg,), origin, "wallets.charged")


def charged(user_id: UUID | None, outcome: Outcome, scale: int) -> dict[str, Any]:
    """As ChargeOut says it, made by hand: this is the hottest answer that there is."""
    [moved] = outcome.legs
    return {
        "operationId": outcome.operation_id,
        "transferId": moved.transfer_id,
        "userId": user_id,
        "amount": decimal(moved.amount, scale),
        "currency": moved.asset,
        "available": decimal(moved.available, scale),
        "postedAt": zulu(outcome.posted_at),
    }


def replayable(content: dict[str, Any], outcome: Outcome) -> Response:
    """What was answered first is answered always."""
    return answer(content, headers=REPLAYED if outcome.replayed else None)


@router.post("/charges/bulk", response_model=BulkOut, responses=documented(TillFull))
@own_key
@hot
async def charge_many(request: Request, actor: Annotated[Actor, CHARGE], body: BulkIn) -> Response:
    """Up to 500 charges, each done or refused by itself, once for its key."""
    state = request.app.state
    items = body.items()
    codes = {item.currency for item in items if isinstance(item, BulkCharge)}
    scales = await assets.scales(state.database, actor.claim, codes)
    asked = [prepared(item, scales, request.state.origin) for item in items]
    results = await settled(state.till, asked)
    pairs = zip(items, results, strict=True)
    return answer({"outcomes": [outcome_of(item, result, scales) for item, result in pairs]})


def prepared(
    item: BulkCharge | Misfit, scales: dict[str, int], origin: Origin
) -> ledger.Request | BursarError:
    if isinstance(item, Misfit):
        return item.error
    if item.currency not in scales:
        return assets.unknown()
    try:
        return charging(item, scales[item.currency], item.key, origin)
    except BAD_AMOUNTS as error:
        return error


async def settled(
    till: Till, asked: list[ledger.Request | BursarError]
) -> list[Outcome | BursarError]:
    """What is refused before it reaches the till keeps its place."""
    requests = [each for each in asked if isinstance(each, ledger.Request)]
    posted = iter(await till.post_all(requests) if requests else [])
    return [next(posted) if isinstance(each, ledger.Request) else each for each in asked]


def outcome_of(
    item: BulkCharge | Misfit, result: Outcome | BursarError, scales: dict[str, int]
) -> dict[str, Any]:
    if isinstance(item, BulkCharge) and isinstance(result, Outcome):
        done = charged(item.user_id, result, scales[item.currency])
        return {"key": item.key, "status": "charged", "replayed": result.replayed, **done}
    key = item.name if isinstance(item, Misfit) else item.key
    refused: dict[str, Any] = {"key": key, "status": "refused"}
    if isinstance(result, BursarError):
        refused |= {"code": result.code, "detail": result.detail, **result.extra}
        if result.errors:
            refused["errors"] = result.errors
    return refused


@router.post(
    "/holds", response_model=HoldMade, responses=documented(*OF_WALLET), openapi_extra=KEYED
)
@own_key
@hot
async def hold(request: Request, actor: Annotated[Actor, CHARGE], body: HoldIn) -> Response:
    """Sets an amount aside until it is captured or voided, or the time has passed."""
    state = request.app.state
    scale = await assets.scale(state.database, actor.claim, body.currency)
    leg = ledger.hold(
        ledger.user(body.user_id),
        minor(body.amount, scale),
        body.currency,
        kind="charge",
        seconds=body.seconds,
        category=body.category,
        metadata=body.about(),
    )
    outcome = await state.till.post(keyed(request, leg, "wallets.held"))
    [moved] = outcome.legs
    made = HoldMade(
        id=moved.hold_id,
        operation_id=outcome.operation_id,
        user_id=body.user_id,
        currency=moved.asset,
        amount=decimal(moved.amount, scale),
        captured=decimal(0, scale),
        state=HoldState.OPEN,
        category=body.category,
        metadata=body.about(),
        created_at=outcome.posted_at,
        expires_at=outcome.posted_at + timedelta(seconds=body.seconds),
        closed_at=None,
        available=decimal(moved.available, scale),
    )
    return replayable(made.model_dump(by_alias=True), outcome)


def keyed(request: Request, leg: ledger.Leg, event: str) -> ledger.Request:
    origin: Origin = request.state.origin
    return ledger.Request(origin.actor.remembered_as, operation_key(request), (leg,), origin, event)


@router.get(
    "/holds/{hold_id}",
    dependencies=[READ],
    responses=documented(ledger.UnknownHold),
)
async def read_hold(db: Db, hold_id: UUID) -> HoldOut:
    """One hold as it stands now."""
    return hold_out(await statements.hold(db, hold_id))


def hold_out(found: HeldFor) -> HoldOut:
    row, scale = found.hold, found.scale
    return HoldOut(
        id=row.id,
        operation_id=row.operation_id,
        user_id=found.user_id,
        currency=row.asset,
        amount=decimal(row.amount, scale),
        captured=decimal(row.captured, scale),
        state=HoldState(row.state),
        category=row.category,
        metadata=row.about,
        created_at=row.created_at,
        expires_at=row.expires_at,
        closed_at=row.closed_at,
    )


@router.post(
    "/holds/{hold_id}/captures",
    dependencies=[CHARGE],
    response_model=CaptureOut,
    responses=documented(*OF_HOLD, ledger.HoldExpired, ledger.CaptureTooLarge, *BAD_AMOUNTS),
    openapi_extra=KEYED,
)
@own_key
async def capture(request: Request, hold_id: UUID, body: CaptureIn | None = None) -> Response:
    """Takes a part of a hold, or all that is left; a final capture gives the rest back."""
    asked = body or CaptureIn()
    found = await held_for(request, hold_id)
    amount = None if asked.amount is None else minor(asked.amount, found.scale)
    leg = ledger.capture(hold_id, amount, final=asked.final)
    outcome = await request.app.state.till.post(keyed(request, leg, "wallets.captured"))
    content = charged(found.user_id, outcome, found.scale)
    return replayable({**content, "holdId": hold_id}, outcome)


async def held_for(request: Request, hold_id: UUID) -> HeldFor:
    """In a transaction of its own: none is open while the till is waited for. As the worker, as
    the till posts: to a service's key no row of any customer shows."""
    async with request.app.state.database.transaction(WORKER) as db:
        return await statements.hold(db, hold_id)


@router.post(
    "/holds/{hold_id}/void",
    dependencies=[CHARGE],
    response_model=VoidOut,
    responses=documented(*OF_HOLD),
    openapi_extra=KEYED,
)
@own_key
async def void(request: Request, hold_id: UUID) -> Response:
    """Gives back what is left of a hold."""
    found = await held_for(request, hold_id)
    asked = keyed(request, ledger.void(hold_id), "wallets.voided")
    outcome = await request.app.state.till.post(asked)
    content = charged(found.user_id, outcome, found.scale)
    del content["transferId"]
    return replayable({**content, "holdId": hold_id}, outcome)
