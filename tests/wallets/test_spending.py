"""What was spent by category and day is exact up to the moment, whatever a follower has read."""

from collections import Counter
from contextlib import suppress
from datetime import UTC, date, datetime
from uuid import UUID, uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from bursar.auth.actor import Actor
from bursar.core import jobs
from bursar.core.database import NOBODY, WORKER
from bursar.core.errors import BursarError
from bursar.wallets import followers, ledger, spending, tasks
from bursar.wallets import service as wallets
from bursar.wallets.spending import Spending
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live, as_actor
from tests.wallets.purses import charge, fund, hold, move_in, post, wallet_of
from tests.world import ANNA, CARL, DORA, OLIVIA

EVER = (date(2000, 1, 1), date(2100, 1, 1))
DAYS = "select day, category, spent, transfers from wallet_days where account_id = $1"
YESTERDAY = "update wallet_days set day = day - 1"


async def spent_by(
    live: Live, who: Actor, *, seen_by: Actor = OLIVIA, days: tuple[date, date] = EVER
) -> Spending:
    account = (await wallet_of(live, who))["id"]
    async with as_actor(live.database, seen_by) as db:
        return await spending.spending(db, account, *days)


async def read_on(live: Live, *, most: int = 5_000) -> int:
    async with live.database.transaction(WORKER) as db:
        return await spending.add_up(db, most=most)


async def test_a_wallet_that_spent_nothing(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 50)
    assert await spent_by(live_db, CARL) == Spending({}, {}, 0)


async def test_what_was_spent_is_there_at_once_and_the_same_when_it_was_read(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 50)
    await charge(live_db, CARL, 3, category="models")
    await charge(live_db, CARL, 4, category="models")
    paid = await charge(live_db, CARL, 5, category="api")
    await charge(live_db, CARL, 6)
    await post(live_db, ledger.reverse(paid.operation_id, 2_000_000))
    held = (await hold(live_db, CARL, 8, category="chat")).legs[0].hold_id
    assert held is not None
    await post(live_db, ledger.capture(held, 1_000_000, final=True))
    expected = {"models": 7_000_000, "api": 3_000_000, "other": 6_000_000, "chat": 1_000_000}
    for _ in range(2):
        seen = await spent_by(live_db, CARL)
        assert seen.by_category == expected
        assert seen.total == sum(seen.by_day.values()) == 17_000_000
        assert seen.total == (await wallet_of(live_db, CARL))["spent"]
        await read_on(live_db)
    assert await read_on(live_db) == 0
    stored = await rows(live_db, DAYS, (await wallet_of(live_db, CARL))["id"])
    assert {row["category"]: row["spent"] for row in stored} == expected
    assert {row["category"]: row["transfers"] for row in stored} == {
        "models": 2, "api": 1, "other": 1, "chat": 1
    }  # fmt: skip


async def test_money_that_is_taken_back_by_its_giver_was_not_spent(live_db: Live) -> None:
    await move_in(live_db)
    given_ = await fund(live_db, CARL, 50)
    await post(live_db, ledger.reverse(given_.operation_id, 10_000_000))
    for _ in range(2):
        assert (await spent_by(live_db, CARL)).total == 0
        await read_on(live_db)
    assert (await wallet_of(live_db, CARL))["spent"] == 0


async def test_only_the_days_that_were_asked_for(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 50)
    await charge(live_db, CARL, 3, category="models")
    await read_on(live_db)
    await rows(live_db, YESTERDAY)
    await charge(live_db, CARL, 4, category="models")
    both = await spent_by(live_db, CARL)
    [before, now] = sorted(both.by_day)
    assert both.by_day == {before: 3_000_000, now: 4_000_000}
    assert (await spent_by(live_db, CARL, days=(before, before))).total == 3_000_000
    assert (await spent_by(live_db, CARL, days=(now, now))).by_category == {"models": 4_000_000}
    assert (await spent_by(live_db, CARL, days=(now, before))).total == 0


async def test_a_day_ends_at_midnight_in_utc_wherever_the_database_is(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 50)
    await charge(live_db, CARL, 3)
    in_utc = await spent_by(live_db, CARL)
    elsewhere = "Pacific/Kiritimati" if datetime.now(UTC).hour >= 12 else "Etc/GMT+12"
    account = (await wallet_of(live_db, CARL))["id"]
    async with live_db.database.transaction(WORKER) as db:
        await db.execute(text("set local time zone 'UTC'"))
        assert await spending.spending(db, account, *EVER) == in_utc
        await db.execute(text(f"set local time zone '{elsewhere}'"))
        assert await spending.spending(db, account, *EVER) == in_utc
        await spending.add_up(db)
        assert await spending.spending(db, account, *EVER) == in_utc


async def test_points_are_not_money(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 300, "POINTS")
    await charge(live_db, CARL, 200, "POINTS")
    assert await read_on(live_db) == 0
    assert await rows(live_db, "select from wallet_days") == []


