"""Brings a database to what this release needs, whole or not at all, and tells how far it is."""

import base64
import hashlib
import hmac
import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import NullPool

from bursar.core.database import (
    Role,
    create_engine,
    plain_dsn,
    role_password,
    role_url,
)
from bursar.core.database_errors import DRIVER_ERRORS, DatabaseUnavailable
from bursar.core.errors import BursarError
from bursar.core.settings import Settings

PACKAGE = Path(str(resources.files("bursar")))
SQL_FILES = (  # lower domains first
    "core/database.sql",
    "core/jobs.sql",
    "core/events.sql",
    "core/mail.sql",
    "auth/sessions.sql",
    "auth/throttle.sql",
    "auth/one_time.sql",
    "audit/database.sql",
    "system/database.sql",
    "accounts/database.sql",
    "webhooks/database.sql",
    "wallets/guards.sql",
    "wallets/posting.sql",
    "wallets/plain.sql",
    "wallets/in_turn.sql",
    "wallets/moments.sql",
    "wallets/database.sql",
    "wallets/staff.sql",
    "rewards/database.sql",
    "payments/database.sql",
    "booking/times.sql",
    "booking/guards.sql",
    "booking/trainings.sql",
    "booking/database.sql",
    "keys/database.sql",
    "metering/database.sql",
    "metering/ingest.sql",
    "metering/verify.sql",
    "metering/settle.sql",
    "payments/around.sql",
    "billing/database.sql",
    "billing/invoices.sql",
)
TIME_LIMITS = "time limits of the login roles"
LOCK = "select pg_advisory_xact_lock(hashtextextended('bursar migrate', 0))"
OLDEST = 150_000

Say = Callable[[str], None]


class MigrationRefused(BursarError, status=503, code="database.migration_refused"):
    """The database cannot be brought to what this release needs; the sentence says why."""


class NotMigrated(BursarError, status=503, code="database.not_migrated"):
    """The database is not at the state that this release needs; run `bursar migrate`."""


@dataclass(frozen=True)
class State:
    """Where a database stands."""

    revision: str | None
    applied: dict[str, str]

    def is_current(self, settings: Settings) -> bool:
        return self.revision == head() and self.applied == wanted(settings)

    def check(self, settings: Settings) -> None:
        """Raises the sentence for an operator unless the database is what this release needs."""
        if self.revision and self.revision > head():
            raise NotMigrated(
                f"The database was migrated by a newer Bursar ({self.revision}; this one knows "
                f"{head()}): install that release, or restore a backup from before."
            )
        if not self.is_current(settings):
            raise NotMigrated(f"{self.difference(settings)}: run `bursar migrate`.")

    def difference(self, settings: Settings) -> str:
        if self.revision != head():
            return f"The database is at {self.revision or 'nothing'}, this Bursar needs {head()}"
        if self.applied == {**wanted(settings), TIME_LIMITS: self.applied.get(TIME_LIMITS)}:
            return f"The {TIME_LIMITS} in the database are not those of the settings"
        return f"The database is at {head()}, but its SQL functions are of another release"


def head() -> str:
    """The newest revision: the chain is linear and dated, so the last name is the last link."""
    names = (PACKAGE / "migrations" / "versions").glob("[0-9]*.py")
    return "_".join(max(path.stem for path in names).split("_")[:2])


def wanted(settings: Settings) -> dict[str, str]:
    """What `migrate` applies besides the tables, by hash: changed means: to be applied again."""
    texts = {name: (PACKAGE / name).read_bytes() for name in SQL_FILES}
    limits = {role.value: time_limits(role, settings) for role in Role}
    texts[TIME_LIMITS] = repr(sorted(limits.items())).encode()
    return {name: hashlib.sha256(text).hexdigest() for name, text in texts.items()}


async def state(connection: AsyncConnection) -> State:
    try:
        async with connection.begin_nested():
            revision = await connection.scalar(text("select version_num from alembic_version"))
            rows = await connection.execute(text("select name, sha256 from applied_sql"))
            return State(revision, {name: sha256 for name, sha256 in rows})  # noqa: C416
    except ProgrammingError as error:
        if sqlstate(error) != "42P01":
            raise
        return State(None, {})  # no such table: nothing was ever migrated here


def sqlstate(error: BaseException) -> str:
    """PostgreSQL's code for it, whether SQLAlchemy has wrapped it or not; empty for others."""
    return getattr(getattr(error, "orig", error), "sqlstate", None) or ""


