"""The verbs of rewards: set rules and tiers, grant, take, redeem, expire."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as clock
from decimal import Decimal
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.auth.actor import Origin
from bursar.core import etag, events
from bursar.core.database import Database, Role
from bursar.core.errors import BursarError, NotFound
from bursar.core.idempotency import KeyReused
from bursar.rewards import queries, rules
from bursar.rewards.models import RewardRule, RewardTier
from bursar.system import queries as system
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.queries import done as done_before
from bursar.wallets.till import Till

Row = TypeVar("Row", RewardRule, RewardTier)


class RewardsChanged(events.Event, name="rewards.changed"):
    """Staff added, changed or removed a rule or a tier: points are earned otherwise from now on."""


class TierReached(
    events.Event, name="rewards.tier_reached", published_by={Role.WORKER}, public=True
):
    """A customer has earned enough points for a higher tier than before."""

    user_id: str
    tier: str


class TooMany(BursarError, status=409, code="rewards.too_many"):
    """There are as many rules or tiers as there may be; remove one that is not needed."""


class TierTaken(BursarError, status=409, code="rewards.tier_taken"):
    """Another tier has this name, or begins at this number of points."""


class TooGenerous(BursarError, status=422, code="rewards.too_generous"):
    """The points for a dollar, in the best tier, would be worth more of it than the setting
    points_worth_at_most allows; `most` says how many points that is."""


async def add_rule(db: AsyncSession, facts: Mapping[str, Any]) -> RewardRule:
    await refuse_too_many(db, RewardRule, rules.MOST_RULES)
    await refuse_generous_rule(db, facts)
    rule = RewardRule(**facts)
    db.add(rule)
    return await written(db, "reward_rule", rule, None)


async def change_rule(
    db: AsyncSession, rule_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> RewardRule:
    """What has been earned stays; all that has no points yet goes by the rule as it is now."""
    rule = await held(db, RewardRule, rule_id, if_match)
    await refuse_generous_rule(db, facts)
    return await changed(db, "reward_rule", rule, facts)


async def remove_rule(db: AsyncSession, rule_id: UUID, *, if_match: str | None = None) -> None:
    await removed(db, "reward_rule", await held(db, RewardRule, rule_id, if_match))


async def add_tier(db: AsyncSession, facts: Mapping[str, Any]) -> RewardTier:
    await refuse_too_many(db, RewardTier, rules.MOST_TIERS)
    await refuse_generous(db, await queries.highest_rate(db), facts["multiplier"])
    row = insert(RewardTier).values(**facts).on_conflict_do_nothing().returning(RewardTier.id)
    tier_id = await db.scalar(row)
    if tier_id is None:
        raise TierTaken("Another tier has this name, or begins at this number of points.")
    return await written(db, "reward_tier", await queries.tier(db, tier_id), None)


async def change_tier(
    db: AsyncSession, tier_id: UUID, facts: Mapping[str, Any], *, if_match: str | None = None
) -> RewardTier:
    tier = await held(db, RewardTier, tier_id, if_match)
    await refuse_generous(db, await queries.highest_rate(db), facts["multiplier"])
    same = (RewardTier.name == facts["name"]) | (RewardTier.from_points == facts["from_points"])
    if await db.scalar(select(RewardTier.id).where(same, RewardTier.id != tier_id).limit(1)):
        raise TierTaken("Another tier has this name, or begins at this number of points.")
    return await changed(db, "reward_tier", tier, facts)


async def remove_tier(db: AsyncSession, tier_id: UUID, *, if_match: str | None = None) -> None:
    await removed(db, "reward_tier", await held(db, RewardTier, tier_id, if_match))


async def refuse_too_many(
    db: AsyncSession, model: type[RewardRule] | type[RewardTier], most: int
) -> None:
    if (await db.scalar(select(func.count()).select_from(model)) or 0) >= most:
        raise TooMany(f"There are {most} already; remove one that is not needed.")


async def refuse_generous_rule(db: AsyncSession, facts: Mapping[str, Any]) -> None:
    """In the best tier that there is; one that is off or over gives nothing."""
    over = facts["ends_at"] and facts["ends_at"] <= datetime.now(UTC)
    if facts["active"] and not over:
        await refuse_generous(db, facts["points_per_unit"], await queries.highest_multiplier(db))


async def refuse_generous(db: AsyncSession, rate: Decimal, multiplier: Decimal) -> None:
    most = await queries.most_per_unit(db)
    if rate * multiplier > most:
        raise TooGenerous(
            f"With the best tier that would be {rate * multiplier:f} points for a dollar; "
            f"{most:f} is the most.",
            most=most,
        )


async def held(db: AsyncSession, model: type[Row], row_id: UUID, if_match: str | None) -> Row:
    """The row, locked until the transaction ends."""
    row = await db.get(model, row_id, with_for_update=True, populate_existing=True)
    if row is None:
        raise NotFound("There is no such rule." if model is RewardRule else "No such tier.")
    etag.check(if_match, row.version)
    return row


async def changed(db: AsyncSession, kind: str, row: Row, facts: Mapping[str, Any]) -> Row:
    before = seen(row)
    for name, value in facts.items():
        setattr(row, name, value)
    if not db.is_modified(row):
        audit.nothing_changed(db)
        return row
    return await written(db, kind, row, before)


async def written(db: AsyncSession, kind: str, row: Row, before: dict[str, Any] | None) -> Row:
    await db.flush()
    await db.refresh(row)
    deed = "created" if before is None else "changed"
    await audit.record(db, f"rewards.{kind}_{deed}", kind, row.id, before=before, after=seen(row))
    await events.publish(db, RewardsChanged())
    return row


async def removed(db: AsyncSession, kind: str, row: Row) -> None:
    await db.delete(row)
    await db.flush()
    await audit.record(db, f"rewards.{kind}_removed", kind, row.id, before=seen(row))
    await events.publish(db, RewardsChanged())


def seen(row: RewardRule | RewardTier) -> dict[str, Any]:
    """What an audit row says about it."""
    hidden = {"id", "version", "created_at", "updated_at"}
    return {
        column.key: getattr(row, column.key)
        for column in row.__mapper__.columns
        if column.key not in hidden
    }


class GrantTooLarge(BursarError, status=422, code="rewards.grant_too_large"):
    """More points than one person may give and take in one day, counted in UTC; `most` says how
    many that is, `left` how many are left of it today."""


@dataclass(frozen=True, slots=True)
class Granted:
    """Points that staff gave, or took (below zero)."""

    id: UUID
    points: int
    points_balance: int
    created_at: datetime
    replayed: bool = False


async def grant(db: AsyncSession, user_id: UUID, points: int, *, reason: str, key: str) -> Granted:
    """Gives points to a customer; below zero it takes them, never more than there are. Once for
    each key of the person who does it."""
    origin: Origin = db.info["origin"]
    scope = f"rewards.grants {origin.actor.remembered_as}"
    await refuse_too_much(db, scope, key, abs(points))
    customer = ledger.user(user_id)
    sides = ("rewards", customer) if points > 0 else (customer, "rewards")
    leg = ledger.transfer(
        *sides, abs(points), ledger.POINTS, kind="adjustment", metadata={"reason": reason}
    )
    outcome = await wallets.post(db, ledger.Request(scope, key, [leg], origin, "rewards.granted"))
    [moved] = outcome.legs
    balance = moved.credited if points > 0 else moved.balance
    return Granted(outcome.operation_id, points, balance or 0, outcome.posted_at, outcome.replayed)


LOCK = text("select pg_advisory_xact_lock(hashtextextended(:scope, 0))")
TODAY = text("""
select coalesce(sum((outcome -> 'legs' -> 0 ->> 'amount')::numeric), 0)::bigint from operations
where scope = :scope and starts_with(scope, 'rewards.grants ')
  and created_at >= date_trunc('day', now(), 'UTC')
