"""What staff read of the books: wallets, holds, transfers, statements, the trial balance."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Row, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import paging
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.money import decimal
from bursar.core.paging import Order, Page, PageQuery
from bursar.wallets.assets import asset as known_asset
from bursar.wallets.ledger import SENTENCES, UnknownAccount, UnknownHold, UnknownTransfer
from bursar.wallets.models import Account, Adjustment, Asset, Hold
from bursar.wallets.queries import Wallet

ADJUSTMENTS = Order({"created_at": Adjustment.created_at}, key=Adjustment.id, default="-created_at")


async def wallet(db: AsyncSession, user_id: UUID, asset: str) -> Wallet:
    """The customer's wallet in one asset, as it is now."""
    scale = (await known_asset(db, asset)).scale
    query = select(Account).where(Account.owner_id == user_id, Account.asset == asset)
    account = await db.scalar(query.execution_options(populate_existing=True))
    if account is None:
        raise UnknownAccount("This customer has no wallet in that currency.")
    return Wallet(account, scale)


@dataclass(frozen=True, slots=True)
class HeldFor:
    """A hold, whose it is, and the scale of its asset."""

    hold: Hold
    user_id: UUID | None
    scale: int


async def hold(db: AsyncSession, hold_id: UUID) -> HeldFor:
    query = (
        select(Hold, Account.owner_id, Asset.scale)
        .join(Account, Account.id == Hold.account_id)
        .join(Asset, Asset.code == Hold.asset)
        .where(Hold.id == hold_id)
    )
    row = (await db.execute(query)).one_or_none()
    if row is None:
        raise UnknownHold(SENTENCES[UnknownHold])
    return HeldFor(*row)


TRANSFER = text("""
  select transfers.*, scale, debtor.purpose as debit_purpose, debtor.owner_id as debit_owner,
    creditor.purpose as credit_purpose, creditor.owner_id as credit_owner,
    (select coalesce(sum(back.amount), 0)::bigint from transfers as back
      where back.reverses = transfers.id) as reversed
  from transfers
  join assets on assets.code = transfers.asset
  join accounts as debtor on debtor.id = debit_id
  join accounts as creditor on creditor.id = credit_id
  where transfers.id = :id
""")


async def transfer(db: AsyncSession, transfer_id: UUID) -> Row[Any]:
    row = (await db.execute(TRANSFER, {"id": transfer_id})).one_or_none()
    if row is None:
        raise UnknownTransfer(SENTENCES[UnknownTransfer])
    return row


TOGETHER = text("""
  select cast(leg ->> 'transfer_id' as uuid)
  from transfers
  join operations on operations.id = operation_id
  cross join jsonb_array_elements(outcome -> 'legs') with ordinality as legs (leg, place)
  where transfers.id = :id and leg ->> 'transfer_id' is not null
  order by place
""")


async def moved_together(db: AsyncSession, transfer_id: UUID) -> list[UUID]:
    """A transfer with those of the same operation, in their order."""
    found = list(await db.scalars(TOGETHER, {"id": transfer_id}))
    if not found:
        raise UnknownTransfer(SENTENCES[UnknownTransfer])
    return found


async def adjustments(
    db: AsyncSession, ask: PageQuery, *, state: str | None, user_id: UUID | None
) -> Page[Adjustment]:
    query = select(Adjustment)
    if state:
        query = query.where(Adjustment.state == state)
    if user_id:
        query = query.where(Adjustment.user_id == user_id)
    return await paging.fetch(db, query, ask, ADJUSTMENTS)


async def adjustment(db: AsyncSession, adjustment_id: UUID, *, lock: bool = False) -> Adjustment:
    found = await db.get(
        Adjustment, adjustment_id, with_for_update=lock or None, populate_existing=True
    )
    if found is None:
        raise NotFound("There is no such adjustment.")
    return found


THIRTY_DAYS = timedelta(days=30)
FIRST_MOMENT = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Span:
    """From a moment until just before another."""

    begins: datetime | None
    ends: datetime | None
    effective: bool = False


@dataclass(frozen=True, slots=True)
class Statement:
    """Of one wallet; amounts in minor units, entries the oldest first."""

    wallet: Wallet
    begins: datetime
    ends: datetime
    opening: int
    closing: int
    total_in: int
    total_out: int
    page: Page[Row[Any]]


EDGES = text("""
  select seq_at(:account, begins) as first, seq_at(:account, ends) as last,
    balance_at(:account, begins, :effective) as opening,
    balance_at(:account, ends, :effective) as closing
  from (
    select cast(:begins as timestamptz) - interval '1 microsecond' as begins,
      cast(:ends as timestamptz) - interval '1 microsecond' as ends
  ) as just_before
""")
POSTED = "{side}_seq > :first and {side}_seq <= :last"
# By effect: what was given no other day, and what was, wherever it stands among the numbers.
EFFECTIVE = (
    "(effective_at is null and {side}_seq > :first and {side}_seq <= :last"
    " or effective_at >= :begins and effective_at < :ends)"
)
SIDE = """(
  select transfers.*, {side}_seq as seq, {sign}amount as delta, {side}_after as balance,
    {other}_id as other_id
  from transfers where {side}_id = :account and {within}{more}
)"""


