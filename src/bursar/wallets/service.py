"""The verbs of the ledger, in the caller's transaction: together with what else it writes, or not.

    from bursar.wallets import service as wallets

    await wallets.fund(db, user_id, 5_000_000, scope="payments", key="stripe:pi_1:captured")

A key says which fact it is, so the same fact told twice is done once. One transaction posts once:
what belongs together is legs of one request. Two posts in one could wait for each other's accounts
in a circle; PostgreSQL would end one of them with a conflict.
Staff and the worker may post. What customers do with their money goes through the till, which works
as the worker (wallets/till.py).
"""

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any, TypedDict, Unpack
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as customers
from bursar.audit import service as audit
from bursar.core import exact
from bursar.core.database import Role
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.idempotency import KeyReused
from bursar.core.money import decimal, signed_minor
from bursar.system import queries as system
from bursar.system.catalogue import setting
from bursar.wallets import assets, ledger, statements
from bursar.wallets.ledger import USD, Leg, Outcome, Request, UnknownAccount
from bursar.wallets.models import AccountStatus, Adjustment
from bursar.wallets.queries import Wallet

ADJUSTMENT_LIMIT = setting(
    "adjustment_limit",
    Decimal,
    Decimal(100),
    "How much one person may adjust alone in one day, counted in UTC: the sum of what was given and"
    " what was taken, in units of each currency.",
    ge=0,
    le=Decimal(10) ** 12,
)
OVERDRAFT_AT_MOST = setting(
    "overdraft_at_most",
    Decimal,
    Decimal(100),
    "The largest overdraft that a wallet may be given, in units of its currency.",
    ge=0,
    le=Decimal(10) ** 12,
)

POST = text("select post(cast(:requests as jsonb))")
POST_AS_STAFF = text("select post_as_staff(cast(:requests as jsonb))")


async def post(db: AsyncSession, request: Request) -> Outcome:
    """Posts one request, all its legs or none; a person's is audited by the database."""
    return (await post_all(db, [request]))[0]


async def post_all(db: AsyncSession, requests: list[Request]) -> list[Outcome]:
    """Posts several in one call; the first refusal is raised, and the transaction ends with it."""
    return [ledger.outcome(answer) for answer in await answers(db, requests)]


async def try_all(db: AsyncSession, requests: list[Request]) -> list[Outcome | BursarError]:
    """Posts several in one call, each by itself: what was refused is answered, the rest is done."""
    return [ledger.result(answer) for answer in await answers(db, requests)]


async def answers(db: AsyncSession, requests: list[Request]) -> Any:
    db.info["audited"] = True
    documents = exact.dumps([request.document() for request in requests])
    is_staff = db.info["claim"].role is Role.STAFF
    return await db.scalar(POST_AS_STAFF if is_staff else POST, {"requests": documents})


class Fact(TypedDict):
    """Which fact it is; the same one is done once."""

    scope: str
    key: str


class About(Fact, total=False):
    """And what is kept beside it."""

    category: str | None
    metadata: dict[str, Any] | None
    effective_at: datetime | None


async def do(db: AsyncSession, event: str, fact: Fact, *legs: Leg) -> Outcome:
    """Whoever's transaction it is, it is their doing."""
    origin = db.info.get("origin")
    return await post(db, Request(fact["scope"], fact["key"], legs, origin, event))


async def move(
    db: AsyncSession, event: str, debit: str, credit: str, amount: int, asset: str, kind: str,
    about: About,
) -> Outcome:  # fmt: skip
    more: Any = {name: value for name, value in about.items() if name not in ("scope", "key")}
    leg = ledger.transfer(debit, credit, amount, asset, kind=kind, **more)
    return await do(db, event, {"scope": about["scope"], "key": about["key"]}, leg)


async def fund(
    db: AsyncSession, user_id: UUID, amount: int, asset: str = USD, **about: Unpack[About]
) -> Outcome:
    """Money that came in from outside."""
    wallet = ledger.user(user_id)
    return await move(db, "wallets.funded", "clearing", wallet, amount, asset, "funding", about)


async def charge(
    db: AsyncSession, user_id: UUID, amount: int, asset: str = USD, **about: Unpack[About]
) -> Outcome:
    """What the customer used."""
    wallet = ledger.user(user_id)
    return await move(db, "wallets.charged", wallet, "revenue", amount, asset, "charge", about)


async def hold(
    db: AsyncSession,
    user_id: UUID,
    amount: int,
    asset: str = USD,
    *,
    seconds: int,
    category: str | None = None,
    metadata: dict[str, Any] | None = None,
    **fact: Unpack[Fact],
) -> Outcome:
    """An amount is set aside until it is captured, voided, or its time has passed."""
    wallet = ledger.user(user_id)
    leg = ledger.hold(
        wallet, amount, asset, kind="charge", seconds=seconds, category=category, metadata=metadata
    )
    return await do(db, "wallets.held", fact, leg)