""")


async def refuse_too_much(db: AsyncSession, scope: str, key: str, points: int) -> None:
    """Of one person two grants never count at once, so that none passes the other's sum by."""
    await db.execute(LOCK, {"scope": scope})
    if await db.scalar(select(func.operation_of(scope, key))):
        return  # nothing is given a second time
    most = await system.value(db, rules.MOST_GRANTED)
    left = max(0, most - (await db.scalar(TODAY, {"scope": scope}) or 0))
    if points > left:
        raise GrantTooLarge(
            f"One person may give and take {most} points in one day; {left} are left today.",
            most=most,
            left=left,
        )


class NotRedeemable(BursarError, status=409, code="rewards.not_redeemable"):
    """Points cannot be redeemed at present."""


class TooFewPoints(BursarError, status=422, code="rewards.too_few_points"):
    """Fewer points than are redeemed at once; `at_least` says how many that is."""


@dataclass(frozen=True, slots=True)
class Redemption:
    """Points that went, and the millionths of a dollar that came for them."""

    id: UUID
    points: int
    amount: int
    points_balance: int
    created_at: datetime
    replayed: bool = False


async def redeem(
    till: Till, database: Database, origin: Origin, points: int, *, key: str
) -> Redemption:
    """Points for balance, at the rate of now; a key that was used for it before gets that answer,
    also when points are worth something else by now or cannot be redeemed any more."""
    scope = origin.actor.remembered_as
    if before := await redeemed_before(database, scope, key, points):
        return before
    async with database.transaction(origin.actor.claim) as db:
        conditions = await queries.redeeming(db)
    if not conditions.redeemable:
        raise NotRedeemable("Points cannot be redeemed at present.")
    if points < conditions.at_least:
        raise TooFewPoints(
            f"At least {conditions.at_least} points are redeemed at once.",
            at_least=conditions.at_least,
        )
    amount = rules.worth(points, conditions.points_per_usd)
    customer = ledger.user(origin.actor.id or "")
    legs = [
        ledger.transfer(customer, "rewards", points, ledger.POINTS, kind="redeem"),
        ledger.transfer("rewards", customer, amount, kind="redeem"),
    ]
    request = ledger.Request(scope, key, legs, origin, "rewards.redeemed")
    try:
        return redemption(await till.post(request))
    except KeyReused:
        if before := await redeemed_before(database, scope, key, points):
            return before  # the first request was under way, and the rate has changed in between
        raise


