"""Who asks decides what is seen: under load, under cancellation, by the short way and the long."""

import os
from collections.abc import Awaitable, Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from fastapi import APIRouter
from sqlalchemy import cast, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from bursar.auth.guard import everyone
from bursar.core.database import (
    NOBODY,
    WORKER,
    Claim,
    Database,
    Role,
    plain_dsn,
    role_url,
)
from bursar.core.database_errors import (
    DatabaseBusy,
    DatabaseSlow,
    DatabaseUnavailable,
    OutcomeUnknown,
)
from bursar.core.migrate import migrate
from tests import databases, notes
from tests.accounts.people import rows
from tests.conftest import Live
from tests.notes import ONE, Note
from tests.world import CARL, DORA

NOTES = "/api/v1/notes"
Get = Callable[[str], Awaitable[Any]]


@pytest.fixture
async def mine_and_hers(live_db: Live) -> tuple[UUID, UUID]:
    await notes.install(live_db)
    [mine] = await notes.write(live_db.database, CARL.claim, "carl's")
    [hers] = await notes.write(live_db.database, DORA.claim, "dora's")
    return mine, hers


async def test_a_row_of_somebody_else_is_not_found(
    live_db: Live, mine_and_hers: tuple[UUID, UUID]
) -> None:
    mine, hers = mine_and_hers
    async with live_db.api(CARL) as api:
        for way in ("notes", "hot-notes"):
            assert (await api.get(f"/api/v1/{way}/{mine}")).json()["body"] == "carl's"
            foreign = await api.get(f"/api/v1/{way}/{hers}")
            assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")


async def test_no_claim_sees_nothing(live_db: Live, mine_and_hers: tuple[UUID, UUID]) -> None:
    async with live_db.database.transaction(NOBODY) as db:
        assert list(await db.scalars(select(Note))) == []
    assert await live_db.database.fetch_one(NOBODY, ONE, mine_and_hers[0]) is None


async def test_the_claim_ends_with_its_transaction(
    live_db: Live, mine_and_hers: tuple[UUID, UUID]
) -> None:
    """The same connection, next user: the setting is empty again, and empty sees nothing."""
    one_connection = live_db.settings.model_copy(
        update={"database_pool_size": 1, "database_hot_pool_size": 1}
    )
    database = Database(live_db.url, one_connection)
    try:
        for claim, seen in ((CARL.claim, ["carl's"]), (NOBODY, []), (DORA.claim, ["dora's"])):
            async with database.transaction(claim) as db:
                assert [note.body for note in await db.scalars(select(Note))] == seen
            rows = await database.fetch_all(claim, "select body from notes")
            assert [row["body"] for row in rows] == seen
    finally:
        await database.close()


async def test_a_session_that_goes_on_after_a_commit_asks_again(live_db: Live) -> None:
    await notes.install(live_db)
    await notes.write(live_db.database, CARL.claim, "carl's")
    async with live_db.database.transaction(CARL.claim) as db:
        await db.scalars(select(Note))
        await db.rollback()
        assert [note.body for note in await db.scalars(select(Note))] == ["carl's"]


@pytest.mark.parametrize(
    "statement",
    [
        "set role staff_user",
        "set session authorization staff_user",
        "alter table notes disable row level security",
        "alter role app_user bypassrls",
        "create table mine (id int)",
        "create temporary table notes (id int)",
        "create role friend",
        "select * from setting_changes",
        "select pg_read_file('/etc/passwd')",
        "copy notes to program 'id'",
        "create extension dblink",
    ],
)
async def test_a_customer_with_sql_in_hand_gets_nowhere(live_db: Live, statement: str) -> None:
    await notes.install(live_db)
    url = role_url(make_url(live_db.url), Role.CUSTOMER, live_db.settings)
    connection = await asyncpg.connect(plain_dsn(url))
    try:
        with pytest.raises(asyncpg.PostgresError):
            await connection.execute(statement)
    finally:
        await connection.close()


async def test_every_table_is_locked_and_every_function_pinned(live_db: Live) -> None:
    owner = await asyncpg.connect(databases.raw(live_db.url))
    try:
        open_tables = await owner.fetch(
            """select relname from pg_class where relnamespace = 'public'::regnamespace
               and relkind in ('r', 'p') and not (relrowsecurity and relforcerowsecurity)"""
        )
        unpinned = await owner.fetch(
            """select proname from pg_proc where pronamespace = 'public'::regnamespace
               and prosecdef and not coalesce(proconfig, '{}') @>
                   array['search_path=pg_catalog, public, pg_temp']"""
        )
        careless = await owner.fetch(
            """select relname from pg_class where relnamespace = 'public'::regnamespace
               and relkind = 'v'
               and not coalesce(reloptions::text, '') like '%security_invoker=true%'"""
        )
        roles = await owner.fetch(
            """select rolname from pg_roles where rolname = any($1)
               and (rolsuper or rolbypassrls or rolcreaterole or rolcreatedb)""",
            list(Role),
        )
        owned = await owner.fetch(
            "select tablename from pg_tables where tableowner = any($1)", list(Role)
        )
    finally:
        await owner.close()
    assert {row["relname"] for row in open_tables} == {"alembic_version", "applied_sql"}
    assert (unpinned, careless, roles, owned) == ([], [], [], [])