async def capture(
    db: AsyncSession,
    hold_id: UUID,
    amount: int | None = None,
    *,
    final: bool = False,
    metadata: dict[str, Any] | None = None,
    **fact: Unpack[Fact],
) -> Outcome:
    """A part of a hold, or all that is left of it."""
    leg = ledger.capture(hold_id, amount, final=final, metadata=metadata)
    return await do(db, "wallets.captured", fact, leg)


async def void(db: AsyncSession, hold_id: UUID, **fact: Unpack[Fact]) -> Outcome:
    """What is left of a hold goes back."""
    return await do(db, "wallets.voided", fact, ledger.void(hold_id))


class PartOfMore(BursarError, status=409, code="wallet.part_of_more"):
    """The transfer is one of several that were made together; they go back whole, without an
    amount, or not at all."""


async def reverse(
    db: AsyncSession,
    transfer_id: UUID,
    amount: int | None = None,
    *,
    metadata: dict[str, Any] | None = None,
    **fact: Unpack[Fact],
) -> Outcome:
    """A transfer goes back, in part or all that is left of it; what moved together, together."""
    together = await statements.moved_together(db, transfer_id)
    if amount is not None and len(together) > 1:
        raise PartOfMore("This transfer is one of several that go back together, or not at all.")
    legs = (ledger.reverse(each, amount, metadata=metadata) for each in together)
    return await do(db, "wallets.reversed", fact, *legs)


async def exchange(
    db: AsyncSession,
    user_id: UUID,
    *,
    sold: tuple[int, str],
    bought: tuple[int, str],
    metadata: dict[str, Any] | None = None,
    **fact: Unpack[Fact],
) -> Outcome:
    """Money against other money, both or neither; the rate is the caller's affair."""
    if sold[1] == bought[1]:
        raise InvalidInput("An exchange is between two currencies.")
    for code in (sold[1], bought[1]):
        if (await assets.asset(db, code)).kind != "currency":
            raise assets.unknown()
    wallet = ledger.user(user_id)
    legs = (
        ledger.transfer(wallet, "exchange", *sold, kind="exchange", metadata=metadata),
        ledger.transfer("exchange", wallet, *bought, kind="exchange", metadata=metadata),
    )
    return await do(db, "wallets.exchanged", fact, *legs)


class NotEmpty(BursarError, status=409, code="wallet.not_empty"):
    """There is money in the wallet, or held in it; only an empty one can be closed."""


CHANGE_STATUS = text(
    "select change_wallet_status(:user_id, :asset, :status, :reason, :address, :request_id)"
)


async def change_status(
    db: AsyncSession, user_id: UUID, asset: str, status: AccountStatus, *, reason: str
) -> Wallet:
    """Whether money moves in a wallet; what is under way is done before, or sees it."""
    scale = (await statements.wallet(db, user_id, asset)).scale
    given = {"user_id": user_id, "asset": asset, "status": status.value, "reason": reason}
    refused = await db.scalar(CHANGE_STATUS, given | audit.whence(db)) or {}
    if refused.get("error") == NotEmpty.code:
        raise NotEmpty(
            "Only an empty wallet can be closed.",
            balance=decimal(refused["balance"], scale),
            held=decimal(refused["held"], scale),
            currency=asset,
        )
    return await statements.wallet(db, user_id, asset)


class OverdraftInUse(BursarError, status=409, code="wallet.overdraft_in_use"):
    """The wallet is further below zero than the new limit; `used` says how far."""


class OverdraftTooLarge(BursarError, status=422, code="wallet.overdraft_too_large"):
    """More than the wallet may be overdrawn by the settings (points: not at all), or is overdrawn
    already; `most` says it."""


CHANGE_OVERDRAFT = text(
    "select change_wallet_overdraft(:user_id, :asset, :overdraft, :reason, :address, :request_id)"
)


async def change_overdraft(
    db: AsyncSession, user_id: UUID, asset: str, limit: Decimal, *, reason: str | None = None
) -> Wallet:
    """How far below zero a wallet may go, but never less than it has gone already."""
    scale = (await statements.wallet(db, user_id, asset)).scale
    overdraft = signed_minor(limit, scale, pointer="/limit")
    given = {"user_id": user_id, "asset": asset, "overdraft": overdraft, "reason": reason}
    refused = await db.scalar(CHANGE_OVERDRAFT, given | audit.whence(db)) or {}
    if refused.get("error") == OverdraftTooLarge.code:
        most = Decimal(refused["most"])
        raise OverdraftTooLarge(
            f"This wallet may be overdrawn by {most} at most.", most=most, currency=asset
        )
    if refused.get("error") == OverdraftInUse.code:
        used = decimal(refused["used"], scale)
        raise OverdraftInUse(f"{used} of the overdraft is in use.", used=used, currency=asset)
    return await statements.wallet(db, user_id, asset)


