"""Points for what customers spend: exact, each charge once, and never in the way of the till.

A charge earns amount x points of its rule x multiplier of the tier, to the last digit. What is less
than a whole point is carried to the next charge of the wallet, so that what a customer has been
given is always the whole points of all they have earned. No rate is above what the setting
points_worth_at_most allows while the charge is counted, whatever rules and tiers say.

A reversal takes back what its part of the charge had earned, at the rate of that charge, as many
points as the customer still has: their points never go below zero. What is short then (they were
redeemed or have expired, are held, or their wallet is frozen) is owed: it is carried as a part
below zero, and paid back first, by what is earned next and by what is there by then. Otherwise
whoever spends, redeems and gives the purchase back would gain each time.

It follows the wallets' entries (wallets/followers.py): positions, postings and carried parts are
committed together, so a crash loses nothing and gives nothing twice.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_FLOOR, Decimal, localcontext
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core import events, money
from bursar.rewards import queries, rules
from bursar.rewards.models import RewardRule, RewardTier
from bursar.rewards.service import TierReached
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.followers import Entry, follow

FOLLOWER = "rewards.earning"
MOST = ledger.MOST_REQUESTS  # entries at once, each of which may be another customer's
UNIT = 10**6  # of USD


async def give(db: AsyncSession, *, most: int = MOST) -> int:
    """Gives points for the next entries, as the worker; answers how many those were."""
    return await follow(db, FOLLOWER, handle, assets={ledger.USD}, most=most)


async def handle(db: AsyncSession, entries: Sequence[Entry]) -> None:
    program = Program(
        await queries.rules(db), await queries.tiers(db), await queries.most_per_unit(db)
    )
    origins = await charges_behind(db, entries)
    standings = await standings_of(db, entries)
    for account_id, theirs in groupby(entries, key=lambda entry: entry.account_id):
        standing = standings[account_id]
        before = rules.tier_of(program.tiers, standing.earned_by(standing.first.posted_at))
        for entry in theirs:
            standing.count(entry, program, origins)
        after = rules.tier_of(program.tiers, standing.in_window)
        if after and (before is None or after.from_points > before.from_points):
            await events.publish(db, TierReached(user_id=str(standing.owner_id), tier=after.name))
    await keep(db, list(standings.values()))
    if requests := [request for each in standings.values() for request in each.requests()]:
        await wallets.post_all(db, requests)


@dataclass(frozen=True, slots=True)
class Program:
    """What holds while entries are counted."""

    rules: Sequence[RewardRule]
    tiers: Sequence[RewardTier]
    most: Decimal  # points for a dollar

    def rate(self, charge: Entry, earned: int) -> Decimal:
        """Points for a dollar of it, for whoever has earned so many this year."""
        rate = rules.points_per_unit(self.rules, charge.category, charge.posted_at)
        tier = rules.tier_of(self.tiers, earned)
        return min(rate * tier.multiplier if tier else rate, self.most)


@dataclass(frozen=True, slots=True)
class Charge:
    """What a reversal goes back to: its number in the wallet, and the rate written down for it."""

    seq: int
    rate: Decimal


@dataclass(slots=True)
class Standing:
    """A customer while their entries are counted, one after the other."""

    first: Entry
    last: Entry
    carried: Decimal = Decimal(0)  # of a point; below zero: so many are owed
    carried_before: Decimal = Decimal(0)
    rate: Decimal = Decimal(0)
    available: int = 0  # points that can be taken back
    frozen: bool = False  # or closed: nothing can be taken
    closed: bool = False
    days: dict[date, int] = field(default_factory=dict)
    new_rates: list[tuple[int, Decimal]] = field(default_factory=list)
    new_days: dict[date, int] = field(default_factory=dict)
    window_end: date | None = None
    in_window: int = 0
    given: int = 0
    taken: int = 0

    @property
    def owner_id(self) -> UUID:
        return self.first.owner_id

    def count(self, entry: Entry, program: Program, origins: Mapping[UUID, Charge]) -> None:
        """One entry: a charge earns, a reversal of one takes back, anything else is nothing. While
        the wallet for points is closed charges earn nothing, and nothing is taken from it."""
        with localcontext(prec=money.DIGITS):
            if entry.kind == "charge" and entry.amount < 0:
                rate = program.rate(entry, self.earned_by(entry.posted_at))
                self.note(entry.seq, Decimal(0) if self.closed else rate)
                self.add(entry.posted_at, -entry.amount * self.rate / UNIT)
            elif entry.amount > 0 and entry.reverses and entry.reverses in origins:
                rate = self.rate_of(origins[entry.reverses])
                self.add(entry.posted_at, -entry.amount * rate / UNIT)

    def earned_by(self, moment: datetime) -> int:
        """In the 365 days that end with this one."""
        day = moment.astimezone(UTC).date()
        if day != self.window_end:
            self.window_end = day
            self.in_window = sum(
                earned for when, earned in self.days.items() if day - rules.TIER_DAYS < when <= day
            )
        return self.in_window

    def note(self, seq: int, rate: Decimal) -> None:
        """A row is written only where the rate is another one than before."""
        if rate != self.rate:
            self.rate = rate
            self.new_rates.append((seq, rate))

    def rate_of(self, charge: Charge) -> Decimal:
        """What is noted now is newer than what stands in the table."""
        newer = [rate for from_seq, rate in self.new_rates if from_seq <= charge.seq]
        return newer[-1] if newer else charge.rate

    def add(self, moment: datetime, points: Decimal) -> None:
        """Exactly so many points, below zero if they are taken back."""
        pending = self.carried + points
        earned = floor(pending) - floor(self.carried)  # for the tier, whatever is owed
        whole = floor(pending)
        if whole >= 0:
            moved = whole
            self.given += moved
        else:
            moved = -min(-whole, 0 if self.frozen else self.available)
            self.taken -= moved
        self.available += moved
        self.carried = pending - moved
        if earned:
            self.earned_by(moment)
            day = moment.astimezone(UTC).date()
            self.days[day] = self.days.get(day, 0) + earned
            self.new_days[day] = self.new_days.get(day, 0) + earned
            self.in_window += earned

    def requests(self) -> list[ledger.Request]:
        """One, if there is anything to move: first what is given, then what is taken of it."""
        customer = ledger.user(self.owner_id)
        about = {"from_seq": self.first.seq, "until_seq": self.last.seq}
        legs = []
        if self.given:
            legs.append(
                ledger.transfer(
                    "rewards", customer, self.given, ledger.POINTS, kind="earn", metadata=about
                )
            )
        if self.taken:
            legs.append(
                ledger.transfer(
                    customer, "rewards", self.taken, ledger.POINTS, kind="take_back", metadata=about
                )
            )
        key = f"{self.first.account_id}:{self.first.seq}-{self.last.seq}"
        return [ledger.Request(FOLLOWER, key, legs)] if legs else []


def floor(points: Decimal) -> int:
    return int(points.to_integral_value(ROUND_FLOOR))


STANDINGS = text("""
select usd.id, coalesce(carried, 0) as carried, coalesce(newest.rate, 0) as rate,
  coalesce(points.posted - points.held, 0) as available, coalesce(points.status, 'open') as status