async def test_a_policy_reads_the_claim_once_and_is_there_for_what_is_granted_alone(
    live_db: Live,
) -> None:
    """The claim in a sub-select of its own: else PostgreSQL would read it again for each row."""
    owner = await asyncpg.connect(databases.raw(live_db.url))
    try:
        at_each_row = await owner.fetch(
            r"""select tablename, policyname from pg_policies
               where regexp_replace(concat(qual, with_check),
                 '\( SELECT (COALESCE\()?NULLIF\(current_setting', '', 'g') like '%current_s%'"""
        )
        wider = await owner.fetch(
            """select tablename, policyname, command from pg_policies
               cross join unnest(roles) as role
               join unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) as command
                 on cmd in ('ALL', command)
               where permissive = 'PERMISSIVE' and role = any($1)
                 and not case command
                   when 'DELETE' then has_table_privilege(role, tablename::regclass, command)
                   else has_any_column_privilege(role, tablename::regclass, command) end""",
            list(Role),
        )
        unnamed = await owner.fetch(  # what narrows whom: without a role it would bind the owner
            """select tablename, policyname from pg_policies
               where permissive = 'RESTRICTIVE' and 'public' = any(roles)"""
        )
    finally:
        await owner.close()
    assert (at_each_row, wider, unnamed) == ([], [], [])


async def test_an_empty_pool_answers_503_in_time(live_db: Live) -> None:
    await notes.install(live_db)
    small = live_db.settings.model_copy(
        update={"database_pool_size": 1, "database_pool_timeout_seconds": 1}
    )
    live_db.app.state.database = Database(live_db.url, small)
    try:
        async with (
            live_db.api(CARL) as api,
            live_db.database.transaction(CARL.claim) as slow,
        ):
            await slow.execute(text("select 1"))
            busy = await api.get(NOTES)
        assert (busy.status_code, busy.json()["code"]) == (503, "database.busy")
        assert busy.headers["retry-after"] == "1"
    finally:
        await live_db.app.state.database.close()


async def test_an_empty_hot_pool_answers_in_time_too(live_db: Live) -> None:
    small = live_db.settings.model_copy(
        update={"database_hot_pool_size": 1, "database_pool_timeout_seconds": 1}
    )
    database = Database(live_db.url, small)
    try:
        pool = database._pool(WORKER.role)
        slow = await pool.take()
        with pytest.raises(DatabaseBusy):
            await database.fetch_all(WORKER, "select 1 as one")
        pool.put_back(slow)
    finally:
        await database.close()


