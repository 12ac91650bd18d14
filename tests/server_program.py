"""A small application on the real server, as a process of its own: tests/test_server.py runs it.

    python server_program.py '{"terms": {...}, "max_in_flight": 20, "ids": "/path"}'

It prints its port once it listens, and stops on SIGTERM. "fd" is a listening socket that it shares.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from typing import Any

import psutil
import uvloop
from starlette.types import Message, Receive, Scope, Send

from bursar.connection import Terms
from bursar.core.limits import Limits
from bursar.server import bind, serve

BIG = b"x" * 30_000_000


class Application:
    """Plain ASGI: each path is a kind of request that a server must cope with."""

    def __init__(self, ids: str | None) -> None:
        self.ids = os.open(ids, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if ids else -1
        self.gone = 0
        self.open = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
            return
        _, kind, *rest = scope["path"].split("/")
        body = await getattr(self, kind)(rest, receive)
        await send(start(len(body)))
        await send({"type": "http.response.body", "body": body})

    async def live(self, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})

    async def unique(self, rest: list[str], _: Receive) -> bytes:
        """Notes that it was asked, works for some milliseconds, says its name."""
        os.write(self.ids, rest[0].encode() + b"\n")
        await asyncio.sleep((hash(rest[0]) % 20) / 1000)
        return rest[0].encode()

    async def pause(self, rest: list[str], _: Receive) -> bytes:
        await asyncio.sleep(float(rest[0]))
        return b"rested"

    async def gate(self, _: list[str], __: Receive) -> bytes:
        """Works until a SIGUSR1 comes."""
        await self.open.wait()
        return b"opened"

    async def length(self, _: list[str], receive: Receive) -> bytes:
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return b""
            size += len(message["body"])
            if not message["more_body"]:
                return str(size).encode()

    async def unread(self, _: list[str], __: Receive) -> bytes:
        return b"not interested"

    async def big(self, _: list[str], __: Receive) -> bytes:
        return BIG

    async def departure(self, _: list[str], receive: Receive) -> bytes:
        """Works until its client has left."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self.gone += 1
        return b""

    async def health(self, _: list[str], __: Receive) -> bytes:
        seen = {"rss": psutil.Process().memory_info().rss, "gone": self.gone}
        return json.dumps(seen).encode()


def start(length: int) -> Message:
    headers = [(b"content-length", str(length).encode())]
    return {"type": "http.response.start", "status": 200, "headers": headers}


async def main(options: dict[str, Any]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    shared = "fd" in options
    sock = socket.socket(fileno=options["fd"]) if shared else bind("127.0.0.1", 0)
    inner = Application(options.get("ids"))
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, inner.open.set)
    application = Limits(
        inner,
        max_in_flight=options.get("max_in_flight", 10_000),
        max_body_bytes=options.get("max_body_bytes", 1_000_000),
    )
    await serve(
        application,
        sock=sock,
        should_stop=stop,
        terms=Terms(**options.get("terms", {})),
        shares_socket=shared,
        on_started=lambda: print(sock.getsockname()[1], flush=True),  # noqa: T201
    )


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[1])))
