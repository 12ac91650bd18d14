"""When a provider can be booked: against a naive walk through the minutes, and as clocks turn."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bursar.booking import rules
from tests.accounts.people import change, rows
from tests.booking.desk import (
    at,
    book,
    free,
    made,
    move_in,
    provider,
    said,
    service,
    training,
)
from tests.conftest import Live
from tests.databases import raw
from tests.world import CARL, DORA

MINUTE = timedelta(minutes=1)


@asynccontextmanager
async def owner(live: Live) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(raw(live.url))
    try:
        yield connection
    finally:
        await connection.close()


@cache
def opens(wall: datetime, zone: ZoneInfo) -> datetime:
    """The first minute at which the clock shows this or more."""
    moment = wall.replace(tzinfo=UTC) - timedelta(hours=30)
    while moment.astimezone(zone).replace(tzinfo=None) < wall:
        moment += MINUTE
    return moment


@cache
def closes(wall: datetime, zone: ZoneInfo) -> datetime:
    """After the last minute at which it shows less."""
    moment = wall.replace(tzinfo=UTC) + timedelta(hours=30)
    while (moment - MINUTE).astimezone(zone).replace(tzinfo=None) >= wall:
        moment -= MINUTE
    return moment


TURNS = [
    ("Europe/Berlin", datetime(2026, 3, 29)),
    ("Europe/Berlin", datetime(2026, 10, 25)),
    ("America/New_York", datetime(2026, 3, 8)),
    ("America/New_York", datetime(2026, 11, 1)),
    ("Australia/Lord_Howe", datetime(2026, 4, 5)),
    ("Australia/Lord_Howe", datetime(2026, 10, 4)),
    ("Pacific/Apia", datetime(2011, 12, 30)),
    ("Asia/Kathmandu", datetime(2026, 6, 1)),
]


@pytest.mark.parametrize(("zone", "day"), TURNS, ids=[f"{z} {d:%Y-%m-%d}" for z, d in TURNS])
async def test_every_quarter_of_an_hour_around_the_turn(
    live_db: Live, zone: str, day: datetime
) -> None:
    walls = [day + timedelta(minutes=15 * n) for n in range(-8, 32)]
    sql = """
      select moment_of(wall, $2, false) as opens, moment_of(wall, $2, true) as closes
      from unnest($1::timestamp[]) wall
    """
    for wall, row in zip(walls, await rows(live_db, sql, walls, zone), strict=True):
        assert row["opens"] == opens(wall, ZoneInfo(zone)), wall
        assert row["closes"] == closes(wall, ZoneInfo(zone)), wall


async def test_an_hour_that_is_left_out_and_one_that_comes_twice(live_db: Live) -> None:
    """Berlin, from two to three at night: no time at all in spring, two hours in autumn."""
    ana = await provider(live_db, zone="Europe/Berlin", hours=[(7, "02:00", "03:00")])
    sql = "select lower(piece), upper(piece) from openings($1, $2, $3) piece"
    spring = datetime(2026, 3, 29, 0, tzinfo=UTC)
    assert await rows(live_db, sql, ana, spring, spring + timedelta(hours=3)) == []
    autumn = datetime(2026, 10, 25, 0, tzinfo=UTC)
    [(first, last)] = await rows(live_db, sql, ana, autumn, autumn + timedelta(hours=3))
    assert (first, last) == (autumn, autumn + timedelta(hours=2))


hours = st.lists(
    st.tuples(st.integers(1, 7), st.integers(0, 95), st.integers(1, 96)).filter(
        lambda h: h[1] < h[2]
    ),
    max_size=8,
)
spans = st.lists(
    st.tuples(st.integers(-40, 400), st.integers(1, 120), st.sampled_from(["closed", "extra"])),
    max_size=5,
)
taken = st.lists(st.tuples(st.integers(-20, 300), st.integers(1, 30)), max_size=6)


@settings(
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu"]),
    week=hours,
    exceptions=spans,
    busy=taken,
    minutes=st.sampled_from([15, 30, 45, 60, 240]),
    before=st.sampled_from([0, 15]),
    after=st.sampled_from([0, 10]),
    step=st.sampled_from([15, 30, 50]),
    turn=st.booleans(),
)
async def test_what_is_offered_is_what_the_oracle_says(
    calendar: "Calendar",
    zone: str,
    week: list[tuple[int, int, int]],
    exceptions: list[tuple[int, int, str]],
    busy: list[tuple[int, int]],
    minutes: int,
    before: int,
    after: int,
    step: int,
    turn: bool,
) -> None:
    """Of four days; with `turn` around the next night on which the clocks are turned."""
    first = next_turn(zone) if turn else at(3, 0)
    week = without_overlaps(week)
    quarter = timedelta(minutes=15)
    spans = [(first + a * quarter, first + (a + n) * quarter, kind) for a, n, kind in exceptions]
    times = apart([(first + a * quarter, first + (a + n) * quarter) for a, n in busy])
    await calendar.set(zone, week, spans, times, (minutes, before, after), step)
    last = first + timedelta(days=4)
    offered = await calendar.offered(first, last)
    open_spans, closed = [], []
    for begins, ends, kind in spans:
        (closed if kind == "closed" else open_spans).append((begins, ends))
    pieces = [
        piece
        for stretch in stretches(week, ZoneInfo(zone), first, last) + open_spans
        for piece in less(stretch, closed)
    ]
    length = timedelta(minutes=minutes)
    expected = set()
    for begins, ends in pieces:
        start = begins
        while start < ends:
            padded = (start - before * MINUTE, start + length + after * MINUTE)
            if (
                first <= start < last
                and covered(start, start + length, pieces)
                and not any(a < padded[1] and padded[0] < b for a, b in times)
            ):
                expected.add(start)
            start += timedelta(minutes=step)
    assert offered == sorted(expected)


Span = tuple[datetime, datetime]


def next_turn(zone: str) -> datetime:
    """Midnight in UTC two days before the clocks are turned there next; any day where never."""
    here = ZoneInfo(zone)
    for days in range(3, 370):
        if at(days, 0).astimezone(here).utcoffset() != at(days + 1, 0).astimezone(here).utcoffset():
            return at(days - 1, 0)
    return at(3, 0)


def without_overlaps(week: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    kept: list[tuple[int, int, int]] = []
    for day, starts, ends in week:
        if not any(d == day and starts < e and s < ends for d, s, e in kept):
            kept.append((day, starts, ends))
    return kept


def apart(times: list[Span]) -> list[Span]:
    kept: list[Span] = []
    for begins, ends in times:
        if not any(begins < e and s < ends for s, e in kept):
            kept.append((begins, ends))
    return kept


def stretches(
    week: list[tuple[int, int, int]], zone: ZoneInfo, first: datetime, last: datetime
) -> list[Span]:
    found = []
    for n in range(-2, (last - first).days + 3):
        day = (first + timedelta(days=n)).replace(tzinfo=None, hour=0, minute=0)
        for weekday, starts, ends in week:
            if day.isoweekday() == weekday:
                quarter = timedelta(minutes=15)
                found.append(
                    (opens(day + starts * quarter, zone), closes(day + ends * quarter, zone))
                )
    return found


def less(stretch: Span, closed: list[Span]) -> list[Span]:
    pieces = [stretch]
    for begins, ends in closed:
        cut = [[(a, min(b, begins)), (max(a, ends), b)] for a, b in pieces]
        pieces = [(a, b) for each in cut for a, b in each if a < b]
    return pieces


def covered(begins: datetime, ends: datetime, pieces: list[Span]) -> bool:
    moment = begins
    while moment < ends:
        if not any(a <= moment < b for a, b in pieces):
            return False
        moment += MINUTE
    return True


SET = """
delete from working_hours;
delete from availability_exceptions;
alter table provider_times disable trigger user;
alter table trainings disable trigger user;
alter table settings disable trigger user;
delete from provider_times;
delete from trainings;
delete from settings where key = 'booking_step_minutes';
"""
SET_AGAIN = """
alter table trainings enable trigger user;
alter table provider_times enable trigger user;
"""
HOURS = """
insert into working_hours (provider_id, weekday, starts_minute, ends_minute)
values ($1, $2, $3 * 15, $4 * 15)
"""
EXCEPTION = """
insert into availability_exceptions (provider_id, starts_at, ends_at, kind) values ($1, $2, $3, $4)
"""
TRAINING = """
with made as (
  insert into trainings (title, provider_id, starts_at, ends_at, enrol_until, capacity, price)
  values ('x', $1, $2, $3, $2, 1, 0) returning id
)
insert into provider_times (provider_id, training_id, during)
select $1, id, tstzrange($2, $3) from made
"""
SERVICE = """
update services
set duration_minutes = $1, buffer_before_minutes = $2, buffer_after_minutes = $3
"""
STEP = "insert into settings (key, value) values ('booking_step_minutes', to_jsonb($1::int))"


class Calendar:
    """One provider and one service, set anew each time; as the owner of the database."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.owner = connection

    async def begin(self) -> None:
        self.provider = await self.owner.fetchval(
            "insert into providers (name) values ('Ana') returning id"
        )
        self.service = await self.owner.fetchval(
            "insert into services (name, price, duration_minutes) values ('x', 0, 15) returning id"
        )
        gives = "insert into service_providers values ($1, $2)"
        await self.owner.execute(gives, self.service, self.provider)
        far = "insert into settings (key, value) values ('booking_horizon_days', '730')"
        await self.owner.execute(far)

    async def set(
        self,
        zone: str,
        week: list[tuple[int, int, int]],
        spans: list[tuple[datetime, datetime, str]],
        times: list[Span],
        lengths: tuple[int, int, int],
        step: int,
    ) -> None:
        run = self.owner.execute
        await run(SET)
        await run("update providers set time_zone = $1", zone)
        await run(STEP, step)
        await run(SERVICE, *lengths)
        await self.owner.executemany(HOURS, [(self.provider, *each) for each in week])
        await self.owner.executemany(EXCEPTION, [(self.provider, *each) for each in spans])
        await self.owner.executemany(TRAINING, [(self.provider, *each) for each in times])
        await run(SET_AGAIN)

    async def offered(self, first: datetime, last: datetime) -> list[datetime]:
        sql = "select starts_at from free_slots($1, $2, $3, null, 10000)"
        return [row["starts_at"] for row in await self.owner.fetch(sql, self.service, first, last)]


