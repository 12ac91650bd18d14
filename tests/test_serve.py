"""`bursar serve` from its first start to its last line, through everything that can befall it."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import psutil
import pytest

from bursar.keys import secret
from tests.programs import (
    SAID,
    USERS,
    Run,
    Serving,
    User,
    bursar,
    free_port,
    new_folder,
    postgres_in,
    postmaster,
    remove,
    serving,
    until,
)

SETTINGS = "/api/v1/admin/settings"
ANYWHERE = Path("/")


@pytest.fixture
def empty() -> Iterator[Path]:
    """A place for data, where nothing may be at work in the end."""
    folder = new_folder()
    yield folder / "data"
    left = postgres_in(folder)
    remove(folder)
    assert not left, "PostgreSQL was left behind"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    folder = new_folder()
    assert bursar("demo", "--data", folder / "data").code == 0
    yield folder / "data"
    remove(folder)


@pytest.fixture
def home(empty: Path, made: Path) -> Path:
    """A data folder with a finished, stopped database: a copy of one that was made once."""
    subprocess.run(["cp", "-a", made, empty], check=True)
    return empty


# Start and stop


@pytest.mark.parametrize("user", USERS, ids=lambda user: "root" if user.uid == 0 else "ordinary")
def test_a_first_start_serves_and_a_stop_leaves_nothing(user: User) -> None:
    base = new_folder(user)
    data = base / "data"
    try:
        with serving("--demo", "--data", data, user=user, folder=ANYWHERE) as server:
            for name in ("olivia", "sue"):
                assert server.get(SETTINGS, **server.sign_in(name)).status_code == 200
            assert server.get(SETTINGS).status_code == 401
            for path in ("/docs", "/ready", "/health"):
                assert server.status(path) == 200
            assert postgres_in(data)
            ended = server.stop()
        assert (ended.code, ended.stdout) == (0, "")
        assert ended.stderr.endswith("stopped\n")
        assert postgres_in(data) == []
    finally:
        remove(base)


def test_life_beside_a_server(home: Path) -> None:
    """Commands use its database; another server on its folder says so and ends at once."""
    with serving("--data", home) as server:
        began = time.monotonic()
        second = bursar("serve", "--data", home, "--port", 0)
        assert second.code == 5
        assert f"is already in use by process {server.process.pid}" in second.last_line
        assert time.monotonic() - began < 30
        for command in (["migrate"], ["demo"], ["doctor"], ["jobs", "list"]):
            assert bursar(*command, "--data", home).code == 0
        assert bursar("psql", "--data", home, "--", "-Atc", "select 1").stdout == "1\n"
        token = bursar("staff", "token", "--role", "support", "--data", home).stdout.strip()
        assert server.get(SETTINGS, authorization=f"Bearer {token}").status_code == 200
        assert server.stop(signal.SIGINT).code == 0


def test_a_stop_while_it_starts_leaves_nothing_at_work(empty: Path) -> None:
    run = Run("serve", "--data", empty, "--port", 0)
    run.until_said("making a new database")
    ended = run.stop()
    run.discard()
    assert ended.code == 128 + signal.SIGTERM
    assert postgres_in(empty) == []
    assert not (empty / "postgres").exists()


def test_a_metrics_port_in_use_leaves_nothing(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        given = {"BURSAR_METRICS_PORT": str(port)}
        ended = bursar("serve", "--data", home, "--port", 0, **given)
    assert ended.code == 5
    assert ended.last_line.startswith(f"Port {port} for metrics cannot be used")


# What can befall it


def test_a_database_that_dies_is_missed_for_a_moment(home: Path) -> None:
    with serving("--data", home, "--demo") as server:
        asked = asked_by(server, server.sign_in("olivia"))
        os.kill(postmaster(home), signal.SIGKILL)
        seen: list[httpx2.Response] = []
        until(lambda: all_right(server, seen, asked) and len(seen) > 9, "the answers again")
        missed = [answer for answer in seen if answer.status_code not in RIGHT]
        for answer in missed:
            assert answer.status_code == 503
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["retry-after"]
            assert answer.json()["code"].startswith("database.")
        assert missed, "the database was back before anybody asked"
        until(lambda: server.status("/ready") == 200, "a worker that goes on")
        assert server.stop().code == 0


USAGE = "/api/v1/usage"
RIGHT = [200, 403, 401]


def asked_by(server: Serving, staff: dict[str, str]) -> list[tuple[str, dict[str, str]]]:
    """Staff, a service whose key may not read usage, and somebody with a key that nobody made."""
    body = {"name": "a service", "scopes": ["keys:verify"]}
    made = server.client.post(f"{server.base}/api/v1/admin/api-keys", json=body, headers=staff)
    service, stranger = {"X-API-Key": made.json()["key"]}, {"X-API-Key": secret.new()}
    return [(SETTINGS, staff), (USAGE, service), (USAGE, stranger)]


def all_right(
    server: Serving, seen: list[httpx2.Response], asked: list[tuple[str, dict[str, str]]]
) -> bool:
    answers = [server.get(path, **headers) for path, headers in asked]
    seen += answers
    return [answer.status_code for answer in answers] == RIGHT


def test_ready_says_no_while_it_stops(home: Path) -> None:
    with serving("--data", home, BURSAR_DRAIN_SECONDS="8") as server:
        server.process.send_signal(signal.SIGTERM)
        answer = until(lambda: (said := server.get("/ready")).is_error and said, "a no")
        assert answer.status_code == 503
        assert answer.json()["parts"]["process"]["detail"] == "stopping"
        assert server.end().code == 0


# Several processes


def test_several_processes_are_one_server(home: Path) -> None:
    port = free_port()
    given = {
        "BURSAR_METRICS_PORT": str(port),
        "BURSAR_METRICS_TOKEN": "t0ken",
        "PYTHONWARNINGS": "",
    }
    with serving("--data", home, "--workers", 2, **given) as server:
        children = until(lambda: all_three(server), "two for the API and one for jobs")
        assert len({ask_once(server) for _ in range(20)}) == 1
        counted = health_count(server.get("/metrics", authorization="Bearer t0ken").text)
        assert counted == 20
        assert health_count(httpx2.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text) == 20
        for child in children:
            child.kill()
        server.until_said("again in 0.5 s")
        replaced = until(lambda: all_three(server), "three others")
        assert not {child.pid for child in replaced} & {child.pid for child in children}
        until(lambda: server.status("/ready") == 200, "ready again")
        assert server.stop().code == 0
        assert not any(child.is_running() for child in replaced)


def test_several_processes_ship_checkpoints(home: Path) -> None:
    """Beside their own database, which a child is told of like an external one."""
    with serving("--data", home, "--workers", 1) as server:

        def shipped() -> list[Path]:
            seal_now(home)
            return sorted((home / "audit").rglob("*.json"))

        until(shipped, "a checkpoint beside the database", within_seconds=120)
        verified = bursar("audit", "verify", "--data", home)
        assert verified.code == 0
        assert "unbroken, " in verified.stdout
        assert "confirmed up to seal " in verified.stdout
        assert "only" not in verified.stdout
        assert server.stop().code == 0


def seal_now(data: Path) -> None:
    """As the next minute would: the cron job is asked for by hand."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(data), **SAID}
    subprocess.run([sys.executable, "-c", SEAL, data], env=environment, check=True)


SEAL = """
import sys
from pathlib import Path
from bursar.audit import tasks
from bursar.commands.jobs import as_worker
from bursar.core import jobs

as_worker(Path(sys.argv[1]), lambda db: jobs.enqueue(db, tasks.seal, unique_key="now"))
"""


def all_three(server: Serving) -> list[psutil.Process]:
    children = server.children
    return children if len(children) == 3 else []


def ask_once(server: Serving) -> int:
    """On a connection of its own, so that any of the processes may take it."""
    return httpx2.get(f"{server.base}/health", timeout=60).status_code


def health_count(metrics: str) -> float:
    name = 'bursar_requests_total{method="GET",route="/health",status="200"} '
    return float(next(line for line in metrics.splitlines() if line.startswith(name)).split()[-1])


def test_after_a_kill_nothing_serves_and_the_next_server_takes_over(home: Path) -> None:
    with serving("--data", home, "--workers", 1) as first:
        children, database = first.children, postmaster(home)
        first.kill()
        assert psutil.wait_procs(children, timeout=30)[1] == []
    assert len(children) == 2
    with serving("--data", home) as second:
        assert postmaster(home) == database
        assert second.stop().code == 0
