"""The way to one client: answers leave in one piece, and hanging up destroys none of them."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import sys
import termios
from typing import Any

MAX_HELD_BYTES = 16_384


class Line:
    """The transport as uvicorn sees it, except that `close` hangs up politely.

    Closing a socket that holds unread bytes makes the kernel send a reset, and that destroys an
    answer still on its way. So: say that we are done, then wait for the client to be done too.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self.wire = transport
        self.written = 0
        self.closing_since: float | None = None
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wire, name)

    def write(self, data: bytes) -> None:
        """Head and body are written apart but leave together: one system call, one packet."""
        self.written += len(data)
        if len(data) > MAX_HELD_BYTES:
            self.flush()
            self.wire.write(data)
            return
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)
        if len(self._held) > 16:
            self.flush()

    def flush(self) -> None:
        if self._held:
            data, self._held = b"".join(self._held), []
            if not self.wire.is_closing():
                self.wire.write(data)

    def is_closing(self) -> bool:
        return self.closing_since is not None or self.wire.is_closing()

    def close(self) -> None:
        if self.is_closing():
            return
        self.closing_since = self._loop.time()
        self.flush()
        try:
            self.wire.resume_reading()  # to see the client's end
            self.wire.write_eof()
        except (OSError, RuntimeError):
            self.wire.abort()

    def cut(self) -> None:
        """Closes by reset, so that the kernel too lets go of what the client never took."""
        with contextlib.suppress(OSError):
            now = struct.pack("ii", 1, 0)
            if (sock := self.wire.get_extra_info("socket")) is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, now)
        self.wire.abort()

    def delivered(self) -> int:
        """Bytes of answers that the client's side has acknowledged."""
        waiting: int = self.wire.get_write_buffer_size()
        if sys.platform == "linux":  # the kernel's buffer drains in steps of hundreds of kilobytes
            descriptor = self.wire.get_extra_info("socket").fileno()
            kernel = fcntl.ioctl(descriptor, termios.TIOCOUTQ, struct.pack("i", 0))
            waiting += struct.unpack("i", kernel)[0]
        return self.written - waiting