def cause(error: BaseException) -> str:
    """The database's own first line: an operator needs it, and it goes to their terminal only."""
    return str(getattr(error, "orig", error)).partition("\n")[0].split(">: ")[-1]


async def check(url: str, settings: Settings) -> State:
    """Raises the sentence for an operator unless a server could run on this database as it is."""
    found = await look_at(url, settings)
    found.check(settings)
    await sign_in(make_url(url), Role.WORKER, settings)
    return found


async def look_at(owner_url: str, settings: Settings) -> State:
    """Where the database stands, as its owner sees it."""
    engine = owner_engine(owner_url, settings)
    try:
        async with engine.connect() as connection:
            return await state(connection)
    except DatabaseUnavailable as error:
        raise unreachable(make_url(owner_url), error.__cause__ or error) from None
    except (*DRIVER_ERRORS, ValueError) as error:
        raise unreachable(make_url(owner_url), error) from None
    finally:
        await engine.dispose()


def owner_engine(owner_url: str, settings: Settings) -> AsyncEngine:
    return create_engine(make_url(owner_url), settings, poolclass=NullPool)


class CannotConnect(BursarError, status=503, code="database.cannot_connect"):
    """PostgreSQL does not answer a command; the sentence says where it was looked for."""


class SignInRefused(BursarError, status=503, code="database.sign_in_refused", exit_code=4):
    """PostgreSQL does not let in the user of DATABASE_URL, or does not take the password."""


class NoSuchDatabase(BursarError, status=503, code="database.not_there", exit_code=3):
    """PostgreSQL has no database of the name in DATABASE_URL."""


def unreachable(url: URL, error: BaseException) -> BursarError:
    """For an operator: where we knocked and what was answered, never the password."""
    place = f"{url.host or url.query.get('host')}:{url.port or 5432}"
    state = sqlstate(error)
    if state.startswith("28") or state == "42501":
        return SignInRefused(
            f"PostgreSQL at {place} refuses the user {url.username}: check user and password in "
            "DATABASE_URL."
        )
    if state == "3D000":
        return NoSuchDatabase(
            f"PostgreSQL at {place} has no database {url.database}: create it, or correct "
            "DATABASE_URL."
        )
    if state:
        return CannotConnect(f"PostgreSQL at {place} does not let us work: {cause(error)}.")
    said = "" if getattr(error, "errno", None) else cause(error)  # TLS refused, or a wrong option
    return CannotConnect(
        f"PostgreSQL at {place} does not answer{f' ({said})' if said else ''}: check that it runs "
        "and that DATABASE_URL is right."
    )


async def migrate(
    owner_url: str, settings: Settings, say: Say, *, reset_passwords: bool = False
) -> State:
    """Roles, then tables, then what can be replaced: one transaction, one migrator at a time."""
    await look_at(owner_url, settings)  # says it well if there is no way in
    url, engine = make_url(owner_url), owner_engine(owner_url, settings)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("set local lock_timeout = '30s'"))
            await connection.execute(text(LOCK))
            before = await state(connection)
            if before.revision and before.revision > head():
                before.check(settings)
            await make_roles(connection, url, settings, reset=reset_passwords)
            if before.revision != head():
                say(f"migrating from {before.revision or 'nothing'} to {head()}")
                await connection.run_sync(upgrade)
            await apply_sql(connection, before.applied, settings, say)
            return await state(connection)
    except DRIVER_ERRORS as error:
        raise refused(url, error) from error
    finally:
        await engine.dispose()


class MissingRight(BursarError, status=503, code="database.missing_right", exit_code=4):
    """The user of DATABASE_URL may not do what a migration does; the sentence gives the remedy."""


ALREADY_THERE = {"42P07", "42710", "42723", "42701", "42P06"}  # table, object, function, column


def refused(url: URL, error: Exception) -> BursarError:
    """Says what the database said, that nothing was changed, and what to do."""
    said = f"The database refused the migration and nothing was changed: {cause(error)}."
    state = sqlstate(error)
    if state == "42501":
        return MissingRight(
            f"{said} {url.username} must own the database and be allowed to create roles: "
            f"alter database {url.database} owner to {url.username}; "
            f"alter role {url.username} createrole;"
        )
    if state in ALREADY_THERE:
        return MigrationRefused(
            f"{said} Somebody else made it, not a migration of Bursar: use an empty database, or "
            "move that away."
        )
    return MigrationRefused(said)


