"""An audit trail for tests: deeds, sealing, checkpoints, and somebody who tampers with it all."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy.engine import make_url

from bursar.audit import checkpoints, service, verification
from bursar.audit.verification import Report
from bursar.auth import sessions
from bursar.auth.actor import Actor, Kind, Origin
from bursar.core.database import WORKER, Claim, Role, connect
from tests.conftest import Live
from tests.databases import as_superuser, new_folder, raw
from tests.world import OLIVIA


class Trail:
    """The audit trail of one live database, and the folder that its checkpoints go to."""

    def __init__(self, live: Live) -> None:
        self.live = live
        self.folder = new_folder() / "checkpoints"
        self.place = self.folder.as_uri()

    async def deed(self, word: str = "one", actor: Actor = OLIVIA, **how: Any) -> UUID:
        origin = Origin(actor, "203.0.113.7", f"request {word}")
        async with self.live.database.transaction(actor.claim, origin=origin) as db:
            how = {"after": {"word": word}, **how}
            return await service.record(db, "tests.done", "thing", word, **how)

    async def deeds(self, number: int) -> list[UUID]:
        return [await self.deed(str(n)) for n in range(1, number + 1)]

    async def acting_as(self, customer: Actor, by: Actor) -> Actor:
        """The customer, as a member of staff has a session to act as them."""
        async with self.live.database.transaction(Claim(Role.DOOR)) as db:
            assert customer.id
            await sessions.open(
                db, Kind.CUSTOMER, customer.id, impersonator=by.id, method="impersonation"
            )
        return replace(customer, impersonator=by.id)

    async def seal(self, **how: Any) -> int:
        """All that is due; what other databases of the server have open is waited for."""
        async with asyncio.timeout(60):
            while True:
                async with self.live.database.transaction(WORKER) as db:
                    sealed = await service.seal(db, **how)
                if sealed or not await self.fetch("select from audit_unsealed limit 1"):
                    return sealed
                await asyncio.sleep(0.01)

    async def seal_all(self) -> None:
        while await self.fetch("select from audit_unsealed limit 1"):
            await self.seal()

    async def checkpoint(self, *, ship: bool = True) -> None:
        """Seals and signs; ships to the folder."""
        await self.seal_all()
        async with self.live.database.transaction(WORKER) as db:
            await service.make_checkpoint(db)
        if ship:
            await self.ship()

    async def ship(self) -> None:
        sql = "select seq, document from audit_checkpoints order by seq"
        for row in await self.fetch(sql):
            checkpoint, _, _ = checkpoints.parse(row["document"])
            await checkpoints.ship(self.place, checkpoint.name, row["document"])

    async def verify(self, place: str | None = "the folder") -> Report:
        connection = await connect(make_url(self.live.url), self.live.settings)
        try:
            keys = self.live.settings.secret_keys
            where = self.place if place == "the folder" else place
            return await verification.verify(connection, keys, where)
        finally:
            await connection.close()

    async def kinds(self, place: str | None = "the folder") -> list[str]:
        return [finding.kind for finding in (await self.verify(place)).findings]

    async def fetch(self, sql: str, *arguments: Any) -> list[asyncpg.Record]:
        """As the owner."""
        connection = await asyncpg.connect(raw(self.live.url))
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def tamper(self, *statements: str) -> None:
        """As a superuser, whom no trigger stops."""
        async with superuser(self.live.url) as connection, connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            for statement in statements:
                await connection.execute(statement)

    def files(self) -> list[Path]:
        return sorted(self.folder.rglob("*.json"))


@asynccontextmanager
async def superuser(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(as_superuser(url))
    try:
        yield connection
    finally:
        await connection.close()
