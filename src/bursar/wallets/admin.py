"""What staff see and do: wallets and their statements, corrections."""

from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy import Row

from bursar.auth.actor import Actor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.idempotency import REPLAYED, KeyReused, operation_key
from bursar.core.money import BAD_AMOUNTS, decimal
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, Time, answer
from bursar.wallets import assets, books, charges, ledger, queries, service, statements
from bursar.wallets.api import WalletsQuery
from bursar.wallets.charge_schemas import Currency, HoldList
from bursar.wallets.ledger import USD
from bursar.wallets.models import Adjustment, HoldState
from bursar.wallets.queries import Wallet
from bursar.wallets.service import (
    AdjustmentDecided,
    NotEmpty,
    OverdraftInUse,
    OverdraftTooLarge,
    SamePerson,
)
from bursar.wallets.staff_schemas import (
    AdjustmentIn,
    AdjustmentList,
    AdjustmentOut,
    Entry,
    OverdraftIn,
    RejectionIn,
    StatementOut,
    WalletList,
    WalletOut,
    WalletStatusIn,
)
from bursar.wallets.statements import HeldFor, Span

router = APIRouter(tags=["wallets"], route_class=Route)
router.include_router(charges.router)
router.include_router(books.router)

READ = staff(Permission.WALLETS_READ)
ADJUST = staff(Permission.WALLETS_ADJUST)
OUT_OF_WALLET = (
    ledger.InsufficientFunds,
    ledger.AccountFrozen,
    ledger.AccountClosed,
    ledger.UnknownAccount,
    ledger.UnknownAsset,
    *BAD_AMOUNTS,
)


