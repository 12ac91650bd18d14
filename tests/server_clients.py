"""Clients that say exactly what they are told to, and the server program they talk to."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HURRIED = {
    "head_timeout_seconds": 0.6,
    "body_timeout_seconds": 0.6,
    "write_timeout_seconds": 0.6,
    "keep_alive_seconds": 0.6,
    "linger_seconds": 5,
}
SOON = 20.0  # seconds by which a deadline of 0.6 s has surely struck, on a busy machine too


@dataclass
class Program:
    """One run of server_program.py."""

    process: asyncio.subprocess.Process
    port: int

    async def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return await asyncio.wait_for(self.process.wait(), 120)

    def open_gate(self) -> None:
        """What waits at /gate is answered."""
        self.process.send_signal(signal.SIGUSR1)

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Who connects meanwhile is met with all that they say in the block: no deadline runs."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.process.send_signal(signal.SIGCONT)

    async def figures(self) -> dict[str, int]:
        found: dict[str, int] = json.loads((await ask(self.port, get("/health"))).body)
        return found


@contextlib.asynccontextmanager
async def running(**options: Any) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(HERE / "server_program.py"),
        json.dumps(options),
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(HERE.parent / "src")},
        pass_fds=[options["fd"]] if "fd" in options else [],
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 150)
        yield Program(process, int(line))
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


class Client:
    """One connection; it says exactly what it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def ask(self, *parts: bytes) -> Answer:
        self.writer.write(b"".join(parts))
        return await self.answer()

    async def answer(self) -> Answer:
        head = (await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 60)).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (each.split(": ") for each in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return Answer(int(first.split()[1]), headers, body)

    async def rest(self, seconds: float = SOON) -> bytes:
        """What comes until the server hangs up; a reset counts as hanging up."""
        found = b""
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(seconds):
                while piece := await self.reader.read(1 << 16):
                    found += piece
        return found


@contextlib.asynccontextmanager
async def client(port: int, *said: bytes) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"".join(said))
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def ask(port: int, *parts: bytes) -> Answer:
    async with client(port) as one:
        return await one.ask(*parts)


def get(path: str, *headers: str) -> bytes:
    lines = [f"GET {path} HTTP/1.1", "Host: test", *headers, "", ""]
    return "\r\n".join(lines).encode()


def post(path: str, *headers: str) -> bytes:
    return get(path, *headers).replace(b"GET", b"POST", 1)


async def eventually(question: Callable[[], Awaitable[bool]], seconds: float = SOON) -> None:
    async with asyncio.timeout(seconds):
        while not await question():
            await asyncio.sleep(0.05)
