"""Reads of wallets: each as its caller, so that row-level security has the last word.

A page of a wallet's entries is found by their numbers, which have no gaps: it costs the same on the
first page and on the last.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.accounts.models import Status
from bursar.core import money, paging
from bursar.core.database import WORKER, Claim, Database
from bursar.core.errors import NotFound
from bursar.core.paging import Order, Page, PageQuery
from bursar.wallets import assets, ledger
from bursar.wallets.ledger import Outcome, UnknownAccount
from bursar.wallets.models import Account, Asset, Hold, HoldState

COUNTED = 10_000  # beyond that a filtered list says "more than"
TAKEN_AWAY = 10_000  # of each wallet's entries stand in the export of personal data, the newest

HOLDS = Order({"created_at": Hold.created_at}, key=Hold.id, default="-created_at")
WALLETS = Order({"created_at": Account.created_at}, key=Account.id, default="created_at")

BALANCE = """
  select owner_id as user_id, asset as currency, posted, held, spent, scale
  from accounts join assets on code = asset where owner_id = $2 and asset = 'USD'
"""


@dataclass(frozen=True, slots=True)
class Balance:
    """A wallet in dollars, in minor units."""

    user_id: UUID
    currency: str
    posted: int
    held: int
    spent: int
    scale: int


async def balance(database: Database, claim: Claim, user_id: UUID) -> Balance:
    """By the short way: one statement, one round trip."""
    row = await database.fetch_one(claim, BALANCE, user_id)
    if row is None:
        raise nobody()
    return Balance(**row)


def nobody() -> NotFound:
    return NotFound("There is no such customer.")


@dataclass(frozen=True, slots=True)
class Wallet:
    """An account, and how many digits its amounts have behind the point."""

    row: Account
    scale: int


async def wallets(db: AsyncSession, user_id: UUID, ask: PageQuery) -> Page[Wallet]:
    """In every asset that the customer was ever paid in; whoever is a customer has one."""
    query = select(Account).where(Account.owner_id == user_id)
    page = await paging.fetch(db, query, ask, WALLETS)
    if page.total == 0:
        raise nobody()
    scales = await assets.all_scales(db)
    found = [Wallet(row, scales[row.asset]) for row in page.items]
    return Page(found, page.total, page.limit, page.offset, page.next_cursor, page.total_exact)


async def wallet(db: AsyncSession, user_id: UUID, asset: str) -> Wallet | None:
    """None: the customer has never been paid in this asset."""
    scale = (await assets.asset(db, asset)).scale
    query = select(Account).where(Account.owner_id == user_id, Account.asset == asset)
    row = await db.scalar(query)
    if row is None:
        await accounts.user(db, user_id)  # or there is no such customer
        return None
    return Wallet(row, scale)


async def holds(
    db: AsyncSession, user_id: UUID, ask: PageQuery, *, state: HoldState | None
) -> Page[Hold]:
    """Of all the customer's wallets, the newest first."""
    await accounts.user(db, user_id)
    theirs = select(Account.id).where(Account.owner_id == user_id)
    query = select(Hold).where(Hold.account_id.in_(theirs))
    if state:
        query = query.where(Hold.state == state)
    return await paging.fetch(db, query, ask, HOLDS, count_to=COUNTED)


async def scale_of_currency(db: AsyncSession, code: str) -> int:
    """Of money; points are earned, redeemed, and charged by services: never paid in or sent."""
    found = await assets.asset(db, code)
    if found.kind != "currency":
        raise assets.unknown()
    return found.scale


async def demand_account(db: AsyncSession, user_id: UUID) -> None:
    """Whoever has left is paid nothing any more."""
    if (await accounts.user(db, user_id)).status == Status.DELETED:
        raise UnknownAccount("This customer's account was deleted: nothing can be paid into it.")


@dataclass(frozen=True, slots=True)
class EntryFilters:
    """Which entries somebody wants; None takes all. `until` is the first moment not wanted."""

    kind: str | None = None
    category: str | None = None
    credits: bool | None = None
    since: datetime | None = None
    until: datetime | None = None

    @property
    def scattered(self) -> bool:
        """Whether what fits may lie far apart: then it has to be counted."""
        return (self.kind, self.category, self.credits) != (None, None, None)

    def given(self) -> dict[str, Any]:
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class Entry:
    """One side of a transfer, in minor units; below zero it went out."""

    id: UUID
    seq: int
    amount: int
    balance: int
    kind: str
    category: str | None
    reverses: UUID | None
    hold_id: UUID | None
    posted_at: datetime
    effective_at: datetime
    description: str | None
    note: str | None


ENTRIES = text("""
  select id, seq, amount, balance, kind, category, reverses, hold_id, posted_at, effective_at,
    metadata ->> 'description' as description, metadata ->> 'note' as note
  from wallet_entries(:account, :until, :after, :most, :kind, :category, :credits)
  order by seq desc offset :left_out
""")
COUNT = text("""
  select count(*) from wallet_entries(:account, :until, :after, :most, :kind, :category, :credits)
""")
NUMBERS = text("""
  select seq_at(:account, cast(:since as timestamptz) - interval '1 microsecond') as after,
    seq_at(:account, cast(:until as timestamptz) - interval '1 microsecond') as until
""")
ENTRY_ORDER = "entries"


async def bounds(db: AsyncSession, account: Account, filters: EntryFilters) -> tuple[int, int]:
    """The numbers of the entries in question: behind the first one, up to the second one."""
    if filters.since is None and filters.until is None:
        return 0, account.seq
    asked = {"account": account.id, "since": filters.since, "until": filters.until}
    row = (await db.execute(NUMBERS, asked)).one()
    until = account.seq if filters.until is None else min(row.until, account.seq)
    return (0 if filters.since is None else row.after), until


