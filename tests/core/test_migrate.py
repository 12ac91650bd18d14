"""`bursar migrate` needs little, changes everything or nothing, and says what is in its way."""

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from bursar.core import migrate
from bursar.core.database import Role, role_password
from bursar.core.settings import Settings
from tests import databases
from tests.clusters import Cluster, cluster
from tests.databases import SECRET
from tests.programs import Ended, bursar, serving

OTHER_SECRET = "the secret key of another installation"


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as running:
        yield running


@pytest.fixture
async def fresh(server: Cluster) -> AsyncIterator[str]:
    """An empty database on a server that no Bursar has seen, whose owner may only make roles."""
    name = f"shop_{secrets.token_hex(3)}"
    yield await server.make_database(name)
    await server.drop_login_roles()


@pytest.fixture
async def migrated() -> AsyncIterator[str]:
    url = await databases.clone()
    yield url
    await databases.discard(url)


def run_migrate(url: str, *arguments: str, **environment: str) -> Ended:
    given = {"DATABASE_URL": url, "BURSAR_SECRET_KEY": SECRET, **environment}
    return bursar("migrate", *arguments, **given)


# What it needs and makes


async def test_an_owner_who_may_make_roles_is_enough(server: Cluster, fresh: str) -> None:
    await migrate.migrate(fresh, databases.test_settings(), lambda _: None)
    [rights] = await server.fetch(
        "select bool_or(rolsuper or rolcreatedb or rolcreaterole or rolbypassrls) as any "
        "from pg_roles where rolname = any($1)",
        [role.value for role in Role],
    )
    assert rights["any"] is False
    given = {"DATABASE_URL": fresh, "BURSAR_SECRET_KEY": SECRET}
    with serving("--demo", **given) as running:
        running.ready()
        assert "demo sign-in" not in running.said  # that is for a machine of one's own
        signed_in = {"authorization": f"Bearer {bursar('staff', 'token', **given).stdout.strip()}"}
        assert running.get("/api/v1/admin/settings", **signed_in).status_code == 200
        assert running.stop().code == 0


async def test_login_roles_sign_in_with_derived_passwords(server: Cluster, fresh: str) -> None:
    settings = databases.test_settings()
    await migrate.migrate(fresh, settings, lambda _: None)
    name = fresh.rpartition("/")[2]
    for role in Role:
        password = role_password(role, settings)
        connection = await asyncpg.connect(server.url(name, role, password))
        limits = {
            limit: await connection.fetchval("select current_setting($1)", limit)
            for limit in migrate.time_limits(role, settings)
        }
        await connection.close()
        assert set(limits.values()) & {"0", "0s"} == set()
        assert limits["lock_timeout"] == "1min"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(server.url(name, role, password[:-1]))


async def test_the_passwords_are_kept_as_scram_verifiers(server: Cluster, fresh: str) -> None:
    await migrate.migrate(fresh, databases.test_settings(), lambda _: None)
    kept = await server.fetch("select rolpassword from pg_authid where rolname like '%\\_user'")
    assert len(kept) == len(Role)
    assert all(row["rolpassword"].startswith("SCRAM-SHA-256$4096:") for row in kept)


async def test_roles_of_another_installation_are_left_alone(server: Cluster, fresh: str) -> None:
    others = databases.test_settings(secret_key=OTHER_SECRET)
    await migrate.migrate(fresh, others, lambda _: None)
    name = fresh.rpartition("/")[2]
    refused = run_migrate(fresh)
    assert refused.code == 1
    assert "has another password: either another Bursar uses it" in refused.line
    assert SECRET not in refused.stderr
    serve = bursar("serve", "--port", "0", DATABASE_URL=fresh, BURSAR_SECRET_KEY=SECRET)
    assert (serve.code, serve.line) == (1, refused.line.replace("app_user", "worker_user"))
    await enter(server, name, others)

    assert run_migrate(fresh, "--reset-passwords", "--yes").code == 0
    await enter(server, name, databases.test_settings())
    with pytest.raises(asyncpg.InvalidPasswordError):
        await enter(server, name, others)


async def enter(server: Cluster, database: str, settings: Settings) -> None:
    password = role_password(Role.CUSTOMER, settings)
    await (await asyncpg.connect(server.url(database, Role.CUSTOMER, password))).close()


async def test_changed_time_limits_reach_the_roles(fresh: str) -> None:
    for seconds in (66, 77):
        slow = databases.test_settings(database_statement_timeout_seconds=seconds)
        await migrate.migrate(fresh, slow, lambda _: None)
    connection = await asyncpg.connect(fresh)
    found = await connection.fetchval(
        "select setconfig from pg_db_role_setting join pg_roles on oid = setrole "
        "where rolname = 'app_user'"
    )
    await connection.close()
    assert "statement_timeout=77000" in found


# Again and at once


async def test_a_second_time_changes_nothing(migrated: str) -> None:
    before = await state(migrated)
    ended = run_migrate(migrated)
    assert (ended.code, ended.stderr) == (0, "")
    assert await state(migrated) == before


async def test_several_at_once_take_turns(server: Cluster) -> None:
    settings = databases.test_settings()
    for round_ in range(5):
        url = await server.make_database(f"race_{round_}")
        said: list[str] = []
        states = await asyncio.gather(
            *(migrate.migrate(url, settings, said.append) for _ in range(3))
        )
        assert {found.revision for found in states} == {migrate.head()}
        assert sum(line.startswith("migrating from nothing") for line in said) == 1
        await server.drop_login_roles()


# What is in its way


