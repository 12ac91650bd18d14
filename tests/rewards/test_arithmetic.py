"""Whatever is charged, reversed and redeemed, points are what plain arithmetic says."""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.rewards.points import (
    TIERS,
    backdate,
    give,
    made_long_ago,
    no_tiers,
    points_of,
    reverse,
    rule,
    spend,
)
from tests.wallets.purses import charge, fund, move_in, wallet_of
from tests.world import OLIVIA


@dataclass(frozen=True)
class Rule:
    """As the oracle knows it."""

    points: Fraction
    category: str | None
    starts: int | None  # in days before today
    ends: int | None


RULES = st.lists(
    st.builds(
        Rule,
        st.decimals("0.0001", 40, places=4).map(Fraction),
        st.sampled_from([None, "models", "api"]),
        st.none() | st.integers(300, 500),
        st.none() | st.integers(0, 290),
    ),
    min_size=1,
    max_size=4,
)
CHARGES = st.tuples(st.integers(1, 90_000_000), st.sampled_from([None, "models", "api"]))
REVERSALS = st.tuples(st.integers(0, 20), st.floats(0.01, 1))
REDEMPTIONS = st.integers(1, 3)  # thirds of the points that are there
STEPS = st.lists(
    st.tuples(CHARGES | REVERSALS | REDEMPTIONS, st.integers(0, 90)), min_size=1, max_size=14
)
# redeemed, given back, and less earned afterwards than is owed; then more
OWED = [((50_000_000, None), 0), (3, 1), ((0, 1.0), 0), ((30_250_000, None), 1), (1, 0),
        ((90_000_000, None), 2)]  # fmt: skip
MOST = 20  # points for a dollar
TIER_TABLE = ((0, Fraction(11, 10)), (300, Fraction(5, 4)), (1500, Fraction(9, 5)))


class Oracle:
    """The same in plain Python: one sum of fractions, and a list of what was earned when."""

    def __init__(self, rules: list[Rule]) -> None:
        self.rules = rules
        self.total, self.redeemed = Fraction(0), 0
        self.earned: list[tuple[date, int]] = []

    def rate(self, category: str | None, day: date, today: date) -> Fraction:
        ago = (today - day).days
        fitting = [
            rule.points
            for rule in self.rules
            if rule.category in (None, category)
            and (rule.starts is None or ago <= rule.starts)
            and (rule.ends is None or ago > rule.ends)
        ]
        year = sum(points for when, points in self.earned if 0 <= (day - when).days < 365)
        times = max((t for t in TIER_TABLE if t[0] <= max(0, year)), key=lambda t: t[0])[1]
        return min(max(fitting, default=Fraction(0)) * times, Fraction(MOST))

    def add(self, points: Fraction, day: date) -> None:
        before = math.floor(self.total)
        self.total += points
        self.earned.append((day, math.floor(self.total) - before))

    @property
    def points(self) -> int:
        """What is below zero is owed."""
        return max(0, math.floor(self.total) - self.redeemed)


@settings(
    max_examples=12,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(RULES, STEPS, st.integers(1, 9))
@example([Rule(Fraction(10), None, None, None)], OWED, 2)
async def test_points_are_what_plain_arithmetic_says(
    live_db: Live, its_rules: list[Rule], steps: list[Any], batch: int
) -> None:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await rows(live_db, "delete from reward_rules")
    await change(live_db, "points_worth_at_most", 1)
    await make(live_db, its_rules, today)
    await made_long_ago(live_db)
    await change(live_db, "points_worth_at_most", MOST / 100)
    who = uuid4()
    await move_in(live_db, who)
    await fund(live_db, who, 100_000)
    days_ago = sum(days for _, days in steps)
    moments = [today - timedelta(days=days_ago)]
    oracle = Oracle(its_rules)
    done: list[list[Any]] = []
    for step, days in steps:
        days_ago -= days
        day = today - timedelta(days=days_ago)
        if isinstance(step, int):
            await backdate(live_db, (await wallet_of(live_db, who))["id"], moments)
            await give(live_db, most=batch)
            assert await points_of(live_db, who) == oracle.points
            if redeemed := oracle.points * step // 3:
                await spend(live_db, who, redeemed)
                oracle.redeemed += redeemed
            continue
        if isinstance(step[1], float):
            if not (left := [charged for charged in done if charged[2] > 0]):
                continue
            charged = left[step[0] % len(left)]
            part = max(1, int(charged[2] * step[1]))
            charged[2] -= part
            await reverse(live_db, charged[0], Decimal(part).scaleb(-6))
            oracle.add(-Fraction(part, 10**6) * charged[1], day.date())
        else:
            amount, category = step
            rate = oracle.rate(category, day.date(), today.date())
            dollars = Decimal(amount).scaleb(-6)
            done.append([await charge(live_db, who, dollars, category=category), rate, amount])
            oracle.add(Fraction(amount, 10**6) * rate, day.date())
        moments.append(day)
    await backdate(live_db, (await wallet_of(live_db, who))["id"], moments)
    await give(live_db, most=batch)
    assert await points_of(live_db, who) == oracle.points


async def make(live: Live, its_rules: list[Rule], today: datetime) -> None:
    """The rules, and the tiers once."""
    if len(await rows(live, "select from reward_tiers where multiplier = 1.8")) == 0:
        await no_tiers(live)
        async with live.api(OLIVIA) as api:
            for points, times in TIER_TABLE:
                body = {"name": f"from {points}", "fromPoints": points, "multiplier": float(times)}
                assert (await api.post(TIERS, json=body)).status_code == 201
    for each in its_rules:
        starts, ends = (
            None if days is None else str(today - timedelta(days=days))
            for days in (each.starts, each.ends)
        )
        worth = Decimal(each.points.numerator) / each.points.denominator
        await rule(live, worth, category=each.category, startsAt=starts, endsAt=ends)
