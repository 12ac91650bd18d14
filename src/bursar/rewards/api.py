"""What customers see and do: their points, tier and history, and redeeming points for balance."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from bursar.accounts.api import Own, OwnInPerson
from bursar.auth.guard import customer, in_person
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.idempotency import REPLAYED, BadKey, KeyReused, operation_key, own_key
from bursar.core.paging import PageQuery
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.rewards import queries, service
from bursar.rewards.schemas import (
    History,
    PointsEntryOut,
    Program,
    RedemptionIn,
    RedemptionOut,
    RewardsOut,
    RuleOut,
    TierOut,
    standing,
)
from bursar.rewards.service import NotRedeemable, TooFewPoints
from bursar.wallets.ledger import AccountClosed, AccountFrozen, InsufficientFunds
from bursar.wallets.till import TillFull

router = APIRouter(tags=["rewards"], route_class=Route)


class HistoryQuery(PageQuery):
    """A page of the history, the newest first."""

    sort: Literal["-created_at"] | None = None


@router.get("/rewards", dependencies=[customer])
async def read_program(db: Db) -> Program:
    """How points are earned here: the rules and tiers, and what a point is worth."""
    conditions = await queries.redeeming(db)
    return Program(
        rules=[RuleOut.model_validate(rule) for rule in await queries.rules(db)],
        tiers=[TierOut.model_validate(tier) for tier in await queries.tiers(db)],
        redeemable=conditions.redeemable,
        points_per_usd=conditions.points_per_usd,
        points_redeemed_at_least=conditions.at_least,
    )


@router.get(
    "/users/{user_id}/rewards",
    dependencies=[customer],
    responses=documented(NotFound),
)
async def read_rewards(db: Db, me: Own) -> RewardsOut:
    """Your points, your tier and the way to the next, what expires next, and what it is worth."""
    return RewardsOut.model_validate(standing(await queries.rewards(db, me)))


@router.get(
    "/users/{user_id}/rewards/history",
    dependencies=[customer],
    responses=documented(NotFound, InvalidInput),
)
async def list_history(db: Db, me: Own, ask: Annotated[HistoryQuery, Query()]) -> History:
    """Every point that came or went, the newest first."""
    page = await queries.history(db, me, ask)
    return History.of(page, history=[PointsEntryOut.of(line) for line in page.items])


@router.post(
    "/users/{user_id}/rewards/redemptions",
    status_code=201,
    dependencies=[in_person],
    response_model=RedemptionOut,
    responses=documented(
        NotFound,
        InsufficientFunds,
        AccountFrozen,
        AccountClosed,
        NotRedeemable,
        TooFewPoints,
        TillFull,
        BadKey,
        KeyReused,
    ),
)
@own_key
async def redeem(request: Request, me: OwnInPerson, body: RedemptionIn) -> Response:
    """Points for balance, at the rate of the moment; what is less than a millionth of a dollar is
    not paid. The same Idempotency-Key gets the same answer for ever, also after the rate has
    changed."""
    state = request.app.state
    done = await service.redeem(
        state.till, state.database, request.state.origin, body.points, key=operation_key(request)
    )
    return answer(RedemptionOut.of(done), 201, REPLAYED if done.replayed else {})
