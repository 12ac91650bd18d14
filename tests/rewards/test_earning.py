"""Points for charges are exact, each charge earns once, a reversal takes back what it earned."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import uuid4

import pytest
from sqlalchemy import text

from bursar.core.database import WORKER
from bursar.core.database_errors import DRIVER_ERRORS
from bursar.core.errors import BursarError
from bursar.rewards import earning, tasks
from bursar.wallets import ledger
from tests.accounts.people import change, rows, run_jobs
from tests.conftest import Live
from tests.rewards.points import (
    backdate,
    give,
    lines_of,
    made_long_ago,
    no_tiers,
    points_of,
    receive,
    reverse,
    rule,
    spend,
)
from tests.wallets.purses import charge, freeze, fund, hold, move_in, post, wallet_of
from tests.world import CARL, DORA, OLIVIA


async def test_nobody_earns_until_staff_make_a_rule(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 100)
    await charge(live_db, CARL, 10)
    assert await give(live_db) == 2
    assert await lines_of(live_db, CARL) == []


async def test_what_is_less_than_a_point_is_carried_to_the_next_charge(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, "0.3333")
    await fund(live_db, CARL, 100)
    for _ in range(10):
        await charge(live_db, CARL, "1.000001")
        await give(live_db, most=1)
    assert await points_of(live_db, CARL) == 3  # 10 x 1.000001 x 0.3333 = 3.33…
    assert await lines_of(live_db, CARL) == [("earn", 1)] * 3
    [row] = await rows(live_db, "select carried from reward_standings")
    assert row["carried"] == Decimal("0.333003333")


async def test_the_best_rule_that_fits_category_and_time_counts(live_db: Live) -> None:
    await move_in(live_db)
    await no_tiers(live_db)
    now, hour = datetime.now(UTC), timedelta(hours=1)
    await rule(live_db, 1)
    await rule(live_db, 3, category="models")
    await rule(live_db, 2, category="models")
    await rule(live_db, 50, category="models", active=False)
    await rule(live_db, 60, endsAt=str(now - hour))
    await rule(live_db, 45, startsAt=str(now + hour))
    await rule(live_db, 5, category="api", startsAt=str(now - hour), endsAt=str(now + hour))
    await fund(live_db, CARL, 100)
    for category, points in (("models", 30), ("api", 50), ("paper", 10), (None, 10)):
        await charge(live_db, CARL, 10, category=category)
        before = await points_of(live_db, CARL)
        await give(live_db)
        assert await points_of(live_db, CARL) - before == points, category


async def test_a_rule_counts_for_no_charge_made_before_it(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 100)
    await charge(live_db, CARL, 10)
    await rule(live_db, 10, startsAt=str(datetime.now(UTC) - timedelta(days=1)))
    await charge(live_db, CARL, 1)
    await give(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 10)]


async def test_points_are_never_worth_more_than_a_share_of_what_was_spent(live_db: Live) -> None:
    await move_in(live_db)
    await no_tiers(live_db)
    await rule(live_db, 40)
    await fund(live_db, CARL, 100)
    first = await charge(live_db, CARL, 1)
    await give(live_db)
    assert await points_of(live_db, CARL) == 40
    await change(live_db, "points_per_usd", 10)  # a point is worth ten times as much now
    second = await charge(live_db, CARL, 10)
    await give(live_db)
    assert await points_of(live_db, CARL) == 40 + 50
    await change(live_db, "points_worth_at_most", 0.25)
    await charge(live_db, CARL, 10)
    await give(live_db)
    assert await points_of(live_db, CARL) == 90 + 25
    for charged in (first, second):
        await reverse(live_db, charged)
    await give(live_db)
    assert await points_of(live_db, CARL) == 25


async def test_only_charges_earn_and_captures_of_holds_are_charges(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 1)
    await fund(live_db, CARL, 100)
    await fund(live_db, DORA, 5)
    to_dora = ledger.transfer(ledger.user(str(CARL.id)), ledger.user(str(DORA.id)), 10**7,
                              kind="transfer")  # fmt: skip
    await post(live_db, to_dora)
    held = await hold(live_db, CARL, 50)
    assert await give(live_db) == 4
    assert await points_of(live_db, CARL) == 0
    await post(live_db, ledger.capture(held.legs[0].hold_id or "", 20_000_000, final=True))
    await give(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 20)]
    assert await lines_of(live_db, DORA) == []


async def test_a_tier_multiplies_from_the_next_charge_on(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 5000)
    for amount in (100, 100, 300, 100):  # 1000 earned: silver, 1.25; 6000: gold, 1.5
        await charge(live_db, CARL, amount)
    await give(live_db)
    assert await points_of(live_db, CARL) == 1000 + 1250 + 3750 + 1500
    told = await rows(live_db, "select payload->>'tier' t from events where name like 'rewards.t%'")
    assert [row["t"] for row in told] == ["gold"]
    await charge(live_db, CARL, 100)
    await give(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 7500), ("earn", 1500)]


async def test_what_was_earned_a_year_ago_makes_no_tier(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 5000)
    for _ in range(3):
        await charge(live_db, CARL, 100)
    wallet = await wallet_of(live_db, CARL)
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    await made_long_ago(live_db)
    days = [midnight - timedelta(days=days) for days in (400, 365, 364, 0)]
    await backdate(live_db, wallet["id"], days)
    await give(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 1000 + 1250 + 1250)]
    async with live_db.api(CARL) as api:
        body = (await api.get("/api/v1/users/me/rewards")).json()
    assert (body["tier"], body["points_this_year"]) == ("silver", 2500)


async def test_who_gave_back_more_than_they_earned_this_year_is_in_the_lowest_tier(
    live_db: Live,
) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await rows(live_db, "update reward_tiers set multiplier = 2 where from_points = 0")
    await made_long_ago(live_db)
    await fund(live_db, CARL, 100)
    long_ago = await charge(live_db, CARL, 10)
    wallet = await wallet_of(live_db, CARL)
    await backdate(live_db, wallet["id"], [datetime.now(UTC) - timedelta(days=400)] * 2)
    await give(live_db)
    await reverse(live_db, long_ago)
    await give(live_db)
    async with live_db.api(CARL) as api:
        body = (await api.get("/api/v1/users/me/rewards")).json()
    assert (body["tier"], body["multiplier"], body["points_this_year"]) == ("bronze", 2, 0)
    await charge(live_db, CARL, 10)
    await give(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 200), ("take_back", -200), ("earn", 200)]
    told = await rows(live_db, "select payload from events where name = 'rewards.tier_reached'")
    assert told == []  # they never left it


async def test_a_reversal_takes_back_at_the_rate_of_its_charge(live_db: Live) -> None:
    await move_in(live_db)
    made = await rule(live_db, "1.5")
    await fund(live_db, CARL, 100)
    first = await charge(live_db, CARL, 10)
    await give(live_db)
    async with live_db.api(OLIVIA) as api:
        body = {"name": "More", "pointsPerUnit": 7}
        changed = await api.put(f"/api/v1/admin/rewards/rules/{made['id']}", json=body)
        assert changed.status_code == 200, changed.text
    second = await charge(live_db, CARL, 10)
    await reverse(live_db, first, 5)
    await give(live_db)
    assert await points_of(live_db, CARL) == 77  # 15 + 70 - 7.5, rounded down
    await reverse(live_db, second)
    await reverse(live_db, first)
    await give(live_db)
    assert await points_of(live_db, CARL) == 0
    assert (await lines_of(live_db, CARL))[2:] == [("take_back", -8), ("take_back", -77)]


async def test_points_that_were_redeemed_already_are_paid_back_first(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    charged = await charge(live_db, CARL, 50)
    await give(live_db)
    await spend(live_db, CARL, 480)
    await reverse(live_db, charged)
    await charge(live_db, CARL, 1)
    await give(live_db)
    assert await points_of(live_db, CARL) == 0  # 470 are owed
    await charge(live_db, CARL, 20)
    await give(live_db)
    assert await points_of(live_db, CARL) == 0
    await charge(live_db, CARL, 28)
    await give(live_db)
    assert (await lines_of(live_db, CARL))[2:] == [("take_back", -20), ("earn", 10)]


async def test_who_redeems_and_gives_back_again_and_again_gains_nothing(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    redeemed = 0
    for _ in range(3):
        charged = await charge(live_db, CARL, 50)
        await give(live_db)
        if points := await points_of(live_db, CARL):
            await spend(live_db, CARL, points)
        redeemed += points
        await reverse(live_db, charged)
        await give(live_db)
    assert redeemed == 500
    async with live_db.api(CARL) as api:
        body = (await api.get("/api/v1/users/me/rewards")).json()
    assert (body["points_balance"], body["points_available"], body["points_this_year"]) == (0, 0, 0)


async def test_of_a_frozen_wallet_nothing_is_taken_and_nothing_forgotten(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    charged = await charge(live_db, CARL, 10)
    await give(live_db)
    await freeze(live_db, CARL, asset="POINTS")
    await reverse(live_db, charged)
    await charge(live_db, CARL, 1)
    await give(live_db)
    assert await points_of(live_db, CARL) == 100
    await freeze(live_db, CARL, "open", asset="POINTS")
    await charge(live_db, CARL, 2)
    await give(live_db)
    assert await points_of(live_db, CARL) == 30


async def test_what_earned_nothing_in_a_closed_wallet_is_not_owed_later(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    await charge(live_db, CARL, 1)
    await give(live_db)
    await spend(live_db, CARL, 10)
    await freeze(live_db, CARL, "closed", asset="POINTS")
    charged = await charge(live_db, CARL, 5)
    await give(live_db)
    await freeze(live_db, CARL, "open", asset="POINTS")
    await reverse(live_db, charged)
    await charge(live_db, CARL, 2)
    await give(live_db)
    assert (await lines_of(live_db, CARL))[2:] == [("earn", 20)]


async def test_a_closed_wallet_for_points_stops_nobody_else(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    for who in (CARL, DORA):
        await fund(live_db, who, 100)
        await charge(live_db, who, 1)
    await receive(live_db, CARL, 5)
    await spend(live_db, CARL, 5)
    await freeze(live_db, CARL, "closed", asset="POINTS")
    await give(live_db)
    assert (await points_of(live_db, CARL), await points_of(live_db, DORA)) == (0, 10)


async def test_two_workers_at_once_give_every_point_once(live_db: Live) -> None:
    people = [uuid4() for _ in range(8)]
    await move_in(live_db, *people)
    await rule(live_db, 10)
    for who in people:
        await fund(live_db, who, 100)
        for _ in range(4):
            await charge(live_db, who, 1)
    await asyncio.gather(*(give(live_db, most=3) for _ in range(4)))
    await give(live_db)
    assert [await points_of(live_db, who) for who in people] == [40] * 8


async def test_a_crash_in_the_middle_gives_every_point_once(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    await charge(live_db, CARL, 10)
    with pytest.raises((*DRIVER_ERRORS, BursarError)):
        await give_and_die(live_db)
    assert await lines_of(live_db, CARL) == []
    assert await give(live_db) == 2
    assert await give(live_db) == 0
    assert await lines_of(live_db, CARL) == [("earn", 100)]


async def give_and_die(live: Live) -> None:
    """The connection ends after all is written, and before it is committed."""
    async with live.database.transaction(WORKER) as db:
        assert await earning.give(db) == 2
        pid = await db.scalar(text("select pg_backend_pid()"))
        await rows(live, "select pg_terminate_backend($1, 5000)", pid)


async def test_the_worker_gives_points_by_itself(live_db: Live) -> None:
    await move_in(live_db)
    await rule(live_db, 10)
    await fund(live_db, CARL, 100)
    await charge(live_db, CARL, 10)
    async with live_db.database.transaction(WORKER) as db:
        await tasks.give_points(db, {})
        await tasks.give_points(db, {})
    await run_jobs(live_db)
    assert await lines_of(live_db, CARL) == [("earn", 100)]