async def make_roles(
    connection: AsyncConnection, url: URL, settings: Settings, *, reset: bool
) -> None:
    """The login roles: without any power of their own, each with its time limits."""
    version = int((await connection.scalar(text("show server_version_num"))) or 0)
    if version < OLDEST:
        raise MigrationRefused(f"Bursar needs PostgreSQL 15 or newer; this is {version // 10000}.")
    known = set(await connection.scalars(text("select rolname from pg_roles")))
    for role in Role:
        if role not in known:
            await connection.execute(text(f"create role {role} login nocreatedb nocreaterole"))
        await give_password(connection, url, role, settings, new=reset or role not in known)
    database = await connection.scalar(text("select quote_ident(current_database())"))
    for statement in rights_and_limits(database, settings):
        await connection.execute(text(statement))


def rights_and_limits(database: str, settings: Settings) -> list[str]:
    """What belongs to a database and not to its tables, so that a copy of it has to be told again.

    Nobody makes temporary tables: one could stand in the way of a real table for a function that
    runs with the rights of its owner.
    """
    statements = [f"revoke temporary on database {database} from public"]
    for role in Role:
        # A role may change defaults of its own; whatever it has set is forgotten here.
        statements.append(f"alter role {role} reset all")
        statements.append(f"alter role {role} in database {database} reset all")
        statements.append(f"grant connect on database {database} to {role}")
        statements.append(f"grant usage on schema public to {role}")
        for name, seconds in time_limits(role, settings).items():
            limit = f"alter role {role} in database {database} set {name}"
            statements.append(f"{limit} = '{seconds * 1000:.0f}'")
    return statements


async def give_password(
    connection: AsyncConnection, url: URL, role: Role, settings: Settings, *, new: bool
) -> None:
    """Login roles belong to the whole server: one with another password is somebody else's."""
    if new:
        verifier = scram(role_password(role, settings))
        await connection.exec_driver_sql(f"alter role {role} password '{verifier}'")
        return
    await sign_in(url, role, settings)


async def sign_in(url: URL, role: Role, settings: Settings) -> None:
    try:
        dsn = plain_dsn(role_url(url, role, settings))
        await (await asyncpg.connect(dsn, timeout=10)).close()
    except asyncpg.InvalidPasswordError:
        raise MigrationRefused(
            f"The role {role} on this server has another password: either another Bursar uses it "
            "(give this one a server of its own), or the secret key has changed (then run "
            "`bursar migrate --reset-passwords`)."
        ) from None
    except asyncpg.InsufficientPrivilegeError:
        pass  # it may not enter this database yet, but the password was right
    except DRIVER_ERRORS as error:
        raise unreachable(role_url(url, role, settings), error) from None


def time_limits(role: Role, settings: Settings) -> dict[str, float]:
    slower = {Role.WORKER: 20, Role.ANALYTICS: 4}.get(role, 1)  # jobs and reports may take longer
    return {
        "statement_timeout": settings.database_statement_timeout_seconds * slower,
        "lock_timeout": settings.database_lock_timeout_seconds,
        "idle_in_transaction_session_timeout": settings.database_idle_timeout_seconds,
    }


def scram(password: str) -> str:
    """What PostgreSQL stores for a password, made here: the password itself never travels."""
    salt, rounds = os.urandom(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    client = hmac.digest(salted, b"Client Key", "sha256")
    stored = hashlib.sha256(client).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    encoded = [base64.b64encode(part).decode() for part in (salt, stored, server)]
    return f"SCRAM-SHA-256${rounds}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def upgrade(connection: Any, revision: str = "head") -> None:
    from alembic import command  # a tenth of a second that only a migration has to spend
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(PACKAGE / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError as error:
        raise MigrationRefused(
            f"This Bursar does not know the state of the database ({error}) and changed nothing: "
            "install the release that made it, or restore a backup."
        ) from error


async def apply_sql(
    connection: AsyncConnection, applied: dict[str, str], settings: Settings, say: Say
) -> None:
    """Runs every file again once one has changed: a later file may build on an earlier one."""
    hashes = wanted(settings)
    if applied == hashes:
        return
    await connection.execute(
        text("create table if not exists applied_sql (name text primary key, sha256 text not null)")
    )
    await connection.execute(text("grant select on applied_sql, alembic_version to public"))
    await connection.execute(text("delete from applied_sql"))
    raw: Any = (await connection.get_raw_connection()).driver_connection
    for name, sha256 in hashes.items():
        if name in SQL_FILES:
            say(f"applying {name}")
            await raw.execute((PACKAGE / name).read_text())
        await connection.execute(
            text("insert into applied_sql values (:name, :sha256)"),
            {"name": name, "sha256": sha256},
        )