@pytest.fixture
async def calendar(live_db: Live) -> AsyncIterator[Calendar]:
    async with owner(live_db) as connection:
        made_up = Calendar(connection)
        await made_up.begin()
        yield made_up


async def test_buffers_trainings_and_exceptions_take_time(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db, hours=[(day, "09:00", "12:00") for day in range(1, 8)])
    cut = await service(live_db, ana, bufferBeforeMinutes=15, bufferAfterMinutes=15)
    await book(live_db, CARL, cut, at(2, 9))  # with its buffers from 8:45 to 9:45
    path = f"providers/{ana}/exceptions"
    await made(
        live_db, path, {"kind": "closed", "startsAt": said(at(2, 11)), "endsAt": said(at(2, 12))}
    )
    await training(live_db, ana, at(3, 9))  # until 11
    await made(live_db, path, {"kind": "closed", "day": str(at(4).date())})
    extra = {"kind": "extra", "startsAt": said(at(4, 20)), "endsAt": said(at(4, 21))}
    await made(live_db, path, extra)
    extra = {"kind": "extra", "startsAt": said(at(5, 20)), "endsAt": said(at(5, 21))}
    await made(live_db, path, extra)
    offered = await free(live_db, cut, at(2, 0), at(6, 0), DORA)
    walls = [each[8:16] for each in offered]
    second, third, fifth = (f"{at(days):%d}" for days in (2, 3, 5))
    assert [w for w in walls if w.startswith(second)] == [
        f"{second}T10:00",
        f"{second}T10:15",
        f"{second}T10:30",
    ]
    assert [w for w in walls if w.startswith(third)] == [f"{third}T11:15", f"{third}T11:30"]
    assert [w for w in walls if w.startswith(f"{at(4):%d}")] == []
    assert [w for w in walls if w.startswith(fifth)][-3:] == [
        f"{fifth}T20:00",
        f"{fifth}T20:15",
        f"{fifth}T20:30",
    ]


