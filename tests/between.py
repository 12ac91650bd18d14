"""A program between Bursar and PostgreSQL, by the kind of address that the database has itself."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Self

from sqlalchemy.engine import make_url

from tests.databases import new_folder


class Between:
    """`url` leads to the same database, through whatever `serve` does with each connection."""

    def __init__(self, url: str) -> None:
        self._target = make_url(url)
        self._folder = new_folder()
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Self]:
        if "host" in self._target.query:
            port = self._target.port or 5432
            path = str(self._folder / f".s.PGSQL.{port}")
            server = await asyncio.start_unix_server(self.serve, path)
            Path(path).chmod(0o777)
            here = self._target.update_query_dict({"host": str(self._folder)})
        else:
            server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
            here = self._target.set(host="127.0.0.1", port=server.sockets[0].getsockname()[1])
        self.url = here.render_as_string(hide_password=False)
        async with server:
            yield self

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        port = self._target.port or 5432
        if folder := self._target.query.get("host"):
            return await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.{port}")
        return await asyncio.open_connection(self._target.host, port)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise NotImplementedError


NOTICE = b"A"  # NotificationResponse
WITHOUT_TLS = b"\0\0\0\x08\x04\xd2\x16\x2f"  # SSLRequest, which is answered by one bare letter


class Swallower(Between):
    """As a pooler in transaction mode: everything goes through it but what comes unasked."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.swallows = True
        self.swallowed = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await self.connect()
        asking = asyncio.create_task(self._ask(reader, writer, server))
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await answers.readexactly(5)
                rest = await answers.readexactly(int.from_bytes(head[1:]) - 4)
                if self.swallows and head.startswith(NOTICE):
                    self.swallowed += 1
                else:
                    writer.write(head + rest)
        asking.cancel()
        writer.transport.abort()
        server.transport.abort()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        server: asyncio.StreamWriter,
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(2**16):
                if data == WITHOUT_TLS:
                    writer.write(b"N")
                else:
                    server.write(data)
        server.close()


READY = b"Z\0\0\0\5I"  # the last that PostgreSQL says of a statement, after its commit


class Cutter(Between):
    """Keeps the answer to what has the mark in it until that is committed, and cuts."""

    def __init__(self, url: str, mark: bytes, cuts: int) -> None:
        super().__init__(url)
        self._mark = mark
        self._left = cuts
        self.cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, server = await self.connect()
        asked = asyncio.Event()

        async def forward() -> None:
            with suppress(ConnectionError):
                while data := await reader.read(2**20):
                    if self._mark in data and self._left:
                        asked.set()
                    server.write(data)

        asking = asyncio.create_task(forward())
        kept = b""
        with suppress(ConnectionError):
            while data := await answers.read(2**16):
                if not asked.is_set():
                    writer.write(data)
                    continue
                kept += data  # a long answer begins before its commit
                if kept.endswith(READY):
                    self._left -= 1
                    self.cuts += 1
                    break
        asking.cancel()
        writer.transport.abort()
        server.transport.abort()