@router.get(
    "/users/{user_id}/wallets",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_wallets(db: Db, user_id: UUID, ask: Annotated[WalletsQuery, Query()]) -> WalletList:
    """A customer's wallets, one for each currency."""
    page = await queries.wallets(db, user_id, ask)
    return WalletList.of(page, wallets=[wallet_out(each) for each in page.items])


def wallet_out(wallet: Wallet) -> WalletOut:
    account, scale = wallet.row, wallet.scale
    return WalletOut(
        id=account.id,
        user_id=account.owner_id,
        currency=account.asset,
        balance=decimal(account.posted, scale),
        available=decimal(account.posted - account.held, scale),
        held=decimal(account.held, scale),
        spent=decimal(account.spent, scale),
        overdraft=decimal(account.overdraft or 0, scale),
        status=account.status,
        entries=account.seq,
        created_at=account.created_at,
        updated_at=account.moved_at or account.created_at,
    )


class HoldsQuery(PageQuery):
    """A page of a customer's holds, perhaps only those in one state."""

    state: HoldState | None = None
    sort: str | None = sort_field(queries.HOLDS)


@router.get("/users/{user_id}/holds", dependencies=[READ], responses=documented(NotFound))
async def list_holds(db: Db, user_id: UUID, ask: Annotated[HoldsQuery, Query()]) -> HoldList:
    """What is held of a customer's money, or was: the newest first."""
    page = await queries.holds(db, user_id, ask, state=ask.state)
    scales = await assets.all_scales(db)
    found = [HeldFor(row, user_id, scales[row.asset]) for row in page.items]
    return HoldList.of(page, holds=[charges.hold_out(each) for each in found])


@router.put(
    "/users/{user_id}/wallet/status",
    dependencies=[ADJUST],
    responses=documented(ledger.UnknownAccount, ledger.UnknownAsset, NotEmpty),
)
async def change_wallet_status(db: Db, user_id: UUID, body: WalletStatusIn) -> WalletOut:
    """Freezes a wallet, opens it again, or closes it when it is empty."""
    changed = await service.change_status(
        db, user_id, body.currency, body.status, reason=body.reason
    )
    return wallet_out(changed)


@router.put(
    "/users/{user_id}/wallet/overdraft",
    dependencies=[ADJUST],
    responses=documented(
        ledger.UnknownAccount,
        ledger.UnknownAsset,
        OverdraftInUse,
        OverdraftTooLarge,
        *BAD_AMOUNTS,
    ),
)
async def change_wallet_overdraft(db: Db, user_id: UUID, body: OverdraftIn) -> WalletOut:
    """How far below zero a wallet may go; not less than it has gone already."""
    changed = await service.change_overdraft(
        db, user_id, body.currency, body.limit, reason=body.reason
    )
    return wallet_out(changed)


class StatementQuery(PageQuery):
    """Which statement; without `from` it begins thirty days before it ends."""

    from_: Time | None = Field(None, alias="from")
    to: Time | None = Field(None, description="Now, unless it is said.")
    currency: Currency = USD
    by: Literal["posted", "effective"] = Field(
        "posted", description="When it was written, or for when it was meant."
    )
    sort: Literal["entry"] | None = None


@router.get(
    "/users/{user_id}/statement",
    dependencies=[READ],
    responses=documented(ledger.UnknownAccount, ledger.UnknownAsset, InvalidInput),
)
async def read_statement(
    db: Db, user_id: UUID, ask: Annotated[StatementQuery, Query()]
) -> StatementOut:
    """What a wallet held before and after, and every entry in between, the oldest first."""
    span = Span(ask.from_, ask.to, ask.by == "effective")
    found = await statements.statement(db, user_id, ask.currency, span, ask)
    scale = found.wallet.scale
    is_posted = ask.by == "posted"
    return StatementOut.of(
        found.page,
        user_id=user_id,
        wallet_id=found.wallet.row.id,
        currency=ask.currency,
        by=ask.by,
        from_=found.begins,
        to=found.ends,
        opening_balance=decimal(found.opening, scale),
        total_in=decimal(found.total_in, scale),
        total_out=decimal(found.total_out, scale),
        closing_balance=decimal(found.closing, scale),
        entries=[entry_out(row, scale, is_posted) for row in found.page.items],
    )


def entry_out(row: Row[Any], scale: int, is_posted: bool) -> Entry:
    return Entry(
        id=row.id,
        entry=row.seq,
        amount=decimal(row.delta, scale),
        balance_after=decimal(row.balance, scale) if is_posted else None,
        kind=row.kind,
        category=row.category,
        counterpart=row.purpose,
        counterpart_user_id=row.owner_id,
        reverses=row.reverses,
        hold_id=row.hold_id,
        operation_id=row.operation_id,
        posted_at=row.posted_at,
        effective_at=row.effective_at or row.posted_at,
        metadata=row.metadata,
    )


@router.post(
    "/users/{user_id}/adjustments",
    status_code=201,
    response_model=AdjustmentOut,
    responses={
        **documented(NotFound, KeyReused, *OUT_OF_WALLET),
        202: {"model": AdjustmentOut, "description": "Proposed: a second person has to decide."},
    },
)
async def adjust(
    request: Request, db: Db, actor: Annotated[Actor, ADJUST], user_id: UUID, body: AdjustmentIn
) -> Response:
    """Gives to a customer or takes from them, with a reason; above what the settings let one person
    adjust in a day it waits until a second person has agreed."""
    row, replayed = await service.adjust(
        db,
        user_id,
        body.amount,
        body.currency,
        body.reason,
        scope=actor.remembered_as,
        key=operation_key(request),
    )
    status = 202 if row.state == "proposed" else 201
    return answer(await adjustment_out(db, row), status, REPLAYED if replayed else None)


async def adjustment_out(db: Db, row: Adjustment) -> AdjustmentOut:
    return described(row, (await assets.asset(db, row.asset)).scale)


def described(row: Adjustment, scale: int) -> AdjustmentOut:
    return AdjustmentOut(
        id=row.id,
        user_id=row.user_id,
        amount=decimal(row.amount, scale),
        currency=row.asset,
        reason=row.reason,
        state=row.state,
        proposed_by=row.proposed_by,
        decided_by=row.decided_by,
        created_at=row.created_at,
        decided_at=row.decided_at,
        operation_id=row.operation_id,
    )


class AdjustmentsQuery(PageQuery):
    """A page of corrections, perhaps only those that fit."""

    state: Literal["proposed", "posted", "rejected"] | None = None
    user_id: UUID | None = None
    sort: str | None = sort_field(statements.ADJUSTMENTS)


@router.get(
    "/adjustments",
    dependencies=[READ],
    responses=documented(InvalidInput),
)
async def list_adjustments(db: Db, ask: Annotated[AdjustmentsQuery, Query()]) -> AdjustmentList:
    """Corrections, the newest first."""
    page = await statements.adjustments(db, ask, state=ask.state, user_id=ask.user_id)
    scales = await assets.all_scales(db)
    shown = [described(row, scales[row.asset]) for row in page.items]
    return AdjustmentList.of(page, adjustments=shown)


@router.get(
    "/adjustments/{adjustment_id}",
    dependencies=[READ],
    responses=documented(NotFound),
)
async def read_adjustment(db: Db, adjustment_id: UUID) -> AdjustmentOut:
    """One correction and where it stands."""
    row = await statements.adjustment(db, adjustment_id)
    return await adjustment_out(db, row)


@router.post(
    "/adjustments/{adjustment_id}/approval",
    dependencies=[ADJUST],
    responses=documented(NotFound, SamePerson, AdjustmentDecided, *OUT_OF_WALLET),
)
async def approve_adjustment(db: Db, adjustment_id: UUID) -> AdjustmentOut:
    """A second person agrees, and it is posted."""
    row = await service.approve(db, adjustment_id)
    return await adjustment_out(db, row)


@router.post(
    "/adjustments/{adjustment_id}/rejection",
    dependencies=[ADJUST],
    responses=documented(NotFound, SamePerson, AdjustmentDecided),
)
async def reject_adjustment(
    db: Db, adjustment_id: UUID, body: RejectionIn | None = None
) -> AdjustmentOut:
    """A second person does not agree, and nothing is posted."""
    row = await service.reject(db, adjustment_id, reason=body.reason if body else None)
    return await adjustment_out(db, row)