async def adjust(
    db: AsyncSession, user_id: UUID, amount: Decimal, asset: str, reason: str, **fact: Unpack[Fact]
) -> tuple[Adjustment, bool]:
    """Posted at once, or above the limit proposed to a second person; and whether it was before."""
    scale = (await assets.asset(db, asset)).scale
    whole = signed_minor(amount, scale)
    if whole == 0:
        raise InvalidInput.at("/amount", "An adjustment gives something, or takes something.")
    await customers.user(db, user_id)
    person = db.info["origin"].actor.id
    facts: dict[str, Any] = {"user_id": user_id, "asset": asset, "amount": whole}
    facts |= {"reason": reason, "proposed_by": person}
    await db.execute(ONE_AT_A_TIME, {"name": f"adjustments of {person}"})
    if before := await adjusted_before(db, facts, fact):
        audit.nothing_changed(db)
        return before, True
    facts["key"] = fact["key"]
    today = await db.scalar(select(func.adjusted_alone_today(person, asset))) or 0
    if alone := decimal(int(today) + abs(whole), scale) <= await system.value(db, ADJUSTMENT_LIMIT):
        outcome = await post_adjustment(db, facts, fact)
        facts |= {"state": "posted", "operation_id": outcome.operation_id}
        facts |= {"decided_at": func.now()}
    row = insert(Adjustment).values(**facts).returning(Adjustment.id)
    adjustment_id = (await db.execute(row)).scalar_one()
    if not alone:
        after = {"user_id": user_id, "amount": amount, "asset": asset, "reason": reason}
        action = "wallets.adjustment_proposed"
        await audit.record(db, action, "adjustment", adjustment_id, after=after)
    return await statements.adjustment(db, adjustment_id), False


# Two of one person's at the same moment would both find room below the limit.
ONE_AT_A_TIME = text("select pg_advisory_xact_lock(hashtextextended(:name, 0))")


async def adjusted_before(
    db: AsyncSession, facts: Mapping[str, Any], fact: Fact
) -> Adjustment | None:
    """What this key has proposed or posted, also when the limit of today has been used up since."""
    operation_id = await db.scalar(select(func.operation_of(fact["scope"], fact["key"])))
    ours = select(Adjustment).filter_by(proposed_by=facts["proposed_by"], key=fact["key"])
    if operation_id:  # before there were keys among adjustments, it had none
        ours = select(Adjustment).filter_by(operation_id=operation_id)
    row = await db.scalar(ours)
    if row is None and operation_id is None:
        return None
    if row is None or any(getattr(row, name) != value for name, value in facts.items()):
        raise KeyReused.now()
    return row


async def post_adjustment(db: AsyncSession, facts: Mapping[str, Any], fact: Fact) -> Outcome:
    sides = ["adjustments", ledger.user(facts["user_id"])]
    debit, credit = sides if facts["amount"] > 0 else sides[::-1]
    leg = ledger.transfer(
        debit,
        credit,
        abs(facts["amount"]),
        facts["asset"],
        kind="adjustment",
        metadata={"reason": facts["reason"]},
    )
    return await do(db, "wallets.adjusted", fact, leg)


class SamePerson(BursarError, status=409, code="wallet.same_person"):
    """Whoever proposed an adjustment cannot decide on it: that is for a second person."""


class AdjustmentDecided(BursarError, status=409, code="wallet.adjustment_decided"):
    """The adjustment was posted or rejected already; `state` says which."""


async def approve(db: AsyncSession, adjustment_id: UUID) -> Adjustment:
    """A second person says yes: it is posted now, once, whoever else says so too."""
    row = await to_decide(db, adjustment_id)
    if row.user_id is None:
        raise UnknownAccount("This customer is gone: the adjustment can only be rejected.")
    names = ("user_id", "asset", "amount", "reason")
    facts = {name: getattr(row, name) for name in names}
    fact: Fact = {"scope": "adjustments", "key": str(row.id)}
    outcome = await post_adjustment(db, facts, fact)
    return await decide(db, row, "posted", operation_id=outcome.operation_id)


async def reject(db: AsyncSession, adjustment_id: UUID, *, reason: str | None = None) -> Adjustment:
    """A second person says no."""
    row = await to_decide(db, adjustment_id)
    return await decide(db, row, "rejected", reason=reason)


async def to_decide(db: AsyncSession, adjustment_id: UUID) -> Adjustment:
    """Locked until the transaction ends, and for this person to decide."""
    row = await statements.adjustment(db, adjustment_id, lock=True)
    if row.state != "proposed":
        raise AdjustmentDecided(f"This adjustment was {row.state} already.", state=row.state)
    if row.proposed_by == db.info["origin"].actor.id:
        raise SamePerson("You proposed this adjustment yourself: a second person has to decide.")
    return row


async def decide(
    db: AsyncSession,
    row: Adjustment,
    state: str,
    *,
    operation_id: UUID | None = None,
    reason: str | None = None,
) -> Adjustment:
    row.state, row.operation_id, row.decided_at = state, operation_id, func.now()
    await db.flush()
    await db.refresh(row)
    action = "wallets.adjustment_approved" if operation_id else "wallets.adjustment_rejected"
    after = {"state": state, "operation_id": operation_id, "reason": reason}
    after = {name: value for name, value in after.items() if value is not None}
    before = {"state": "proposed"}
    await audit.record(db, action, "adjustment", row.id, before=before, after=after)
    return row