async def test_a_wrong_password_is_refused(server: Cluster, fresh: str) -> None:
    name = fresh.rpartition("/")[2]
    ended = run_migrate(server.url(name, name, "hunter2"))
    assert ended.code == 4
    assert ended.line == (
        f"PostgreSQL at 127.0.0.1:{server.port} refuses the user {name}: check user and password "
        "in DATABASE_URL."
    )


async def test_a_database_that_is_not_there(server: Cluster) -> None:
    ended = run_migrate(server.url("nothing_here"))
    assert ended.code == 3
    assert "has no database nothing_here: create it, or correct DATABASE_URL." in ended.line


async def test_a_role_that_may_not_make_roles(server: Cluster) -> None:
    url = await server.make_database("powerless", rights="nocreaterole")
    ended = run_migrate(url)
    assert ended.code == 4
    assert ended.line.startswith("The database refused the migration and nothing was changed: ")
    assert "alter role powerless createrole;" in ended.line


async def test_a_role_that_does_not_own_the_database(server: Cluster) -> None:
    await server.fetch("create role guest login createrole password 'guest'")
    await server.fetch("create database host")
    ended = run_migrate(server.url("host", "guest", "guest"))
    assert ended.code == 4
    assert "alter database host owner to guest;" in ended.last_line
    assert await server.fetch("select from pg_roles where rolname like '%\\_user'") == []


async def test_what_somebody_else_made_stops_all_of_it(server: Cluster, fresh: str) -> None:
    connection = await asyncpg.connect(fresh)
    await connection.execute("create table setting_changes (half text)")
    ended = run_migrate(fresh)
    assert ended.code == 1
    assert ended.last_line == (
        "The database refused the migration and nothing was changed: relation "
        '"setting_changes" already exists. Somebody else made it, not a migration of Bursar: use '
        "an empty database, or move that away."
    )
    tables = await connection.fetch("select relname from pg_class where relnamespace = $1", 2200)
    await connection.close()
    assert [row["relname"] for row in tables] == ["setting_changes"]
    assert await server.fetch("select from pg_roles where rolname like '%\\_user'") == []


@pytest.mark.parametrize(
    ("revision", "hint"),
    [
        ("20990101_0001", "was migrated by a newer Bursar (20990101_0001; this one knows "),
        ("20200101_0001", "does not know the state of the database"),
    ],
)
async def test_a_database_of_another_release(migrated: str, revision: str, hint: str) -> None:
    connection = await asyncpg.connect(databases.raw(migrated))
    await connection.execute("update alembic_version set version_num = $1", revision)
    await connection.close()
    before = await state(migrated)
    ended = run_migrate(migrated)
    assert ended.code == 1
    assert hint in ended.last_line
    assert await state(migrated) == before


@pytest.mark.parametrize(
    ("which", "said"),
    [
        ("= 'core/database.sql'", "but its SQL functions are of another release"),
        (f"= '{migrate.TIME_LIMITS}'", "are not those of the settings"),
        ("is not null", "but its SQL functions are of another release"),
    ],
)
async def test_what_differs_is_said(migrated: str, which: str, said: str) -> None:
    connection = await asyncpg.connect(databases.raw(migrated))
    await connection.execute(f"update applied_sql set sha256 = 'other' where name {which}")
    await connection.close()
    ended = bursar("jobs", "list", DATABASE_URL=migrated, BURSAR_SECRET_KEY=SECRET)
    assert ended.code == 1
    assert said in ended.line
    assert ended.line.endswith(": run `bursar migrate`.")


# Another release: this one, with files of its own


@pytest.fixture
def release() -> Iterator[Path]:
    """The folder of a package that is found before the installed one."""
    folder = databases.new_folder()
    shutil.copytree(migrate.PACKAGE, folder / "bursar")
    yield folder / "bursar"
    shutil.rmtree(folder)


def append(file: Path, sql: str) -> None:
    file.write_text(f"{file.read_text()}\n{sql}\n")


async def test_a_changed_sql_file_is_applied_again(migrated: str, release: Path) -> None:
    append(release / "system/database.sql", "create or replace view answer as select 42 as n;")
    before = await state(migrated)
    ended = run_migrate(migrated, PYTHONPATH=str(release.parent))
    assert ended.code == 0
    assert "applying system/database.sql" in ended.stderr
    after = await state(migrated)
    changed = {name for name in after.applied if after.applied[name] != before.applied[name]}
    assert changed == {"system/database.sql"}
    connection = await asyncpg.connect(databases.raw(migrated))
    assert await connection.fetchval("select n from answer") == 42
    await connection.close()


async def test_a_broken_sql_file_takes_the_migrations_with_it(migrated: str, release: Path) -> None:
    (release / "migrations/versions/20990101_0001_more.py").write_text(
        '"""More."""\n'
        "from bursar.migrations.script import run\n"
        'revision = "20990101_0001"\n'
        f'down_revision = "{migrate.head()}"\n'
        'def upgrade(): run("create table more (n int)")\n'
    )
    append(release / "core/database.sql", "create or replace view answer as select 42 as n;")
    append(release / "system/database.sql", "create or replace view broken as selec;")
    before = await state(migrated)
    ended = run_migrate(migrated, PYTHONPATH=str(release.parent))
    assert ended.code == 1
    assert ended.last_line == (
        "The database refused the migration and nothing was changed: "
        'syntax error at or near "selec".'
    )
    assert await state(migrated) == before
    connection = await asyncpg.connect(databases.raw(migrated))
    found = await connection.fetch(
        "select from pg_class where relname = any($1)", ["more", "answer"]
    )
    await connection.close()
    assert found == []


async def state(url: str) -> migrate.State:
    return await migrate.look_at(url, databases.test_settings())