async def test_a_connection_lost_while_it_is_made_is_told_and_closed(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lose(connection: Any, *_: Any, **__: Any) -> None:
        lost.append(connection)
        raise ConnectionResetError

    lost: list[Any] = []
    monkeypatch.setattr(asyncpg.Connection, "set_type_codec", lose)
    with pytest.raises(DatabaseUnavailable):
        await live_db.database.fetch_all(WORKER, "select 1 as one")
    assert lost[0].is_closed()


async def test_time_limits_belong_to_the_roles(live_db: Live) -> None:
    quick = live_db.settings.model_copy(update={"database_statement_timeout_seconds": 0.2})
    await migrate(live_db.url, quick, lambda _: None)
    await notes.install(live_db)
    async with live_db.api(CARL) as api, notes.held(live_db.url):
        answer = await api.post(NOTES, json={"body": "x"})
    assert (answer.status_code, answer.json()["code"]) == (503, DatabaseSlow.code)
    assert await rows(live_db, "select from notes") == []


async def test_an_error_after_the_write_leaves_nothing(live_db: Live) -> None:
    await notes.install(live_db)

    async def write_and_fail() -> None:
        async with live_db.database.transaction(CARL.claim) as db:
            db.add(Note(body="never"))
            await db.flush()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await write_and_fail()
    async with live_db.database.transaction(CARL.claim) as db:
        assert list(await db.scalars(select(Note))) == []


async def test_an_error_at_the_commit_is_an_answer_and_no_effect(live_db: Live) -> None:
    """The commit comes before the answer: nobody is told 201 for what was not kept."""
    await notes.install(live_db)
    owner = await asyncpg.connect(databases.raw(live_db.url))
    await owner.execute(
        """create function refuse_late() returns trigger language plpgsql as $$
           begin raise exception 'too late' using errcode = 'serialization_failure'; end $$;
           create constraint trigger late after insert on notes deferrable initially deferred
           for each row when (new.body = 'late') execute function refuse_late()"""
    )
    await owner.close()
    async with live_db.api(CARL, **{"Idempotency-Key": "late"}) as api:
        refused = await api.post(NOTES, json={"body": "late"})
        again = await api.post(NOTES, json={"body": "late"})
        listed = await api.get(NOTES)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "idempotent-replayed" not in again.headers
    assert listed.json()["total"] == 0


async def test_the_short_way_has_the_same_answer_as_the_long_one(
    live_db: Live, mine_and_hers: tuple[UUID, UUID]
) -> None:
    async with live_db.api(CARL) as api:
        short = await api.get(f"/api/v1/hot-notes/{mine_and_hers[0]}")
        live_db.app.state.ways.collect(type(live_db.app)())  # no short ways any more
        long = await api.get(f"/api/v1/hot-notes/{mine_and_hers[0]}")
    assert short.json() == long.json()
    for name in ("etag", "content-type", "cache-control", "x-content-type-options"):
        assert short.headers[name] == long.headers[name]


async def test_the_hot_claim_is_told_before_the_rows_are_read(live_db: Live) -> None:
    """Whatever the plan: a join, an aggregate, a function, and a generic plan after many calls."""
    await notes.install(live_db)
    await notes.write(live_db.database, CARL.claim, "a", "b")
    await notes.write(live_db.database, DORA.claim, "c")
    statements = (
        "select count(*) from notes",
        "select count(*) from notes a join notes b using (owner)",
        "select (select count(*) from notes) as n",
        "with all_notes as (select * from notes) select count(*) from all_notes",
    )
    for _ in range(8):
        for statement, carl, dora in zip(statements, (2, 4, 2, 2), (1, 1, 1, 1), strict=True):
            for claim, expected in ((CARL.claim, carl), (DORA.claim, dora), (NOBODY, 0)):
                row = await live_db.database.fetch_one(claim, statement)
                assert row is not None
                assert row[0] == expected, (statement, claim)


async def test_a_subject_is_a_value_and_never_sql(live_db: Live) -> None:
    nasty = Claim(Role.CUSTOMER, "', true); drop table notes; --")
    async with live_db.database.transaction(nasty) as db:
        told = await db.scalar(text("select current_setting('request.jwt.claim.sub')"))
    assert told == nasty.subject


@pytest.mark.parametrize("option", ["sslmode=prefer", "sslmode=disable", "application_name=mine"])
async def test_an_address_may_carry_libpqs_options(live_db: Live, option: str) -> None:
    joiner = "&" if "?" in live_db.url else "?"
    database = Database(f"{live_db.url}{joiner}{option}", live_db.settings)
    try:
        async with database.transaction(CARL.claim) as db:
            assert await db.scalar(text("select current_user")) == Role.CUSTOMER
        assert await database.fetch_one(CARL.claim, "select 1 as one") is not None
    finally:
        await database.close()


@pytest.mark.parametrize("error", [FileNotFoundError("x"), TimeoutError(), ConnectionError()])
async def test_an_error_from_elsewhere_is_not_the_databases(live_db: Live, error: OSError) -> None:
    """Else the answer would say that nothing was done, and invite to do it again."""
    router = APIRouter(dependencies=[everyone])

    @router.get("/elsewhere")
    async def elsewhere() -> None:
        raise error

    live_db.app.include_router(router)
    async with live_db.api() as api:
        answer = await api.get("/elsewhere")
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")


FULL_AT_COMMIT = (
    """create function refuse() returns trigger language plpgsql as
    $$ begin raise exception 'no space left on device' using errcode = 'disk_full'; end $$""",
    """create constraint trigger refuse after insert on notes deferrable initially deferred
    for each row execute function refuse()""",
)


async def test_a_database_lost_at_the_commit_leaves_the_outcome_open(live_db: Live) -> None:
    await notes.install(live_db)
    owner = await asyncpg.connect(os.environ[databases.ADMIN])

    async def write_and_lose() -> None:
        async with live_db.database.transaction(CARL.claim) as db:
            db.add(Note(body="perhaps"))
            await db.flush()
            backend = await db.scalar(text("select pg_backend_pid()"))
            await owner.execute("select pg_terminate_backend($1)", backend)

    try:
        with pytest.raises(OutcomeUnknown):
            await write_and_lose()
    finally:
        await owner.close()


async def test_what_is_refused_at_the_commit_has_not_happened(live_db: Live) -> None:
    """By an answer: the server has no room for it, and nothing is left open."""
    await notes.install(live_db)
    for statement in FULL_AT_COMMIT:
        await rows(live_db, statement)
    async with live_db.api(CARL) as api:
        answer = await api.post(NOTES, json={"body": "never"})
    assert (answer.status_code, answer.json()["code"]) == (503, "database.unavailable")
    assert await rows(live_db, "select from notes") == []


async def test_values_of_statements_are_in_no_error(live_db: Live) -> None:
    with pytest.raises(DBAPIError) as raised:
        async with live_db.database.transaction(CARL.claim) as db:
            await db.execute(text("select cast(:v as int) / 0"), {"v": 47114711})
    assert "47114711" not in str(raised.value)


async def test_json_keeps_every_digit(live_db: Live) -> None:
    amount = Decimal("12345678901234567890.123456789")
    async with live_db.database.transaction(CARL.claim) as db:
        query = select(cast({"amount": amount, "whole": 2**62}, JSONB))
        assert await db.scalar(query) == {"amount": amount, "whole": 2**62}
    row = await live_db.database.fetch_one(CARL.claim, "select $2::jsonb as found", [amount])
    assert row is not None
    assert row["found"] == [amount]
