"""What a wallet spent, by category and by day in UTC: exact up to this moment.

A follower adds up what was spent in each day; what it has not read yet is added whenever somebody
asks. Both count as `accounts.spent` does: what went out, less what a reversal brought back, without
what was refunded or contested.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.wallets import followers
from bursar.wallets.followers import Entry
from bursar.wallets.models import Asset

FOLLOWER = "wallets.spending"
UNSORTED = "other"  # the category of what was spent on nothing in particular

IS_SPENDING = "is_spending(kind) and (amount < 0) = (reverses is null)"
DAY = "(posted_at at time zone 'UTC')::date"
CATEGORY = f"coalesce(category, '{UNSORTED}')"


async def add_up(db: AsyncSession, *, most: int = followers.MOST) -> int:
    """Reads on, as the worker; answers how many entries. Points are not money and not spent."""
    currencies = (await db.scalars(select(Asset.code).where(Asset.kind == "currency"))).all()
    return await followers.follow(db, FOLLOWER, add_to_days, assets=currencies, most=most)


ADD = text(f"""
insert into wallet_days (account_id, day, category, spent, transfers)
select account_id, {DAY}, {CATEGORY}, -sum(amount), count(*) filter (where amount < 0)
from unnest(cast(:accounts as uuid[]), cast(:amounts as bigint[]), cast(:categories as varchar[]),
    cast(:kinds as varchar[]), cast(:reverses as uuid[]), cast(:moments as timestamptz[]))
  as entry (account_id, amount, category, kind, reverses, posted_at)
where {IS_SPENDING}
group by 1, 2, 3
on conflict (account_id, day, category) do update
  set spent = wallet_days.spent + excluded.spent,
    transfers = wallet_days.transfers + excluded.transfers
""")  # noqa: S608 - its own text


async def add_to_days(db: AsyncSession, entries: Sequence[Entry]) -> None:
    """Rows of an account belong to whoever holds its position, so nobody waits here."""
    columns = {
        "accounts": [entry.account_id for entry in entries],
        "amounts": [entry.amount for entry in entries],
        "categories": [entry.category for entry in entries],
        "kinds": [entry.kind for entry in entries],
        "reverses": [entry.reverses for entry in entries],
        "moments": [entry.posted_at for entry in entries],
    }
    await db.execute(ADD, columns)


@dataclass(frozen=True, slots=True)
class Spending:
    """Of some days, in minor units; only days and categories in which something moved."""

    by_day: dict[date, int] = field(default_factory=dict)
    by_category: dict[str, int] = field(default_factory=dict)
    total: int = 0


# One statement: between two, the follower could read on, and an entry would count twice or never.
SPENT = text(f"""
select day, category, sum(spent)::text
from (
  select day, category, spent from wallet_days where account_id = :account
  union all
  select {DAY}, {CATEGORY}, -amount
  from wallet_entries(:account, after_seq => (
    select seq from account_positions where follower = '{FOLLOWER}' and account_id = :account
  ))
  where {IS_SPENDING}
) as spent
where day between :first and :last
group by day, category
order by day, category
""")  # noqa: S608 - its own text


async def spending(db: AsyncSession, account_id: UUID, first: date, last: date) -> Spending:
    """Of all days from the first to the last, as whoever may see the account."""
    asked = {"account": account_id, "first": first, "last": last}
    by_day: dict[date, int] = {}
    by_category: dict[str, int] = {}
    for day, category, amount in await db.execute(SPENT, asked):
        by_day[day] = by_day.get(day, 0) + int(amount)
        by_category[category] = by_category.get(category, 0) + int(amount)
    return Spending(by_day, by_category, sum(by_day.values()))