async def redeemed_before(
    database: Database, scope: str, key: str, points: int
) -> Redemption | None:
    """Under this key, for as many points."""
    done = await done_before(database, scope, key)
    if done is None:
        return None
    if (done.kind, done.amount) != ("redeem", points):
        raise KeyReused.now()
    return redemption(done.replayed())


def redemption(outcome: ledger.Outcome) -> Redemption:
    points, money = outcome.legs
    return Redemption(
        outcome.operation_id,
        points.amount,
        money.amount,
        points.balance,
        outcome.posted_at,
        outcome.replayed,
    )


class PointsMoved(BursarError, status=409, code="rewards.points_moved"):
    """Points were moved while they were to expire; nothing has happened, it is tried again."""


# First in, first out, so what has gone out was the oldest: of what came in before the cutoff, that
# is left by which the balance is more than all that came in since. What is held, and what is in a
# frozen wallet, has its turn on a later day.
DUE = text("""
select points.id, points.seq,
  least(points.posted - points.held, points.posted - newer.amount)::bigint as due
from accounts as points cross join lateral (
  select coalesce(sum(amount), 0) as amount from transfers
  where credit_id = points.id
    and credit_seq > seq_at(points.id, cast(:before as timestamptz))
) as newer
where asset = 'POINTS' and purpose = 'wallet' and status = 'open' and posted > held
  and points.id > :after
  and not exists (
    select from operations
    where operation_mark(scope, key)
      = operation_mark(:scope, points.id || ':' || cast(:day as text))
  )
order by points.id limit :most
""")
MOVED = text("""
select count(*) from accounts
join unnest(cast(:ids as uuid[]), cast(:seqs as bigint[])) as was (id, seq) using (id)
where accounts.seq <> was.seq + 1
""")
EXPIRY = "rewards.expiry"
FIRST = UUID(int=0)
AT_ONCE = 500


async def expire(
    db: AsyncSession, day: date, *, after: UUID = FIRST, most: int = AT_ONCE
) -> UUID | None:
    """Takes what is due on a day from the next accounts; answers the last of them, None at the
    end. Once for each account and day."""
    days = await system.value(db, rules.EXPIRE_AFTER_DAYS)
    if days == 0:
        return None
    cutoff = datetime.combine(day, clock(), tzinfo=UTC) - timedelta(days=days)
    before = cutoff - timedelta(microseconds=1)
    asked = {"before": before, "after": after, "scope": EXPIRY, "day": str(day), "most": most}
    found = (await db.execute(DUE, asked)).all()
    due = [row for row in found if row.due > 0]
    if due:
        await wallets.post_all(db, [expiry(row.id, row.due, day) for row in due])
        was = {"ids": [row.id for row in due], "seqs": [row.seq for row in due]}
        if await db.scalar(MOVED, was):  # by now they are locked: this is how it is
            raise PointsMoved("Points were moved while they were to expire.")
    return found[-1].id if len(found) == most else None


def expiry(account_id: UUID, points: int, day: date) -> ledger.Request:
    leg = ledger.transfer(str(account_id), "rewards", points, ledger.POINTS, kind="expire")
    return ledger.Request(EXPIRY, f"{account_id}:{day}", [leg])