def sides(effective: bool, more: str = "", end: str = "") -> str:
    """Both sides of a wallet's transfers, each with its own end: a page reads its rows only."""
    pairs = (("debit", "credit", "-"), ("credit", "debit", ""))
    within = EFFECTIVE if effective else POSTED
    parts = []
    for side, other, sign in pairs:
        where = within.format(side=side)
        extra = more.format(side=side)
        part = SIDE.format(side=side, other=other, sign=sign, within=where, more=extra)
        parts.append(part[:-1] + end.format(side=side) + ")")
    return " union all ".join(parts)


def totals_of(effective: bool) -> str:
    return f"""
      select count(*), coalesce(sum(delta) filter (where delta > 0), 0)::text,
        coalesce(-sum(delta) filter (where delta < 0), 0)::text
      from ({sides(effective)}) as entry"""  # noqa: S608 - its own text


def page_of(effective: bool) -> str:
    more, end = " and {side}_seq > :after", " order by {side}_seq limit :reach"
    return f"""
      select entry.*, accounts.purpose, accounts.owner_id
      from ({sides(effective, more, end)}) as entry join accounts on accounts.id = other_id
      order by entry.seq limit :most offset :skip"""  # noqa: S608 - its own text


TOTALS = {each: text(totals_of(each)) for each in (False, True)}
ENTRIES = {each: text(page_of(each)) for each in (False, True)}


async def statement(
    db: AsyncSession, user_id: UUID, asset: str, span: Span, ask: PageQuery
) -> Statement:
    """The balances at both ends and all that lies between. A cursor keeps to the same moments."""
    found = await wallet(db, user_id, asset)
    account = found.row
    name = f"statement {account.id} {span.effective}"
    offset, after, place = ask.start, 0, None
    if ask.cursor:
        offset, _, place = paging.unpack(ask.cursor, name, places=3)
    begins, ends = await moments(db, span)
    if place:
        after, begins, ends = parsed(place)
    about = {"account": account.id, "begins": begins, "ends": ends}
    edges = (await db.execute(EDGES, {**about, "effective": span.effective})).one()
    about |= {"first": edges.first, "last": edges.last}
    if not span.effective:
        within = {"account": account.id, "first": edges.first, "last": edges.last}
        about = within
    count, total_in, total_out = (await db.execute(TOTALS[span.effective], about)).one()
    skip = 0 if place else offset
    window = {"after": after, "most": ask.size + 1, "skip": skip, "reach": skip + ask.size + 1}
    rows = (await db.execute(ENTRIES[span.effective], {**about, **window})).all()
    items, cursor = rows[: ask.size], None
    if len(rows) > ask.size:
        seen = offset + len(items)
        cursor = paging.pack(name, seen, count, [items[-1].seq, begins, ends])
    page = Page(items, count, ask.size, offset, cursor)
    return Statement(
        found, begins, ends, edges.opening, edges.closing,
        int(total_in), int(total_out), page,
    )  # fmt: skip


async def moments(db: AsyncSession, span: Span) -> tuple[datetime, datetime]:
    """The last thirty days unless it is said; now is what the database's clock says."""
    ends = span.ends or (await db.execute(text("select clock_timestamp()"))).scalar_one()
    ends = zoned(ends)
    begins = zoned(span.begins) if span.begins else ends - min(THIRTY_DAYS, ends - FIRST_MOMENT)
    if begins >= ends:
        raise InvalidInput.at("?from", "A statement begins before it ends.")
    return begins, ends


def zoned(moment: datetime) -> datetime:
    """A day without a time of day, or a time without a zone, is meant in UTC."""
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


PLACE = TypeAdapter(tuple[int, datetime, datetime])


def parsed(place: Sequence[Any]) -> tuple[int, datetime, datetime]:
    try:
        return PLACE.validate_python(tuple(place))
    except ValidationError:
        raise paging.bad_cursor() from None


# One statement sees one moment. Shards of a purpose are one account; a wallet stands for itself, so
# what some customers owe is not set off against what others have.
TRIAL = text("""
  select asset, scale, purpose, count(*) as accounts,
    (case when purpose = 'wallet' then coalesce(-sum(posted) filter (where posted < 0), 0)
      else greatest(0, -sum(posted)) end)::text as debit,
    (case when purpose = 'wallet' then coalesce(sum(posted) filter (where posted > 0), 0)
      else greatest(0, sum(posted)) end)::text as credit
  from accounts join assets on code = asset
  group by asset, scale, purpose
  order by asset, purpose
""")


@dataclass(frozen=True, slots=True)
class Line:
    """The accounts of one purpose in one asset, added up."""

    asset: str
    purpose: str
    accounts: int
    debit: Decimal
    credit: Decimal


async def trial_balance(db: AsyncSession) -> list[Line]:
    """In every asset, debits and credits are the same: no money comes from nowhere."""
    return [
        Line(
            row.asset,
            row.purpose,
            row.accounts,
            decimal(int(row.debit), row.scale),
            decimal(int(row.credit), row.scale),
        )
        for row in await db.execute(TRIAL)
    ]