from accounts as usd
left join accounts as points on points.owner_id = usd.owner_id and points.asset = 'POINTS'
left join reward_standings on account_id = usd.id
left join lateral (
  select rate from reward_rates where account_id = usd.id order by from_seq desc limit 1
) as newest on true
where usd.id = any (:accounts)
""")
DAYS = text("""
select account_id, day, earned from reward_days
where account_id = any (:accounts) and day > :after
""")


async def standings_of(db: AsyncSession, entries: Sequence[Entry]) -> dict[UUID, Standing]:
    """What can be taken back is read before the points are locked. Where they are redeemed
    meanwhile, posting is refused and all is counted anew the next time: exact, only later."""
    standings: dict[UUID, Standing] = {}
    for entry in entries:
        standings.setdefault(entry.account_id, Standing(entry, entry)).last = entry
    accounts = list(standings)
    for row in await db.execute(STANDINGS, {"accounts": accounts}):
        standing = standings[row.id]
        standing.carried = standing.carried_before = row.carried
        standing.rate = row.rate
        standing.available = max(0, row.available)
        standing.frozen, standing.closed = row.status != "open", row.status == "closed"
    oldest = min(entry.posted_at for entry in entries).astimezone(UTC).date()
    asked = {"accounts": accounts, "after": oldest - rules.TIER_DAYS - timedelta(days=1)}
    for row in await db.execute(DAYS, asked):
        standings[row.account_id].days[row.day] = row.earned
    return standings


CHARGES = text("""
select original.id, original.debit_seq, coalesce(known.rate, 0) as rate
from unnest(cast(:ids as uuid[]), cast(:accounts as uuid[])) as back (id, account_id)
join transfers as original
  on original.id = back.id and original.debit_id = back.account_id and original.kind = 'charge'
left join lateral (
  select rate from reward_rates
  where account_id = back.account_id and from_seq <= original.debit_seq
  order by from_seq desc limit 1
) as known on true
""")


async def charges_behind(db: AsyncSession, entries: Sequence[Entry]) -> dict[UUID, Charge]:
    """By their ids, for reversals of charges alone."""
    backs = {e.reverses: e.account_id for e in entries if e.reverses and e.amount > 0}
    asked: dict[str, Any] = {"ids": list(backs), "accounts": list(backs.values())}
    rows = await db.execute(CHARGES, asked) if backs else ()
    return {row.id: Charge(row.debit_seq, row.rate) for row in rows}


KEEP_STANDINGS = text("""
insert into reward_standings (account_id, carried)
select * from unnest(cast(:accounts as uuid[]), cast(:carried as numeric[]))
on conflict (account_id) do update set carried = excluded.carried
""")
KEEP_RATES = text("""
insert into reward_rates (account_id, from_seq, rate)
select * from unnest(cast(:accounts as uuid[]), cast(:seqs as bigint[]), cast(:rates as numeric[]))
""")
KEEP_DAYS = text("""
insert into reward_days (account_id, day, earned)
select * from unnest(cast(:accounts as uuid[]), cast(:days as date[]), cast(:earned as bigint[]))
on conflict (account_id, day) do update set earned = reward_days.earned + excluded.earned
""")


async def keep(db: AsyncSession, standings: Sequence[Standing]) -> None:
    """For the next time; nobody else holds these accounts' positions meanwhile."""
    moved = [each for each in standings if each.carried != each.carried_before]
    carried = [(each.first.account_id, each.carried) for each in moved]
    rates = [(each.first.account_id, *rate) for each in standings for rate in each.new_rates]
    days = [(each.first.account_id, *day) for each in standings for day in each.new_days.items()]
    if carried:
        await db.execute(KEEP_STANDINGS, columns(("accounts", "carried"), carried))
    if rates:
        await db.execute(KEEP_RATES, columns(("accounts", "seqs", "rates"), rates))
    if days:
        await db.execute(KEEP_DAYS, columns(("accounts", "days", "earned"), days))


def columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, list[Any]]:
    return {name: [row[n] for row in rows] for n, name in enumerate(names)}
