"""Who may read the figures, and that nobody can keep the others from it."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from urllib.request import urlopen

import pytest
from fastapi import FastAPI
from pydantic import SecretStr

from bursar.core import metrics, problems
from bursar.core.edge import Edge
from tests.core.test_limits import serving
from tests.server_clients import HERE, ask, get

# Beside the API


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("Bearer t0k\u00e9n", 200),
        ("bearer  t0k\u00e9n", 200),
        ("t0k\u00e9n", 401),
        ("Basic t0k\u00e9n", 401),
        ("Bearert0k\u00e9n", 401),
        ("Bearer", 401),
        ("Bearer t0ken", 401),
        ("Bearer Bearer t0k\u00e9n", 401),
    ],
)
async def test_the_token_comes_as_a_bearer_token_and_no_other_way(sent: str, status: int) -> None:
    app = FastAPI()
    app.state.settings = SimpleNamespace(metrics_token=SecretStr("t0k\u00e9n"))
    app.state.route_paths = {}
    app.include_router(metrics.router)
    problems.install(app)
    async with serving(Edge(app)) as port:
        answer = await ask(port, get("/metrics", f"Authorization: {sent}"))
    assert answer.status == status


# On a port of its own


@contextlib.contextmanager
def alone(host: str = "127.0.0.1") -> Iterator[int]:
    server = metrics.serve_alone(host, 0)
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


def scrape(port: int, host: str = "127.0.0.1") -> str:
    with urlopen(f"http://{host}:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def test_a_silent_client_keeps_nobody_out() -> None:
    with alone() as port, socket.create_connection(("127.0.0.1", port)):
        for _ in range(20):
            assert "bursar_requests_in_flight" in scrape(port)


@pytest.mark.parametrize("drip", [b"", b"x"])
def test_nobody_may_scrape_for_long(drip: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SCRAPE_SECONDS", 0.3)
    with alone() as port, socket.create_connection(("127.0.0.1", port)) as one:
        one.settimeout(0.1)
        begun, ended = time.monotonic(), False
        while not ended and time.monotonic() - begun < 8:
            with contextlib.suppress(TimeoutError):
                one.sendall(drip)
                ended = one.recv(100) == b""
        assert ended


def test_more_scrapes_than_there_are_places_are_refused_at_once() -> None:
    with alone() as port, contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            for _ in range(metrics.MAX_SCRAPES)
        ]
        with socket.create_connection(("127.0.0.1", port), timeout=5) as one:
            assert one.recv(100).startswith(b"HTTP/1.0 503 ")
        held[0].close()
        begun = time.monotonic()
        while not readable(port):
            assert time.monotonic() - begun < 5


def readable(port: int) -> bool:
    with contextlib.suppress(OSError):
        return "bursar_" in scrape(port)
    return False


def test_the_port_may_be_one_of_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    with alone("::1") as port:
        assert "bursar_requests_in_flight" in scrape(port, "[::1]")


@pytest.mark.parametrize("host", ["192.0.2.1", "a" * 300])
def test_a_port_that_cannot_be_used_is_one_clear_sentence(host: str) -> None:
    with pytest.raises(metrics.MetricsPort, match=r"cannot be used .*: set BURSAR_METRICS_PORT"):
        metrics.serve_alone(host, 0)


# Several processes


def test_what_a_dead_process_had_at_work_is_forgotten(tmp_path: os.PathLike[str]) -> None:
    child = "from bursar.core import metrics; metrics.requests_in_flight.inc(3)"
    script = (
        "import subprocess, sys\n"
        "from bursar.core import metrics\n"
        "metrics.requests_in_flight.inc(2)\n"
        f"child = subprocess.Popen([sys.executable, '-c', {child!r}])\n"
        "child.wait()\n"
        "def told(): return metrics.render().decode().split('in_flight ')[-1].split()[0]\n"
        "before = told()\n"
        "metrics.forget_process(child.pid)\n"
        "print(before, told())"
    )
    given = {"PYTHONPATH": str(HERE.parent / "src"), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "5.0 2.0\n"
