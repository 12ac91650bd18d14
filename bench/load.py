"""Asks a server over keep-alive connections as fast as it answers, and checks every answer.

    python -m bench.load < job.json      # {"port": …, "asks": […], "clients": …, "seconds": …}

It runs as a process of its own: what it costs is its own time, not that of the server. Why not
wrk? It was measured beside this one: both cost 12 µs of a core for each request (nearly all of it
is the kernel's), so at 5,000 requests a second either one takes 6 % of a core, and both drove the
same server to the same 13,000 a second. So there is one generator, which needs no installation and
reads the answers: a server is never praised for the speed of its errors.
"""

import json
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from itertools import cycle
from typing import Any
from uuid import uuid4

CLOCK = time.perf_counter
SILENCE_SECONDS = 10  # a server that answers nobody for so long is broken
NEW_KEY = "{new key}"
MOST_BYTES = 200_000  # of a request: what a socket takes at once


class WrongAnswer(Exception):
    """The server answered, but not with what was asked for."""


@dataclass(frozen=True)
class Ask:
    """A request, and a piece of the body that proves its answer; no NEW_KEY is sent twice."""

    path: str
    proof: str
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "GET"
    body: str = ""

    def wire(self) -> bytes:
        lines = [f"{self.method} {self.path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*"]
        lines += [f"{name}: {value}" for name, value in self.headers.items()]
        if self.body:
            length = len(with_keys(self.body.encode()))
            lines += ["Content-Type: application/json", f"Content-Length: {length}"]
        return "\r\n".join([*lines, "", self.body]).encode()


def with_keys(wire: bytes) -> bytes:
    """Keys of operations that nobody has used, as clients make them."""
    first, *others = wire.split(NEW_KEY.encode())
    return first + b"".join(str(uuid4()).encode() + each for each in others)


@dataclass(frozen=True)
class Job:
    """What to ask, how hard, and how long: by time, by number, or until the first of both."""

    port: int
    asks: list[Ask]
    clients: int
    seconds: float
    requests: int = sys.maxsize

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Job":
        given = json.loads(text)
        return cls(**{**given, "asks": [Ask(**ask) for ask in given["asks"]]})


@dataclass(frozen=True)
class Outcome:
    """What came of it; times from the last byte of a request to the last byte of its answer."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    max_ms: float

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Client:
    """One connection with one request on it."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=SILENCE_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_BYTES)
        self.socket.setblocking(False)
        self.held = b""
        self.wire, self.proof = b"", b""
        self.asked_at = 0.0

    def ask(self, wire: bytes, proof: bytes) -> None:
        self.wire, self.proof, self.asked_at = wire, proof, CLOCK()
        sent = with_keys(wire)
        if self.socket.send(sent) != len(sent):
            raise WrongAnswer("the server does not read its requests")

    def take(self) -> bool:
        """Reads what has arrived; whether the answer is whole now. Raises unless it is right."""
        data = self.socket.recv(262_144)
        if not data:
            raise WrongAnswer(f"the server hung up after {self.held[:200]!r}")
        data = self.held + data
        end = data.find(b"\r\n\r\n")
        if end < 0 or len(data) < end + 4 + length(data[:end]):
            self.held = data
            return False
        if not data.startswith(b"HTTP/1.1 200 ") or data.find(self.proof, end) < 0:
            asked = self.wire.partition(b"\r\n")[0].decode()
            raise WrongAnswer(f"{asked} was answered {data[:1500].decode(errors='replace')}")
        self.held = b""
        return True


def length(head: bytes) -> int:
    lower = head.lower()
    start = lower.find(b"content-length:")
    if start < 0:
        raise WrongAnswer(f"an answer without a length: {head.decode(errors='replace')}")
    end = lower.find(b"\r\n", start)
    return int(lower[start + 15 : end if end > 0 else None])


def run(job: Job) -> Outcome:
    asks = cycle([(ask.wire(), ask.proof.encode()) for ask in job.asks])
    clients = [Client(job.port) for _ in range(job.clients)]
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client.socket, selectors.EVENT_READ, client)
        try:
            return press(job, clients, asks, selector)
        finally:
            for client in clients:
                client.socket.close()


def press(job: Job, clients: list[Client], asks: Any, selector: selectors.BaseSelector) -> Outcome:
    """Each client asks again as soon as it has its answer."""
    times: list[float] = []
    started = CLOCK()
    for client in clients:
        client.ask(*next(asks))
    while (now := CLOCK()) - started < job.seconds and len(times) < job.requests:
        ready = selector.select(SILENCE_SECONDS)
        if not ready:
            raise WrongAnswer(f"no answer for {SILENCE_SECONDS} s")
        for key, _ in ready:
            client = key.data
            if client.take():
                times.append(CLOCK() - client.asked_at)
                client.ask(*next(asks))
    return outcome(times, now - started)


def outcome(times: list[float], seconds: float) -> Outcome:
    ranked = sorted(times)

    def at(share: float) -> float:
        return round(ranked[int(share * (len(ranked) - 1))] * 1000, 3)

    return Outcome(len(ranked), seconds, at(0.5), at(0.99), at(1))


def main() -> None:
    try:
        answer = run(Job.from_json(sys.stdin.read()))
    except (WrongAnswer, OSError) as error:
        sys.exit(f"bench.load: {error}")
    print(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main()
