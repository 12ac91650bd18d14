"""What staff see and do: rules and tiers of points, a customer's points, and points by hand."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.idempotency import REPLAYED, BadKey, KeyReused, operation_key
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.rewards import queries, service
from bursar.rewards.api import HistoryQuery
from bursar.rewards.models import RewardRule, RewardTier
from bursar.rewards.schemas import (
    GrantIn,
    GrantOut,
    HistoryForStaff,
    PointsEntryForStaff,
    RewardsForStaff,
    RuleForStaff,
    RuleIn,
    RuleList,
    TierForStaff,
    TierIn,
    TierList,
    standing,
)
from bursar.rewards.service import GrantTooLarge, TierTaken, TooGenerous, TooMany
from bursar.wallets.ledger import (
    AccountClosed,
    AccountFrozen,
    InsufficientFunds,
    UnknownAccount,
)

router = APIRouter(tags=["rewards"], route_class=Route)

READ = staff(Permission.USERS_READ)
WRITE = staff(Permission.REWARDS_WRITE)
ADJUST = staff(Permission.WALLETS_ADJUST)


class RulesQuery(PageQuery):
    """A page of rules, perhaps only those that are active or not."""

    active: bool | None = None
    sort: str | None = sort_field(queries.RULES)


class TiersQuery(PageQuery):
    """A page of tiers."""

    sort: str | None = sort_field(queries.TIERS)


@router.get(
    "/rewards/rules",
    dependencies=[READ],
    responses=documented(InvalidInput),
)
async def list_rules(db: Db, ask: Annotated[RulesQuery, Query()]) -> RuleList:
    """Rules by which points are earned, the newest first."""
    page = await queries.rules_page(db, ask, active=ask.active)
    return RuleList.of(page, rules=[RuleForStaff.model_validate(rule) for rule in page.items])


@router.post(
    "/rewards/rules",
    status_code=201,
    dependencies=[WRITE],
    response_model=RuleForStaff,
    responses=documented(TooMany, TooGenerous),
)
async def create_rule(db: Db, body: RuleIn) -> Response:
    """Charges that fit it earn points, if they are made from now on. Of several rules that fit, the
    best counts."""
    return of_rule(await service.add_rule(db, body.model_dump(by_alias=False)), 201)


@router.get(
    "/rewards/rules/{rule_id}",
    dependencies=[READ],
    response_model=RuleForStaff,
    responses=documented(NotFound),
)
async def read_rule(db: Db, rule_id: UUID) -> Response:
    """One rule; the ETag is its version."""
    return of_rule(await queries.rule(db, rule_id))


@router.put(
    "/rewards/rules/{rule_id}",
    dependencies=[WRITE],
    response_model=RuleForStaff,
    responses=documented(NotFound, TooGenerous, PreconditionFailed),
)
async def change_rule(db: Db, rule_id: UUID, body: RuleIn, if_match: IfMatch = None) -> Response:
    """Replaces it as a whole; points that were earned stay as they are. A charge of the last minute
    that has no points yet earns them by the rule as it is now."""
    return of_rule(
        await service.change_rule(db, rule_id, body.model_dump(by_alias=False), if_match=if_match)
    )


@router.delete(
    "/rewards/rules/{rule_id}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound, PreconditionFailed),
)
async def remove_rule(db: Db, rule_id: UUID, if_match: IfMatch = None) -> None:
    """Nothing is earned by it any more; points that were earned stay."""
    await service.remove_rule(db, rule_id, if_match=if_match)


def of_rule(rule: RewardRule, status: int = 200) -> Response:
    return answer(
        RuleForStaff.model_validate(rule), status, headers={"ETag": etag.of(rule.version)}
    )


@router.get(
    "/rewards/tiers",
    dependencies=[READ],
    responses=documented(InvalidInput),
)
async def list_tiers(db: Db, ask: Annotated[TiersQuery, Query()]) -> TierList:
    """Tiers, the lowest first."""
    page = await queries.tiers_page(db, ask)
    return TierList.of(page, tiers=[TierForStaff.model_validate(tier) for tier in page.items])


@router.post(
    "/rewards/tiers",
    status_code=201,
    dependencies=[WRITE],
    response_model=TierForStaff,
    responses=documented(TierTaken, TooMany, TooGenerous),
)
async def create_tier(db: Db, body: TierIn) -> Response:
    """Whoever has earned so many points is in it from their next charge on."""
    return of_tier(await service.add_tier(db, body.model_dump(by_alias=False)), 201)


@router.get(
    "/rewards/tiers/{tier_id}",
    dependencies=[READ],
    response_model=TierForStaff,
    responses=documented(NotFound),
)
async def read_tier(db: Db, tier_id: UUID) -> Response:
    """One tier; the ETag is its version."""
    return of_tier(await queries.tier(db, tier_id))


@router.put(
    "/rewards/tiers/{tier_id}",
    dependencies=[WRITE],
    response_model=TierForStaff,
    responses=documented(NotFound, TierTaken, TooGenerous, PreconditionFailed),
)
async def change_tier(db: Db, tier_id: UUID, body: TierIn, if_match: IfMatch = None) -> Response:
    """Replaces it as a whole; points that were earned stay as they are."""
    return of_tier(
        await service.change_tier(db, tier_id, body.model_dump(by_alias=False), if_match=if_match)
    )


@router.delete(
    "/rewards/tiers/{tier_id}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound, PreconditionFailed),
)
async def remove_tier(db: Db, tier_id: UUID, if_match: IfMatch = None) -> None:
    """Its customers are in the next lower tier; without any, points are not multiplied."""
    await service.remove_tier(db, tier_id, if_match=if_match)


def of_tier(tier: RewardTier, status: int = 200) -> Response:
    return answer(
        TierForStaff.model_validate(tier), status, headers={"ETag": etag.of(tier.version)}
    )


@router.get(
    "/users/{user_id}/rewards",
    dependencies=[READ],
    responses=documented(NotFound),
)
async def read_rewards(db: Db, user_id: UUID) -> RewardsForStaff:
    """A customer's points and tier, what expires next, and what it is worth."""
    return RewardsForStaff.model_validate(standing(await queries.rewards(db, user_id)))


@router.get(
    "/users/{user_id}/rewards/history",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_history(
    db: Db, user_id: UUID, ask: Annotated[HistoryQuery, Query()]
) -> HistoryForStaff:
    """Every point that came to a customer or went, the newest first."""
    page = await queries.history(db, user_id, ask)
    lines = [PointsEntryForStaff.of(line) for line in page.items]
    return HistoryForStaff.of(page, history=lines)


@router.post(
    "/users/{user_id}/rewards/grants",
    status_code=201,
    dependencies=[ADJUST],
    responses=documented(
        UnknownAccount,
        InsufficientFunds,
        AccountFrozen,
        AccountClosed,
        GrantTooLarge,
        BadKey,
        KeyReused,
    ),
)
async def grant_points(
    request: Request, response: Response, db: Db, user_id: UUID, body: GrantIn
) -> GrantOut:
    """Gives a customer points by hand, or takes them (below zero), and says why. They do not count
    for the tier."""
    done = await service.grant(
        db, user_id, body.points, reason=body.reason, key=operation_key(request)
    )
    if done.replayed:
        response.headers.update(REPLAYED)
    return GrantOut.model_validate(done)
