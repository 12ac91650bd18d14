"""What tests of sessions share: one that is open, how it stands, time that has gone by."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from bursar.auth import sessions
from bursar.auth.actor import Actor, Kind
from bursar.auth.sessions import BadRefreshToken, Opened
from bursar.core.database import DOOR, Database
from tests import databases
from tests.conftest import Live
from tests.world import CARL

AGENT = "Mozilla/5.0 (X11; Linux x86_64)"


@asynccontextmanager
async def another(live: Live, **given: Any) -> AsyncIterator[Database]:
    """The same database as another process sees it, with settings of its own."""
    database = Database(live.url, databases.test_settings(**given))
    try:
        yield database
    finally:
        await database.close()


async def opened(database: Database, actor: Actor = CARL, **given: Any) -> Opened:
    async with database.transaction(DOOR) as db:
        return await sessions.open(db, actor.kind, id_of(actor), **{"method": "password", **given})


def id_of(actor: Actor) -> UUID:
    assert actor.id
    return actor.id


async def row(database: Database, session_id: UUID) -> dict[str, Any]:
    async with database.transaction(DOOR) as db:
        found = await db.execute(text("select * from sessions where id = :id"), {"id": session_id})
        return dict(found.mappings().one())


async def change(live: Live, session_id: UUID, assignments: str) -> None:
    """As the owner of the tables, past all triggers: time that has gone by."""
    owner = await asyncpg.connect(databases.raw(live.url))
    try:
        await owner.execute("alter table sessions disable trigger user")
        await owner.execute(f"update sessions set {assignments} where id = $1", session_id)
        await owner.execute("alter table sessions enable trigger user")
    finally:
        await owner.close()


async def refused(database: Database, token: str, kind: Kind = Kind.CUSTOMER) -> str:
    with pytest.raises(BadRefreshToken) as caught:
        await sessions.rotate(database, token, kind)
    return caught.value.detail


async def live_ones(database: Database, actor: Actor) -> set[UUID]:
    async with database.transaction(DOOR) as db:
        return {each.id for each in await sessions.of(db, actor.kind, id_of(actor))}
