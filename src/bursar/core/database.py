"""One transaction per request, opened as who asks: the only place that begins and commits.

Two ways to the database, for two kinds of work. `transaction()` is a SQLAlchemy session, for
everything. `fetch_one()`, `fetch_all()` and `write_one()` send one statement in one round trip on a
plain asyncpg connection, for the paths that were measured to be hot. Both carry the same claim into
PostgreSQL, where row-level security reads it.
"""

import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from typing import Annotated, Any, ClassVar, cast

import asyncpg
from fastapi import Depends, Request
from sqlalchemy import Connection, DateTime, MetaData, event
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    ORMExecuteState,
    Session,
    SessionTransaction,
    UOWTransaction,
)

from bursar.core import exact
from bursar.core.database_errors import (
    DRIVER_ERRORS,
    SQL_ERRORS,
    DatabaseUnavailable,
    OutcomeUnknown,
    is_lost,
    leaves_open,
)
from bursar.core.hot_pool import HotPool
from bursar.core.settings import Settings


class Base(DeclarativeBase):
    """What every model stands on: one naming of constraints, times in UTC, JSON as jsonb."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, Any]] = {
        dict[str, Any]: JSONB,
        datetime: DateTime(timezone=True),
    }


class Role(StrEnum):
    """The login roles: each has a pool of its own, none may switch to another."""

    CUSTOMER = "app_user"
    DOOR = "auth_user"  # sign-in: reads secrets of people, and nothing of their business
    STAFF = "staff_user"
    WORKER = "worker_user"
    ANALYTICS = "analytics_user"


@dataclass(frozen=True, slots=True)
class Claim:
    """Who asks, in the words that PostgreSQL knows: a login role and a subject."""

    role: Role
    subject: str = ""


NOBODY = Claim(Role.CUSTOMER)  # sees no row
WORKER = Claim(Role.WORKER)
DOOR = Claim(Role.DOOR)  # nobody yet, who signs in

OWN_CONNECTIONS = 4  # of the worker's: taking, beating, scheduling, and one for endings
SET_CLAIM = "select set_config('request.jwt.claim.sub', {}, true)"


class ClaimedSession(Session):
    """A session that tells PostgreSQL who asks at the start of every transaction."""


@event.listens_for(ClaimedSession, "after_begin")
def tell_who_asks(session: Session, _: SessionTransaction, connection: Connection) -> None:
    connection.exec_driver_sql(SET_CLAIM.format("$1"), (session.info["claim"].subject,))


class UnauditedWrite(RuntimeError):
    """A defect: a person's write would leave no audit row, so it is not committed."""


AUDITED = frozenset(("customer", "staff", "key"))  # of what kind an origin's actor is


@event.listens_for(ClaimedSession, "after_flush")
def note_changes(session: Session, _: UOWTransaction) -> None:
    changed = [row for row in session.dirty if session.is_modified(row)]
    if any(is_audited(type(row)) for row in (*session.new, *session.deleted, *changed)):
        session.info["wrote"] = True


@event.listens_for(ClaimedSession, "do_orm_execute")
def note_statement(state: ORMExecuteState) -> None:
    if state.is_insert or state.is_update or state.is_delete:
        mapper = state.bind_mapper
        if mapper is None or is_audited(mapper.class_):
            state.session.info["wrote"] = True


def is_audited(model: type) -> bool:
    """`unaudited = True` on a model says that its rows are no deed of anybody's."""
    return not getattr(model, "unaudited", False)


def demand_audit(session: AsyncSession) -> None:
    """Whoever writes as a person records it, or says `audit.nothing_changed(db)`.

    This sees what goes through the ORM; SQL functions and text record for themselves.
    """
    info = session.info
    kind = getattr(getattr(info["origin"], "actor", None), "kind", None)
    if kind in AUDITED and info.get("wrote") and not info.get("audited"):
        raise UnauditedWrite("this write leaves no audit row: call audit.record in its service")