async def entries(
    db: AsyncSession, account: Account, filters: EntryFilters, ask: PageQuery
) -> Page[Entry]:
    """The newest first. The numbers say how many there are, unless a filter leaves some out."""
    after, until = await bounds(db, account, filters)
    if ask.cursor:
        seen, total, place = paging.unpack(ask.cursor, ENTRY_ORDER, places=1)
        until, left_out = min(until, before(place)), 0
    else:
        seen, left_out = ask.start, ask.start
        total = await count(db, account, filters, after, until)
        if not filters.scattered:
            until, left_out = until - left_out, 0
    rows = await read(db, account, filters, after, until, ask.size + 1, left_out)
    items, more = rows[: ask.size], len(rows) > ask.size
    next_cursor = None
    if more:
        next_cursor = paging.pack(ENTRY_ORDER, seen + len(items), total, [items[-1].seq])
    exact = not filters.scattered or total <= COUNTED
    shown = total if exact else COUNTED
    return Page(items, shown, ask.size, seen, next_cursor, exact)


def before(place: list[Any]) -> int:
    [seq] = place
    if type(seq) is not int or not 0 < seq < paging.MOST_ROWS:
        raise paging.bad_cursor()
    return seq - 1


async def count(
    db: AsyncSession, account: Account, filters: EntryFilters, after: int, until: int
) -> int:
    """One more than COUNTED stands for any number beyond it."""
    if not filters.scattered:
        return max(0, until - after)
    asked = arguments(account, filters, after, until, COUNTED + 1)
    return await db.scalar(COUNT, asked) or 0


async def read(
    db: AsyncSession,
    account: Account,
    filters: EntryFilters,
    after: int,
    until: int,
    most: int,
    left_out: int = 0,
) -> Sequence[Entry]:
    if not filters.scattered:
        after = max(after, until - most - left_out)  # nothing lies between the numbers
    if until <= after:
        return []
    asked = arguments(account, filters, after, until, most + left_out)
    rows = await db.execute(ENTRIES, {**asked, "left_out": left_out})
    return [Entry(*row) for row in rows]


def arguments(
    account: Account, filters: EntryFilters, after: int, until: int, most: int
) -> dict[str, Any]:
    return {
        "account": account.id,
        "until": until,
        "after": after,
        "most": most,
        "kind": filters.kind,
        "category": filters.category,
        "credits": filters.credits,
    }


@accounts.keeps_personal_data("wallets")
async def personal_data(db: AsyncSession, user_id: UUID) -> list[dict[str, Any]]:
    """Every wallet with its newest entries."""
    query = select(Account, Asset.scale).join(Asset, Asset.code == Account.asset)
    query = query.where(Account.owner_id == user_id).order_by(Account.created_at, Account.id)
    found = [Wallet(*row) for row in await db.execute(query)]
    return [
        {
            "id": each.row.id,
            "currency": each.row.asset,
            "balance": money.decimal(each.row.posted, each.scale),
            "held": money.decimal(each.row.held, each.scale),
            "status": each.row.status,
            "created_at": each.row.created_at,
            "entries": each.row.seq,
            "transactions": [
                taken_away(entry, each.scale)
                for entry in await read(db, each.row, EntryFilters(), 0, each.row.seq, TAKEN_AWAY)
            ],
        }
        for each in found
    ]


def taken_away(entry: Entry, scale: int) -> dict[str, Any]:
    amounts = {name: money.decimal(getattr(entry, name), scale) for name in ("amount", "balance")}
    return {**asdict(entry), **amounts}


# Settings and the recipient as they are now: what one customer asks about another is asked as the
# worker, and nothing but a yes or no of it goes out.
TERMS = """
  select exists (select from users where id = $2 and status = 'active') as recipient_active,
    (select scale from assets where code = $3 and kind = 'currency') as scale,
    (select coalesce(jsonb_object_agg(key, value), '{}') from settings where key = any ($4))
      as settings
"""
DONE = """
  select outcome, transfers.asset, transfers.amount, transfers.kind, transfers.metadata,
    owner_id as recipient
  from operations
  left join transfers on transfers.id = (outcome -> 'legs' -> 0 ->> 'transfer_id')::uuid
  left join accounts on accounts.id = transfers.credit_id
  where operation_mark(scope, key) = operation_mark($2, $3)
"""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a transfer depends on besides the money; `scale` None: there is no such currency."""

    recipient_active: bool
    scale: int | None
    settings: dict[str, Any]


async def terms(database: Database, recipient: UUID, asset: str, keys: Sequence[str]) -> Terms:
    row = await database.fetch_one(WORKER, TERMS, recipient, asset, list(keys))
    assert row is not None  # noqa: S101 - a select without a table has one row
    return Terms(**row)


@dataclass(frozen=True, slots=True)
class Done:
    """What was done under a key."""

    outcome: dict[str, Any]
    asset: str | None
    amount: int | None
    kind: str | None
    metadata: dict[str, Any] | None
    recipient: UUID | None

    def replayed(self) -> Outcome:
        return ledger.outcome({**self.outcome, "replayed": True})


async def done(database: Database, scope: str, key: str) -> Done | None:
    """Asked as the worker, whose alone the operations are."""
    row = await database.fetch_one(WORKER, DONE, scope, key)
    return Done(**row) if row else None
