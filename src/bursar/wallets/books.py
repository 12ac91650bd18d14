"""The books of the company for staff: transfers and what goes back, the trial balance, assets."""

from datetime import UTC, datetime
from itertools import groupby
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy import Row

from bursar.auth.actor import Actor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core.database import Db
from bursar.core.idempotency import REPLAYED, KeyReused, operation_key
from bursar.core.money import BAD_AMOUNTS, decimal, minor
from bursar.core.paging import PageQuery
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.wallets import assets, ledger, service, statements
from bursar.wallets.assets import AssetExists
from bursar.wallets.staff_schemas import (
    AssetIn,
    AssetList,
    AssetOut,
    ReversalIn,
    ReversalOut,
    Reversed,
    Side,
    TransferOut,
    TrialAsset,
    TrialBalance,
    TrialLine,
)
from bursar.wallets.statements import Line

router = APIRouter(route_class=Route)

READ = staff(Permission.WALLETS_READ)
ADJUST = staff(Permission.WALLETS_ADJUST)
BOOKS = staff(Permission.LEDGER_READ)


@router.get(
    "/transfers/{transfer_id}",
    dependencies=[READ],
    responses=documented(ledger.UnknownTransfer),
)
async def read_transfer(db: Db, transfer_id: UUID) -> TransferOut:
    """One transfer with both of its sides, and how much of it has gone back."""
    row = await statements.transfer(db, transfer_id)
    return TransferOut(
        id=row.id,
        operation_id=row.operation_id,
        currency=row.asset,
        amount=decimal(row.amount, row.scale),
        kind=row.kind,
        category=row.category,
        debit=side(row, "debit"),
        credit=side(row, "credit"),
        reverses=row.reverses,
        reversed=decimal(row.reversed, row.scale),
        hold_id=row.hold_id,
        posted_at=row.posted_at,
        effective_at=row.effective_at,
        metadata=row.metadata,
    )


def side(row: Row[Any], name: str) -> Side:
    account, purpose, owner, seq, after = (
        getattr(row, f"{name}_{what}") for what in ("id", "purpose", "owner", "seq", "after")
    )
    return Side(
        account_id=account,
        purpose=purpose,
        user_id=owner,
        entry=seq,
        balance_after=decimal(after, row.scale),
    )


@router.post(
    "/transfers/{transfer_id}/reversal",
    status_code=201,
    response_model=ReversalOut,
    responses=documented(
        ledger.UnknownTransfer,
        ledger.ReversalTooLarge,
        ledger.InsufficientFunds,
        ledger.AccountFrozen,
        ledger.AccountClosed,
        service.PartOfMore,
        KeyReused,
        *BAD_AMOUNTS,
    ),
)
async def reverse(
    request: Request,
    db: Db,
    actor: Annotated[Actor, ADJUST],
    transfer_id: UUID,
    body: ReversalIn,
) -> Response:
    """Moves a transfer back, in part or all that is left of it; those that were made together go
    back together."""
    scale = (await statements.transfer(db, transfer_id)).scale
    outcome = await service.reverse(
        db,
        transfer_id,
        None if body.amount is None else minor(body.amount, scale),
        metadata={"reason": body.reason},
        scope=actor.remembered_as,
        key=operation_key(request),
    )
    together = await statements.moved_together(db, transfer_id)
    scales = await assets.all_scales(db)
    transfers = [
        Reversed(
            transfer_id=moved.transfer_id,
            reverses=original,
            amount=decimal(moved.amount, scales[moved.asset]),
            currency=moved.asset,
        )
        for original, moved in zip(together, outcome.legs, strict=True)
    ]
    asked = next(each for each in transfers if each.reverses == transfer_id)
    told = ReversalOut(
        **asked.model_dump(by_alias=False),
        operation_id=outcome.operation_id,
        posted_at=outcome.posted_at,
        transfers=transfers,
    )
    return answer(told, 201, REPLAYED if outcome.replayed else None)


@router.get("/ledger/trial-balance", dependencies=[BOOKS])
async def read_trial_balance(db: Db) -> TrialBalance:
    """What every purpose's accounts hold in each currency; debits and credits are the same."""
    lines = await statements.trial_balance(db)
    found = [
        trial_asset(code, list(of_asset))
        for code, of_asset in groupby(lines, key=lambda line: line.asset)
    ]
    balanced = all(each.difference == 0 for each in found)
    return TrialBalance(at=datetime.now(UTC), balanced=balanced, assets=found)


def trial_asset(code: str, lines: list[Line]) -> TrialAsset:
    debit, credit = (sum(getattr(line, side) for line in lines) for side in ("debit", "credit"))
    return TrialAsset(
        currency=code,
        lines=[TrialLine.model_validate(line) for line in lines],
        debit=debit,
        credit=credit,
        difference=credit - debit,
    )


class AssetsQuery(PageQuery):
    """A page of currencies."""

    sort: Literal["code", "-code"] | None = Field(None)


@router.get("/assets", dependencies=[READ])
async def list_assets(db: Db, ask: Annotated[AssetsQuery, Query()]) -> AssetList:
    """What wallets may be kept in."""
    page = await assets.page(db, ask)
    return AssetList.of(page, assets=[AssetOut.model_validate(row) for row in page.items])


@router.post(
    "/assets",
    dependencies=[ADJUST],
    status_code=201,
    responses=documented(AssetExists),
)
async def add_asset(db: Db, body: AssetIn) -> AssetOut:
    """Another currency, or points, for ever: its digits never change."""
    row = await assets.add(db, body.code, body.scale, body.kind)
    return AssetOut.model_validate(row)
