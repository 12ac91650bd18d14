"""Each entry of a wallet is handled once and in order by whoever follows, and none is missed.

    await followers.follow(db, "rewards.points", give_points, assets={"USD"})

The numbers of an account's entries have no gaps and are committed in their order. So one number for
each follower and account says what was read: it is written in the transaction in which `handle`
writes, and both stand or neither does.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

MOST = 5_000  # of one call, so that its transaction stays short


@dataclass(frozen=True, slots=True)
class Entry:
    """A wallet's side of one transfer; an amount below zero went out."""

    account_id: UUID
    owner_id: UUID
    asset: str
    seq: int
    amount: int
    balance: int
    kind: str
    category: str | None
    reverses: UUID | None
    transfer_id: UUID
    posted_at: datetime


@dataclass(frozen=True, slots=True)
class Stretch:
    """What is read of one account: after one number, until and with another."""

    account_id: UUID
    owner_id: UUID
    asset: str
    after: int
    until: int


Handler = Callable[[AsyncSession, Sequence[Entry]], Awaitable[None]]


async def follow(
    db: AsyncSession,
    follower: str,
    handle: Handler,
    *,
    assets: Collection[str] | None = None,
    most: int = MOST,
) -> int:
    """Hands on what the follower has not read yet, as the worker; answers how many entries.

    Fewer than `most` means that this was all, or that another worker was faster. Two at once never
    handle the same entry: the second passes over what the first has, or finds that it was done.
    """
    stretches = await claimed(db, follower, await behind(db, follower, assets, most))
    if not stretches:
        return 0
    entries = await read(db, stretches)
    await handle(db, entries)
    return len(entries)


# By lot, so that no account waits for ever behind others that move all the time. An index on `seq`
# would find the rows sooner, and make every posting slower: its update would have to change it. So
# all wallets are looked at, the idle ones too: with a million of them in about a second, and in
# three where the positions do not fit in memory.
IN_MEMORY = text("set local work_mem = '64MB'")
BEHIND = text("""
select accounts.id, owner_id, asset, coalesce(position.seq, 0) as after, accounts.seq as until
from accounts
left join account_positions as position
  on position.account_id = accounts.id and position.follower = :follower
where owner_id is not null and accounts.seq > coalesce(position.seq, 0)
  and (cast(:assets as varchar[]) is null or asset = any (:assets))
order by random()
limit :most
""")


async def behind(
    db: AsyncSession, follower: str, assets: Collection[str] | None, most: int
) -> list[Stretch]:
    wanted = None if assets is None else sorted(assets)
    await db.execute(IN_MEMORY)
    found = await db.execute(BEHIND, {"follower": follower, "assets": wanted, "most": most})
    return shared_out((Stretch(*row) for row in found), most)


def shared_out(waiting: Iterable[Stretch], most: int) -> list[Stretch]:
    """What is small is read whole; the others get equal parts of what is left."""
    by_length = sorted(waiting, key=lambda stretch: stretch.until - stretch.after)
    parts = []
    for place, stretch in enumerate(by_length):
        part = most // (len(by_length) - place)
        until = min(stretch.until, stretch.after + part)
        parts.append(replace(stretch, until=until))
        most -= until - stretch.after
    return parts


# A position that is no longer where it was seen is somebody else's by now. New ones are written in
# the order of accounts, so that two who claim do not wait in a circle.
CLAIM = text("""
with wanted as materialized (
  select *
  from unnest(cast(:accounts as uuid[]), cast(:afters as bigint[]), cast(:untils as bigint[]))
    as wanted (account_id, after, until)
), added as (
  insert into account_positions (follower, account_id, seq)
  select :follower, account_id, until from wanted where after = 0 order by account_id
  on conflict do nothing
  returning account_id
), free as materialized (
  select account_id, wanted.until
  from account_positions as position join wanted using (account_id)
  where follower = :follower and position.seq = wanted.after
  for update of position skip locked
), moved as (
  update account_positions as position set seq = free.until
  from free where position.follower = :follower and position.account_id = free.account_id
  returning position.account_id
)
select account_id from added union all select account_id from moved
""")


async def claimed(db: AsyncSession, follower: str, stretches: Sequence[Stretch]) -> list[Stretch]:
    """Those of them that are ours to read, with the positions after them written already."""
    if not stretches:
        return []
    taken = set(await db.scalars(CLAIM, {"follower": follower, **columns(stretches)}))
    return [stretch for stretch in stretches if stretch.account_id in taken]


READ = text("""
select account_id, seq, amount, balance, kind, category, reverses, id, posted_at
from unnest(cast(:accounts as uuid[]), cast(:afters as bigint[]), cast(:untils as bigint[]))
  as taken (account_id, after, until)
cross join lateral (
  select id, debit_seq as seq, -amount as amount, debit_after as balance, kind, category, reverses,
    posted_at
  from transfers
  where debit_id = taken.account_id and debit_seq > taken.after and debit_seq <= taken.until
  union all
  select id, credit_seq, amount, credit_after, kind, category, reverses, posted_at
  from transfers
  where credit_id = taken.account_id and credit_seq > taken.after and credit_seq <= taken.until
) as entry
order by account_id, seq
""")


async def read(db: AsyncSession, stretches: Sequence[Stretch]) -> list[Entry]:
    of = {stretch.account_id: stretch for stretch in stretches}
    rows = await db.execute(READ, columns(stretches))
    return [
        Entry(account_id, of[account_id].owner_id, of[account_id].asset, *rest)
        for account_id, *rest in rows
    ]


def columns(stretches: Sequence[Stretch]) -> dict[str, list[UUID] | list[int]]:
    return {
        "accounts": [stretch.account_id for stretch in stretches],
        "afters": [stretch.after for stretch in stretches],
        "untils": [stretch.until for stretch in stretches],
    }
