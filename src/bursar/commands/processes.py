"""The processes of a server: everything in one, or one parent over several that share a socket."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from bursar.commands.terminal import say
from bursar.core.settings import Settings
from bursar.server import refuse_handshakes

API, JOBS = "api", "jobs"
STOPS = (signal.SIGTERM, signal.SIGINT)
RESTART_SECONDS = (0.5, 1, 2, 5, 10)  # before a child that died is started again
LONG_LIFE_SECONDS = 60  # after which an earlier death is forgotten
GRACE_SECONDS = 5  # beyond its own deadline, before a child is killed
COLLECT_AFTER = 20_000  # objects more than before; hundreds of requests at work have as many


Say = Callable[[], None]  # tells the person who watches that it serves


def run_all_in_one(settings: Settings, url: str, sock: socket.socket, announce: Say) -> None:
    """API and jobs in this process."""
    with metrics_port(settings):
        run_until_signal(lambda stop: together(settings, url, sock, stop, announce))


async def together(
    settings: Settings, url: str, sock: socket.socket, stop: asyncio.Event, announce: Say
) -> None:
    """Both end when one of them does: half a server would look like a whole one."""
    async with asyncio.TaskGroup() as group:
        group.create_task(serve_api(settings, url, sock, stop, announce=announce))
        group.create_task(run_jobs(settings, url, stop))


async def serve_api(
    settings: Settings,
    url: str,
    sock: socket.socket,
    stop: asyncio.Event,
    *,
    shared: bool = False,
    announce: Say | None = None,
) -> None:
    with loading():
        from bursar.app import create_app
        from bursar.server import serve

        app = create_app(settings, url)
    app.state.stopping = stop
    try:
        await serve(
            app,
            sock=sock,
            should_stop=stop,
            terms=terms_of(settings),
            trusted_proxies=settings.trusted_proxies,
            shares_socket=shared,
            on_started=partial(started, announce),
        )
    finally:
        stop.set()


@contextmanager
def loading() -> Iterator[None]:
    """All that is imported stays: to search it for garbage meanwhile is a fifth of its time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def started(announce: Say | None) -> None:
    """What is loaded by now stays. The garbage collector would go through it again and again: an
    eighth of the time of a busy server, and every pause of it is felt by whoever waits."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER, 10, 10)
    if announce:
        announce()


def terms_of(settings: Settings) -> Any:
    from bursar.connection import Terms

    return Terms(
        max_connections=settings.max_connections,
        max_in_flight=settings.max_in_flight,
        head_timeout_seconds=settings.head_timeout_seconds,
        body_timeout_seconds=settings.body_timeout_seconds,
        write_timeout_seconds=settings.write_timeout_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        drain_seconds=settings.drain_seconds,
        shutdown_seconds=settings.shutdown_seconds,
    )


async def run_jobs(
    settings: Settings, url: str, stop: asyncio.Event, *, announce: Say | None = None
) -> None:
    with loading():
        from bursar.core.database import Database
        from bursar.worker import Worker

    database = Database(url, settings)
    if announce:
        announce()
    try:
        await Worker(database, settings).run(stop)
    finally:
        stop.set()
        await database.close()


def run_until_signal(
    work: Callable[[asyncio.Event], Coroutine[Any, Any, None]], *, parent: int | None = None
) -> None:
    """Runs it in a loop of its own; SIGTERM, SIGINT and the end of the parent's pipe stop it."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOPS:
            loop.add_signal_handler(number, stop.set)
        if parent is not None:
            loop.add_reader(parent, orphaned, parent, stop)
        await work(stop)

    before = {number: signal.getsignal(number) for number in STOPS}
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())
    finally:
        for number, handler in before.items():  # the loop would leave none, and a stop is not over
            signal.signal(number, handler)


def orphaned(parent: int, stop: asyncio.Event) -> None:
    asyncio.get_running_loop().remove_reader(parent)
    stop.set()


class metrics_port:  # noqa: N801 - a context, named for what it opens
    """/metrics on a port of its own, where one is set."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server: Any = None

    def __enter__(self) -> None:
        if self.settings.metrics_port is None:
            return
        from bursar.core import metrics

        self.server = metrics.serve_alone(self.settings.metrics_host, self.settings.metrics_port)

    def __exit__(self, *_: object) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


@dataclass
class Child:
    """One process of several."""

    kind: str
    process: subprocess.Popen[bytes]
    started: float = field(default_factory=time.monotonic)
    deaths: int = 0
    start_at: float | None = None


def supervise(
    settings: Settings, url: str, sock: socket.socket, workers: int, announce: Say
) -> None:
    """Starts children, starts again those that die, stops them all at the end."""
    stopping: list[int] = []
    children: list[Child] = []
    before = {
        number: signal.signal(number, lambda number, _: stopping.append(number)) for number in STOPS
    }
    with TemporaryDirectory(prefix="bursar-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            with metrics_port(settings):
                for kind in [API] * workers + [JOBS]:  # each noted before the next one starts
                    children += [Child(kind, start(kind, settings, url, sock))]
                announce()
                while not stopping:
                    for child in children:
                        revive(child, settings, url, sock)
                    time.sleep(0.2)
        finally:
            refuse_handshakes(sock)
            stop_all(children, settings)
            for number, handler in before.items():
                signal.signal(number, handler)


def start(kind: str, settings: Settings, url: str, sock: socket.socket) -> subprocess.Popen[bytes]:
    """The child is told by its environment, which only its own user can read.

    Also where checkpoints go: to a child that is told of a URL our own database looks external.
    """
    from bursar.audit.checkpoints import NOWHERE, place_of

    given = {
        "BURSAR_AUDIT_CHECKPOINTS": place_of(settings) or NOWHERE,
        "BURSAR_DATA": str(settings.data),
        "BURSAR_DATABASE_URL": url,
        "BURSAR_HOST": settings.host,
        "BURSAR_PORT": str(settings.port),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "bursar.commands.child", kind, str(sock.fileno())],
        env={**os.environ, **given},
        stdin=subprocess.PIPE,  # never written to: its end is how a child learns of ours
        pass_fds=[sock.fileno()],
        start_new_session=True,  # Ctrl-C reaches the parent, and the children through it
    )


def revive(child: Child, settings: Settings, url: str, sock: socket.socket) -> None:
    if child.process.poll() is None:
        return
    now = time.monotonic()
    if child.start_at is None:
        if now - child.started > LONG_LIFE_SECONDS:
            child.deaths = 0
        pause = RESTART_SECONDS[min(child.deaths, len(RESTART_SECONDS) - 1)]
        child.deaths += 1
        child.start_at = now + pause
        code = child.process.returncode
        forget(child.process.pid)
        say(f"the {child.kind} process {child.process.pid} ended with {code}; again in {pause} s")
    elif now >= child.start_at:
        child.process, child.started, child.start_at = (
            start(child.kind, settings, url, sock),
            now,
            None,
        )


def forget(pid: int) -> None:
    """What a dead process had at work is not at work any more."""
    from bursar.core import metrics

    metrics.forget_process(pid)


def stop_all(children: list[Child], settings: Settings) -> None:
    for child in children:
        if child.process.poll() is None:
            child.process.terminate()
    deadline = time.monotonic() + settings.drain_seconds + settings.shutdown_seconds + GRACE_SECONDS
    for child in children:
        try:
            child.process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            say(f"the {child.kind} process {child.process.pid} does not stop and is killed")
            child.process.kill()
            child.process.wait()