async def test_customers_see_their_own_and_nobody_elses(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 50)
    await charge(live_db, CARL, 3)
    await read_on(live_db)
    await charge(live_db, CARL, 4)
    assert (await spent_by(live_db, CARL, seen_by=CARL)).total == 7_000_000
    assert (await spent_by(live_db, CARL, seen_by=ANNA)).total == 7_000_000
    assert (await spent_by(live_db, CARL, seen_by=DORA)).total == 0
    async with live_db.database.transaction(NOBODY) as db:
        account = (await wallet_of(live_db, CARL))["id"]
        assert (await spending.spending(db, account, *EVER)).total == 0


async def test_the_job_reads_on_in_a_second_turn_where_one_is_not_enough(live_db: Live) -> None:
    await move_in(live_db)
    purse = ledger.user(str(CARL.id))
    legs = [
        ledger.transfer("clearing", purse, 2, kind="funding"),
        ledger.transfer(purse, "revenue", 1, kind="charge", category="api"),
    ] * 50
    requests = [
        ledger.Request("test", str(number), legs)
        for number in range(followers.MOST // len(legs) + 1)
    ]
    async with live_db.database.transaction(WORKER) as db:
        await wallets.post_all(db, requests)
    async with live_db.database.transaction(WORKER) as db:
        await jobs.enqueue(db, tasks.follow_spending)
    await run_jobs(live_db)
    wallet = await wallet_of(live_db, CARL)
    [day] = await rows(live_db, DAYS, wallet["id"])
    assert day["spent"] == day["transfers"] == wallet["spent"] == wallet["seq"] / 2
    assert wallet["seq"] > followers.MOST
    assert await read_on(live_db) == 0


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("charge"), st.integers(1, 60), st.sampled_from([None, "api", "other"])),
        st.tuples(st.just("send"), st.integers(1, 60), st.sampled_from([None, "gift"])),
        st.tuples(st.just("get"), st.integers(1, 60), st.none()),
        st.tuples(st.just("reverse"), st.integers(1, 60), st.integers(0, 20)),
        st.tuples(st.just("read"), st.integers(1, 9), st.none()),
    ),
    max_size=16,
)
SIDES = """
select debit_id, credit_id, amount, category, reverses, posted_at from transfers
where debit_id = $1 or credit_id = $1
"""


@settings(
    max_examples=8,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(STEPS)
async def test_rollup_and_rest_are_what_plain_python_counts(
    live_db: Live, steps: list[tuple[str, int, str | int | None]]
) -> None:
    carl, dora = uuid4(), uuid4()
    await move_in(live_db, carl, dora)
    await fund(live_db, carl, 1)
    moved: list[UUID] = []
    for verb, number, about in steps:
        if verb == "read":
            await read_on(live_db, most=number)
            await assert_exact(live_db, carl)
            continue
        with suppress(BursarError):  # a reversal of more than is left, or of nothing
            outcome = await post(live_db, leg_of(verb, number, about, carl, dora, moved))
            moved.append(outcome.operation_id)
    await assert_exact(live_db, carl)
    while await read_on(live_db, most=3):
        await assert_exact(live_db, carl)
    stored = await rows(live_db, DAYS, (await wallet_of(live_db, carl))["id"])
    assert sum(row["spent"] for row in stored) == (await wallet_of(live_db, carl))["spent"]


def leg_of(
    verb: str, number: int, about: str | int | None, carl: UUID, dora: UUID, moved: list[UUID]
) -> ledger.Leg:
    mine, hers = ledger.user(carl), ledger.user(dora)
    if verb == "reverse":
        return ledger.reverse(moved[int(about or 0) % len(moved)] if moved else uuid4(), number)
    category = None if about is None else str(about)
    if verb == "charge":
        return ledger.transfer(mine, "revenue", number, kind="charge", category=category)
    if verb == "send":
        return ledger.transfer(mine, hers, number, kind="transfer", category=category)
    return ledger.transfer("clearing", mine, number, kind="funding")


async def assert_exact(live: Live, who: UUID) -> None:
    wallet = await wallet_of(live, who)
    by_day: Counter[date] = Counter()
    by_category: Counter[str] = Counter()
    for row in await rows(live, SIDES, wallet["id"]):
        amount = 0
        if row["debit_id"] == wallet["id"] and row["reverses"] is None:
            amount = row["amount"]
        elif row["credit_id"] == wallet["id"] and row["reverses"] is not None:
            amount = -row["amount"]
        by_day[row["posted_at"].astimezone(UTC).date()] += amount
        by_category[row["category"] or "other"] += amount
    async with live.database.transaction(WORKER) as db:
        seen = await spending.spending(db, wallet["id"], *EVER)
    assert (Counter(seen.by_day), Counter(seen.by_category)) == (by_day, by_category)
    assert seen.total == wallet["spent"]