class Database:
    """The pools of one process: made at the first use, one of each kind for each login role."""

    def __init__(self, url: str, settings: Settings) -> None:
        self.url = make_url(url)
        self.settings = settings
        self._engines: dict[Role, AsyncEngine] = {}
        self._pools: dict[Role, HotPool] = {}

    @asynccontextmanager
    async def transaction(
        self, claim: Claim, *, origin: object = None
    ) -> AsyncIterator[AsyncSession]:
        """Commits when the block ends well, rolls back when it does not.

        `origin` says for the audit whose doing it is (auth's Origin); core only carries it. The
        settings go along for what is sealed in the transaction (mail, core/mail_outbox.py).
        """
        session = AsyncSession(
            self.engine(claim.role),
            sync_session_class=ClaimedSession,
            info={"claim": claim, "origin": origin, "settings": self.settings},
            expire_on_commit=False,
        )
        async with session:
            yield session
            await session.flush()
            demand_audit(session)
            await commit(session)

    async def fetch_one(self, claim: Claim, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """One row by one statement in one round trip; its arguments start at $2."""
        rows = await self.fetch_all(claim, sql, *arguments)
        return rows[0] if rows else None

    async def fetch_all(self, claim: Claim, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows by one statement in one round trip; its arguments start at $2."""
        async with self._hot(claim.role) as connection:
            return await self._send(connection, claim, sql, arguments)

    async def write_one(self, claim: Claim, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """As fetch_one, by a statement that changes something and commits at once: whoever loses
        it before its answer cannot know whether it has, and is told so."""
        async with self._hot(claim.role) as connection:
            try:
                rows = await self._send(connection, claim, sql, arguments)
            except DRIVER_ERRORS as error:
                if leaves_open(error):
                    raise OutcomeUnknown.now() from error
                raise
        return rows[0] if rows else None

    @asynccontextmanager
    async def _hot(self, role: Role) -> AsyncIterator[Any]:
        pool = self._pool(role)
        connection = await pool.take()
        try:
            yield connection
        except asyncpg.PostgresError:
            raise  # the statement failed; the connection is as good as before
        except OSError:
            pool.discard(connection)
            raise DatabaseUnavailable.now() from None
        except BaseException:
            pool.discard(connection)  # cancelled, or worse: what it is still doing is not known
            raise
        finally:
            pool.put_back(connection)

    async def _send(
        self, connection: Any, claim: Claim, sql: str, arguments: tuple[Any, ...]
    ) -> list[asyncpg.Record]:
        if not self.settings.database_unnamed_statements:
            return list(await connection.fetch(with_claim(sql), claim.subject, *arguments))
        # Through an old PgBouncer each message may reach another server: only a transaction holds.
        async with connection.transaction():
            return list(await connection.fetch(with_claim(sql), claim.subject, *arguments))

    def engine(self, role: Role) -> AsyncEngine:
        if role not in self._engines:
            self._engines[role] = create_engine(
                role_url(self.url, role, self.settings),
                self.settings,
                pool_size=pool_size(role, self.settings),
                max_overflow=0,
                pool_timeout=self.settings.database_pool_timeout_seconds,
            )
        return self._engines[role]

    def _pool(self, role: Role) -> HotPool:
        if role not in self._pools:
            url = role_url(self.url, role, self.settings)
            self._pools[role] = HotPool(
                partial(connect_hot, url, self.settings),
                size=self.settings.database_hot_pool_size,
                timeout_seconds=self.settings.database_pool_timeout_seconds,
            )
        return self._pools[role]

    async def close(self) -> None:
        for engine in self._engines.values():
            await engine.dispose()
        for pool in self._pools.values():
            await pool.close()
        self._engines.clear()
        self._pools.clear()


@dataclass(frozen=True, slots=True)
class Within:
    """Statements of hot paths in a transaction that is open: for what is to be kept beside them."""

    db: AsyncSession

    async def fetch_one(self, claim: Claim, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """As Database.fetch_one."""
        if claim != self.db.info["claim"]:
            raise ValueError(f"this transaction is not one of {claim}")
        connection = await self.db.connection()
        raw: Any = (await connection.get_raw_connection()).driver_connection
        return cast(
            "asyncpg.Record | None",
            await raw.fetchrow(with_claim(sql), claim.subject, *arguments),
        )

    async def write_one(self, claim: Claim, sql: str, *arguments: Any) -> asyncpg.Record | None:
        """Nothing has happened before the commit, which tells by itself where it was lost."""
        return await self.fetch_one(claim, sql, *arguments)


async def commit(session: AsyncSession) -> None:
    try:
        await session.commit()
    except SQL_ERRORS as error:
        if is_lost(error):
            raise OutcomeUnknown.now() from error
        raise


def pool_size(role: Role, settings: Settings) -> int:
    """The worker has a connection for each job that it may run, and some to look after them."""
    if role is Role.WORKER:
        return settings.worker_concurrency + OWN_CONNECTIONS
    return settings.database_pool_size


def with_claim(sql: str) -> str:
    """The statement behind its claim, as one: PostgreSQL runs the outer side of LATERAL first.

    `offset 0` and the reference to claim.sub keep the planner from joining the other way round. If
    it ever did, the claim would be empty at that moment and row-level security would show nothing.
    """
    return (  # nothing of a caller's is in these texts
        f"select answer.* from ({SET_CLAIM.format('$1')} as sub) as claim cross join lateral "  # noqa: S608
        f"(select * from ({sql}) as asked where claim.sub is not null offset 0) as answer"
    )


async def connect_hot(url: URL, settings: Settings) -> asyncpg.Connection:
    connection = await connect(url, settings)
    try:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(
                name, schema="pg_catalog", encoder=exact.dumps, decoder=exact.loads
            )
    except BaseException as error:
        connection.terminate()
        if isinstance(error, OSError):
            raise DatabaseUnavailable.now() from error
        raise
    return connection


def create_engine(url: URL, settings: Settings, **options: Any) -> AsyncEngine:
    """The one way an engine is made. Values of statements never reach a log or an error's text."""
    arguments: dict[str, Any] = {"async_creator_fn": partial(connect_for_engine, url, settings)}
    if settings.database_unnamed_statements:
        arguments |= {"prepared_statement_cache_size": 0, "prepared_statement_name_func": str}
    return create_async_engine(
        "postgresql+asyncpg://",
        json_serializer=exact.dumps,
        json_deserializer=exact.loads,
        hide_parameters=True,
        connect_args=arguments,
        **options,
    )


async def connect_for_engine(url: URL, settings: Settings, **_: Any) -> asyncpg.Connection:
    """SQLAlchemy would hand on the parts that it has parsed; asyncpg reads the whole address."""
    return await connect(url, settings)


async def connect(url: URL, settings: Settings) -> asyncpg.Connection:
    """One connection, or DatabaseUnavailable; only here does an OSError mean the database."""
    try:
        return await asyncpg.connect(plain_dsn(url), **connect_arguments(settings))
    except OSError as error:
        raise DatabaseUnavailable.now() from error


def connect_arguments(settings: Settings) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "timeout": settings.database_pool_timeout_seconds * 2,
        "server_settings": {"application_name": "bursar"},
    }
    if settings.database_unnamed_statements:
        arguments["statement_cache_size"] = 0
    return arguments


def role_url(owner: URL, role: Role, settings: Settings) -> URL:
    """Where and how one login role signs in: same server and database, a password of its own.

    Our own server never asks for it: there the operating system says who is calling.
    """
    return owner.set(username=role.value, password=role_password(role, settings))


def role_password(role: Role, settings: Settings) -> str:
    """Derived from the secret key, so that no second secret has to be handed around."""
    key = settings.secret_keys[-1].encode()
    return hmac.new(key, f"login role {role}".encode(), hashlib.sha256).hexdigest()


def plain_dsn(url: URL) -> str:
    """The address as asyncpg and psql read it."""
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


async def transaction(request: Request) -> AsyncIterator[AsyncSession]:
    """The transaction of this request, as its Actor: committed before the answer leaves."""
    if hasattr(request.state, "db"):  # opened already, to look up an Idempotency-Key
        yield request.state.db
        return
    database: Database = request.app.state.database
    state = request.state
    async with database.transaction(state.claim, origin=state.origin) as session:
        yield session


Db = Annotated[AsyncSession, Depends(transaction, scope="function")]
