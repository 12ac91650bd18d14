"""Real server processes: started as a user starts them, ready when they say so, gone at the end."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from bench.load import Job, Outcome

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120
STOP_SECONDS = 60
POLL_SECONDS = 0.004
OURS = ("BURSAR_", "DATABASE_URL", "PG")  # what would make a run differ from the next one's


class BenchFailed(Exception):
    """A program did not start, or a request was not answered as it should have been."""


class Program:
    """A server on a port of its own, its output in a file; `seconds` is what its start took."""

    def __init__(
        self,
        arguments: list[str],
        *,
        folder: Path,
        environment: dict[str, str] | None = None,
        ready: str = "/ready",
    ) -> None:
        self.port = free_port()
        self.seconds = 0.0
        self._arguments = [part.replace("{port}", str(self.port)) for part in arguments]
        self._folder = folder  # not the caller's: Bursar reads a .env file where it starts
        self._environment = environment or {}
        self._ready = ready
        self._log = folder / f"{self.port}.log"

    def __enter__(self) -> Self:
        started = time.perf_counter()
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=clean_environment() | self._environment,
            )
        try:
            wait_for(self._answers, self._alive)
        except BaseException:
            self._stop()
            raise
        self.seconds = time.perf_counter() - started
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=START_SECONDS)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def _alive(self) -> None:
        if self.process.poll() is not None:
            raise BenchFailed(f"{' '.join(self._arguments)} ended: {self.last_words()}")

    def last_words(self) -> str:
        return self._log.read_text(errors="replace")[-2000:].strip() or "it said nothing"

    def _stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def get(self, path: str, headers: dict[str, str] | None = None) -> bytes:
        """One answer, which must be a 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path, headers=headers or {})
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise BenchFailed(f"{path} answered {answer.status}: {self.last_words()}")
        return body

    def cpu_seconds(self) -> float:
        """What the server's own process has used so far."""
        used = psutil.Process(self.process.pid).cpu_times()
        return float(used.user + used.system)


def clean_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return kept | {"PYTHONPATH": str(ROOT)}


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(done: Callable[[], bool], check: Callable[[], None]) -> None:
    """Looks every few milliseconds; `check` raises when waiting is in vain."""
    deadline = time.monotonic() + START_SECONDS
    while not done():
        check()
        if time.monotonic() > deadline:
            raise BenchFailed(f"nothing was ready within {START_SECONDS} s")
        time.sleep(POLL_SECONDS)


def load(job: Job) -> Outcome:
    """Runs the load generator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.load"],
        input=job.as_json(),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=min(job.seconds, 3600) + 60,
        check=False,
    )
    if done.returncode:
        raise BenchFailed(done.stderr.strip())
    return Outcome(**json.loads(done.stdout))