async def test_a_step_and_a_lead_that_staff_set(live_db: Live) -> None:
    await move_in(live_db)
    ana = await provider(live_db)
    cut = await service(live_db, ana)
    await change(live_db, "booking_step_minutes", 60)
    await change(live_db, "booking_lead_minutes", 3 * 24 * 60)
    await change(live_db, "booking_horizon_days", 5)
    before = datetime.now(UTC)
    offered = await free(live_db, cut, at(0, 0), at(20, 0))
    moments = [datetime.fromisoformat(each) for each in offered]
    soonest, latest = before + timedelta(days=3), datetime.now(UTC) + timedelta(days=5)
    assert all(soonest <= each <= latest for each in moments)
    assert {(b - a) for a, b in pairwise(moments)} == {timedelta(hours=1)}
    assert len(moments) in (47, 48)


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("from=2030-01-02&to=2030-01-01", "ends_before_start"),
        ("from=2030-01-01&to=2030-01-01", "ends_before_start"),
        ("from=2030-01-01&to=2030-03-01", "too_long"),
        ("from=1999-01-01", "value_error"),
        ("from=tomorrow", "value_error"),
    ],
)
async def test_a_look_that_is_none(live_db: Live, query: str, code: str) -> None:
    cut = await service(live_db, await provider(live_db))
    async with live_db.api(CARL) as api:
        answer = await api.get(f"/api/v1/services/{cut}/availability?{query}")
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["code"] == code


async def test_the_database_knows_the_defaults_of_the_settings(live_db: Live) -> None:
    for setting in rules.IN_DATABASE:
        [row] = await rows(live_db, "select booking_rule($1) as value", setting.key)
        assert row["value"] == setting.default, setting.key
        other = setting.limits["ge"] + 7
        await change(live_db, setting.key, other)
        [row] = await rows(live_db, "select booking_rule($1) as value", setting.key)
        assert row["value"] == other, setting.key
