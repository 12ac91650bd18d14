"""What older releases have left behind is brought to what this one counts on."""

from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from bursar.core.database import WORKER
from bursar.core.migrate import head, migrate
from bursar.wallets import ledger, spending
from tests import databases
from tests.accounts.people import change, rows
from tests.conftest import Live
from tests.keys.keyholders import key_of, service_key
from tests.keys.test_lines import rotated
from tests.metering.test_ingest import event, outcomes
from tests.metering.test_retention import months_ago, turn_months
from tests.wallets.purses import charge, fund, move_in, post
from tests.world import CARL

LONG = 2000


@pytest.fixture
async def before_lines() -> AsyncIterator[str]:
    url = await databases.at_revision("20261128_0023")
    yield url
    await databases.discard(url)


async def fetch(url: str, sql: str, *arguments: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(databases.raw(url))
    try:
        return [tuple(row.values()) for row in await connection.fetch(sql, *arguments)]
    finally:
        await connection.close()


async def upgrade(url: str) -> None:
    await migrate(url, databases.test_settings(), lambda _: None)


# 0024: lines of keys

PEOPLE = """
insert into users (email, name) values ('carl@example.com', 'carl'), ('dora@example.com', 'dora')
"""
KEY = """
insert into api_keys (id, name, user_id, rotated_from, key_hash, start, last_four)
select md5($1)::uuid, $1, (select id from users where name = $2), md5($3)::uuid,
  sha256($1::bytea), 'bur_live_AAAA', 'AAAA'
"""
CHAIN = """
insert into api_keys (id, name, user_id, rotated_from, key_hash, start, last_four)
select md5('c' || n)::uuid, 'c' || n, (select id from users where name = 'carl'),
  case when n > 1 then md5('c' || n - 1)::uuid end, sha256(('c' || n)::bytea), 'bur_live_AAAA',
  'AAAA'
from generate_series(1, $1::integer) as n
"""
USED = """
insert into api_key_months (api_key_id, month, requests, units)
select id, '2026-10', 1, 3 from api_keys union all
select id, '2026-11', 10, 20 from api_keys where name in ('c2', 'd2', 's2')
"""
LINES = """
select first.name, count(*) filter (where first.user_id is not distinct from api_keys.user_id)
from api_keys join api_keys as first on first.id = api_keys.line_id group by 1
"""
SUMS = """
select name, month, requests, units
from api_key_months join api_keys on id = api_key_months.line_id order by 1, 2
"""
# By name, by owner, by what it was rotated from. Only plain SQL can make those that change hands.
OTHERS = [
    ("branch", "carl", "c10"), ("d1", "dora", f"c{LONG}"), ("d2", "dora", "d1"),
    ("back", "carl", "d2"), ("further", "carl", "back"), ("s1", None, None), ("s2", None, "s1"),
    ("given", "carl", "s2"), ("taken", None, "c5"), ("alone", "dora", None),
]  # fmt: skip
FIRST = {
    "c1": LONG + 1, "d1": 2, "back": 2, "s1": 2, "given": 1, "taken": 1, "alone": 1,
}  # fmt: skip


async def test_old_keys_form_lines_that_stay_with_their_owner(before_lines: str) -> None:
    await fetch(before_lines, PEOPLE)
    await fetch(before_lines, CHAIN, LONG)
    for key in OTHERS:
        await fetch(before_lines, KEY, *key)
    await fetch(before_lines, USED)
    await upgrade(before_lines)
    assert dict(await fetch(before_lines, LINES)) == FIRST
    later = {"c1": (10, 20), "d1": (10, 20), "s1": (10, 20)}
    assert await fetch(before_lines, SUMS) == sorted(
        [(name, "2026-10", number, 3 * number) for name, number in FIRST.items()]
        + [(name, "2026-11", *sums) for name, sums in later.items()]
    )


# 0026: months that were dropped, limits that differ


async def as_of_0025(live: Live, *statements: str) -> None:
    """The same database with what that release could have left; then 0026 is applied again."""
    connection = await asyncpg.connect(databases.raw(live.url))
    await connection.execute("alter table usage_kept disable trigger user")
    await connection.execute("alter table api_keys disable trigger share_limits")
    for statement in ("drop index uq_usage_kept", *statements):
        await connection.execute(statement)
    await connection.execute("alter table usage_kept enable trigger user")
    await connection.execute("alter table api_keys enable trigger share_limits")
    await connection.execute("update alembic_version set version_num = '20261128_0025'")
    await databases.advance(live.url, "20261128_0026")
    await connection.execute("update alembic_version set version_num = $1", head())
    await connection.close()


async def since(live: Live) -> list[str]:
    return [row["since"] for row in await rows(live, "select since from usage_kept")]


async def test_months_that_were_dropped_long_ago_are_known_as_dropped(live_db: Live) -> None:
    """By their sums, which are there, and their partition, which is not."""
    await move_in(live_db)
    shop = await service_key(live_db)
    sent = {n: event(n, timestamp=months_ago(n).isoformat()) for n in (3, 4, 5, 7)}
    assert await outcomes(live_db, shop, sent[3], sent[5], sent[7]) == ["counted"] * 3
    await change(live_db, "usage_retention_months", 3)
    await turn_months(live_db)
    await rows(live_db, "delete from usage_event_ids where seen_on < current_date - 1")
    await as_of_0025(live_db, "update usage_kept set since = '0001-01'")
    assert await since(live_db) == [f"{months_ago(4):%Y-%m}"]
    await change(live_db, "usage_retention_months", 13)
    told = await outcomes(live_db, shop, *sent.values())
    assert told == ["duplicate", "counted", *["usage.before_retention"] * 2]
    later = f"{months_ago(2):%Y-%m}"
    await as_of_0025(live_db, f"update usage_kept set since = '{later}'")
    assert await since(live_db) == [later]  # it never goes back


async def test_where_nothing_was_dropped_nothing_is_known_as_dropped(live_db: Live) -> None:
    """Though months between have no partition: nobody has reported anything of them."""
    await move_in(live_db)
    shop = await service_key(live_db)
    old, older = (event(n, timestamp=months_ago(n).isoformat()) for n in (5, 9))
    assert await outcomes(live_db, shop, old) == ["counted"]
    for lost in ("select 1", "delete from usage_kept"):
        await as_of_0025(live_db, lost)
        assert await since(live_db) == ["0001-01"]
    assert await outcomes(live_db, shop, old, older) == ["duplicate", "counted"]


async def test_limits_that_differ_within_a_line_become_those_of_its_newest_key(
    live_db: Live,
) -> None:
    await move_in(live_db)
    first = await key_of(live_db, per_month=100, per_minute=60)
    second = await rotated(live_db, first.id, 0)
    third = await rotated(live_db, second.id, 3600)
    fourth, other = await rotated(live_db, third.id, 3600), await key_of(live_db, per_month=100)
    lowered = "update api_keys set per_month = 7, per_minute = null, per_second = 2"
    await as_of_0025(live_db, f"{lowered} where id = '{fourth.id}'")
    limits = "select id::text, per_second, per_minute, per_month from api_keys"
    assert {row[0]: tuple(row)[1:] for row in await rows(live_db, limits)} == {
        first.id: (None, 60, 100),  # it is over, and stays as it was
        second.id: (2, None, 7),
        third.id: (2, None, 7),
        fourth.id: (2, None, 7),
        other.id: (None, None, 100),
    }


# 0030: what earlier files have made

LEFT_BEHIND = """
create function let_in(integer, text, text, text, text, uuid, text, text, uuid, text, text, integer,
  interval, interval, bytea, integer) returns text language sql as 'select $2';
create function accounts_of(text[], text[]) returns text[] language sql as 'select $1';
create function take_payment_event(text, text, text, text, jsonb, timestamptz) returns text
  language sql as 'select $1';
create function count_latencies(integer[]) returns integer[] language sql as 'select $1';
create function posted_one(jsonb) returns jsonb language sql as 'select $1';
create function find_key(bytea) returns bytea language sql as 'select $1';
create procedure let_usage_be_read(regclass) language sql as '';
create procedure let_bills_be_read(regclass) language sql as '';
create function sum_up_outcomes() returns trigger language plpgsql as 'begin return null; end';
create trigger sum_up_outcomes after update on usage referencing new table as settled
  for each statement execute function sum_up_outcomes();
"""
MADE = """
select oid::regprocedure::text, pg_get_function_result(oid) from pg_proc
where pronamespace = 'public'::regnamespace
union all select tgname || ' on ' || tgrelid::regclass, tgfoid::regprocedure::text
from pg_trigger where not tgisinternal order by 1, 2
"""


@pytest.fixture
async def as_of_0029() -> AsyncIterator[str]:
    url = await databases.at_revision("20261129_0029")
    yield url
    await databases.discard(url)


async def test_nothing_is_left_of_earlier_files(as_of_0029: str, live_db: Live) -> None:
    connection = await asyncpg.connect(databases.raw(as_of_0029))
    await connection.execute(LEFT_BEHIND)
    await connection.close()
    await upgrade(as_of_0029)
    assert await fetch(as_of_0029, MADE) == await fetch(live_db.url, MADE)


# 0033: what was refunded is not spent

SPENT = """
select spent, null from accounts where owner_id is not null and spent > 0
union all select spent, transfers from wallet_days
"""
AS_COUNTED_BEFORE = """
alter table accounts disable trigger user;
update accounts set spent = spent + 8000000 where owner_id is not null and spent > 0;
alter table accounts enable trigger user;
alter table transfers disable trigger user;
update transfers set kind = 'reversal' where reverses is not null;
alter table transfers enable trigger user;
update wallet_days set spent = spent + 8000000, transfers = transfers + 2;
insert into wallet_days (account_id, day, category, spent, transfers)
  select account_id, date '2020-01-01', category, 0, 0 from wallet_days;
update alembic_version set version_num = '20261129_0032';
"""


async def test_what_was_refunded_or_contested_is_spent_no_longer(live_db: Live) -> None:
    await move_in(live_db)
    await fund(live_db, CARL, 20)
    await charge(live_db, CARL, 3)
    for kind in ("refund", "dispute"):
        carl = ledger.user(str(CARL.id))
        gone = await post(live_db, ledger.transfer(carl, f"{kind}s", 5_000_000, kind=kind))
        await post(live_db, ledger.reverse(gone.operation_id, 1_000_000))
    async with live_db.database.transaction(WORKER) as db:
        await spending.add_up(db)
    assert await fetch(live_db.url, SPENT) == [(3_000_000, None), (3_000_000, 1)]
    connection = await asyncpg.connect(databases.raw(live_db.url))
    await connection.execute(AS_COUNTED_BEFORE)
    await databases.advance(live_db.url, "20261129_0033")
    await connection.execute("update alembic_version set version_num = $1", head())
    await connection.close()
    assert await fetch(live_db.url, SPENT) == [(3_000_000, None), (3_000_000, 1)]
    kinds = await fetch(live_db.url, "select kind from transfers where reverses is not null")
    assert sorted(kinds) == [("dispute",), ("refund",)]


# 0034: looks that have left somebody out


@pytest.fixture
async def as_of_0033() -> AsyncIterator[str]:
    url = await databases.at_revision("20261129_0033")
    yield url
    await databases.discard(url)


async def test_a_look_that_has_left_somebody_out_begins_anew(as_of_0033: str) -> None:
    looks = """
      insert into billing_looks (charging, month, upto, began, after, failed)
      values ('at_once', '2026-10', '2026-10-01', '2026-11-02', uuid7(), true),
        ('at_once', '2026-11', '2026-11-01', '2026-11-02', uuid7(), false)
    """
    await fetch(as_of_0033, looks)
    await upgrade(as_of_0033)
    told = "select month, upto is null, began is null, after is null from billing_looks order by 1"
    assert await fetch(as_of_0033, told) == [
        ("2026-10", False, True, True),
        ("2026-11", False, False, False),
    ]
