"""The `bursar` command as a real process: run to its end, or serving until it is stopped.

    python programs.py UID GID ARGUMENT...    runs it as another user, for tests that run as root

Root becomes that user here and not in whoever starts it, with everything imported before: the user
may not be able to enter the folder that this Python lies in.
"""

import importlib
import os
import pkgutil
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import httpx2
import psutil

SECRET = "a secret key that only the tests know"  # of tests.databases, which needs the test tools
WAIT_SECONDS = 150.0
# A machine that is busy, or paused for some seconds, is no defect: nobody is sent away, or loses a
# lock, for having waited a little. Tests of the limits themselves set their own.
UNHURRIED: dict[str, Any] = {
    "database_pool_timeout_seconds": 60,
    "database_lock_timeout_seconds": 60,
    "database_statement_timeout_seconds": 120,
    "database_idle_timeout_seconds": 120,
}
SAID = {f"BURSAR_{name.upper()}": str(value) for name, value in UNHURRIED.items()}
DEMO_PASSWORD = re.compile(r"with the password (\S+)")


@dataclass(frozen=True)
class User:
    """Who runs a program."""

    name: str
    uid: int
    gid: int


def user_named(name: str) -> User:
    entry = pwd.getpwnam(name)
    return User(name, entry.pw_uid, entry.pw_gid)


MYSELF = user_named(pwd.getpwuid(os.geteuid()).pw_name)
ORDINARY = user_named("nobody") if MYSELF.uid == 0 else MYSELF
USERS = list(dict.fromkeys([MYSELF, ORDINARY]))


def free_port() -> int:
    """For who can only be told a number. The system gives these to nobody by itself, and each
    process of a run has its own, so that it is still free when it is used."""
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 8
    while True:
        port = random.randrange(20_000 + process, 32_000, 8)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def until(check: Callable[[], Any], what: str, *, within_seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer; fails when there is none before the deadline."""
    deadline = time.monotonic() + within_seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"waited {within_seconds} s in vain: {what}"
        time.sleep(0.02)
    return answer


@dataclass(frozen=True)
class Ended:
    """How a run of `bursar` ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def line(self) -> str:
        """The one line that a failure says, and nothing else anywhere."""
        assert self.stdout == ""
        assert self.stderr.startswith("bursar: ")
        assert self.stderr.count("\n") == 1
        assert self.stderr.endswith("\n")
        return self.stderr.removeprefix("bursar: ").rstrip("\n")

    @property
    def last_line(self) -> str:
        """The line of a failure after some that told what was being done."""
        assert self.stdout == ""
        last = self.stderr.splitlines()[-1]
        assert last.startswith("bursar: ")
        return last.removeprefix("bursar: ")


def bursar(*arguments: object, **how: Any) -> Ended:
    """Runs it to its end."""
    run = Run(*arguments, **how)
    try:
        return run.end()
    finally:
        run.discard()


MEMORY = Path("/dev/shm")
ENOUGH_BYTES = 4 * 2**30


def roomy_folder() -> Path:
    """Where databases of tests are kept: in memory where there is enough, so that none waits for a
    disk. No test cuts off the power, and what a killed process wrote is there as on a disk."""
    if not MEMORY.is_dir() or not os.access(MEMORY, os.W_OK):
        return Path("/tmp")
    free_bytes = min(psutil.virtual_memory().available, shutil.disk_usage(MEMORY).free)
    return MEMORY if free_bytes > ENOUGH_BYTES else Path("/tmp")


def new_folder(user: User = MYSELF) -> Path:
    """A short path for a data folder, which the user that PostgreSQL runs as can pass through."""
    folder = Path(mkdtemp(prefix="bursar-t", dir=roomy_folder()))
    folder.chmod(0o711)
    os.chown(folder, user.uid, user.gid)
    return folder


def discard(folder: Path) -> None:
    """What a program has written; no API key may stand in it."""
    from tests import canaries  # not for the runs of this file as a program

    try:
        canaries.refuse(canaries.in_files(folder))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Run:
    """One run of `bursar`, with an environment that owes nothing to whoever runs the tests."""

    def __init__(
        self,
        *arguments: object,
        user: User = MYSELF,
        folder: Path | None = None,
        stdin: Any = subprocess.DEVNULL,
        **environment: str,
    ) -> None:
        self.files = new_folder()
        with self._stdout.open("wb") as stdout, self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*program(user), *map(str, arguments)],
                cwd=folder or self.files,
                env={"PATH": os.environ["PATH"], "HOME": str(self.files), **SAID, **environment},
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def _stdout(self) -> Path:
        return self.files / "stdout"

    @property
    def _stderr(self) -> Path:
        return self.files / "stderr"

    @property
    def said(self) -> str:
        return self._stderr.read_text()

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def end(self, *, within_seconds: float = WAIT_SECONDS) -> Ended:
        code = self.process.wait(within_seconds)
        ended = Ended(code, self._stdout.read_text(), self.said)
        assert "\nTraceback" not in f"\n{ended.stderr}", ended.stderr  # inside a log line it may be
        return ended

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Ended:
        self.process.send_signal(number)
        return self.end()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def until_said(self, text: str) -> str:
        def said() -> str:
            found = self.said
            assert text in found or self.running, f"ended without {text!r}: {found}"
            return found if text in found else ""

        return str(until(said, f"{text!r} in {self.said}"))

    def discard(self) -> None:
        if self.running:
            self.process.kill()
            self.process.wait()
        discard(self.files)


CLOSED = "root's checkout lies in a folder that other users may not enter: clone it elsewhere"


def closed_to_others() -> bool:
    """Whether tests as an ordinary user would not even find the program."""
    here = Path(__file__).resolve()
    places = [*here.parents, *Path(sys.prefix).resolve().parents]
    return os.geteuid() == 0 and any(not place.stat().st_mode & 0o001 for place in places)


def program(user: User) -> list[str]:
    if user == MYSELF:
        return [sys.executable, "-m", "bursar.cli"]
    if closed_to_others():
        import pytest  # not for the runs of this file as a program

        pytest.skip(CLOSED)
    return [sys.executable, str(Path(__file__).resolve()), str(user.uid), str(user.gid)]


class Serving(Run):
    """`bursar serve`, from its first line until it is stopped."""

    def __init__(self, *arguments: object, **how: Any) -> None:
        super().__init__("serve", "--port", 0, *arguments, **{"BURSAR_DRAIN_SECONDS": "0", **how})
        self.client = httpx2.Client(timeout=60)

    @property
    def base(self) -> str:
        found = re.search(r"API +(http://\S+)/api/v1", self.said)
        assert found, self.said
        return found[1]

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    def sign_in(self, name: str) -> dict[str, str]:
        """The headers of somebody of the demo data, who signs in with the password it prints."""
        password = DEMO_PASSWORD.findall(self.until_said("demo sign-ins, all with"))[-1]
        body = {"email": f"{name}@ternandtide.example", "password": password}
        answer = self.client.post(self.base + "/api/v1/admin/auth/login", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return {"authorization": f"Bearer {answer.json()['accessToken']}"}

    def get(self, path: str, **headers: str) -> httpx2.Response:
        return self.client.get(self.base + path, headers=headers)

    def status(self, path: str) -> int:
        """0 while nobody answers."""
        try:
            return self.get(path).status_code
        except httpx2.TransportError:
            return 0

    def ready(self) -> "Serving":
        self.until_said("/api/v1")  # said last of what is needed here
        until(lambda: self.status("/ready") == 200 or not self.running, f"ready: {self.said}")
        assert self.running, self.said
        return self

    @property
    def children(self) -> list[psutil.Process]:
        """Processes of Bursar under this one; those of PostgreSQL are not meant."""
        below = psutil.Process(self.process.pid).children()
        return [child for child in below if "bursar.commands.child" in command_line(child)]

    def discard(self) -> None:
        self.client.close()
        if self.running:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        super().discard()


def command_line(process: psutil.Process) -> list[str]:
    """Nothing for one that has ended, also when it ends while it is looked at."""
    try:
        return process.cmdline()
    except (psutil.ZombieProcess, psutil.NoSuchProcess):
        return []


@contextmanager
def serving(*arguments: object, **how: Any) -> Iterator[Serving]:
    server = Serving(*arguments, **how)
    try:
        yield server.ready()
    finally:
        server.discard()


def postgres_in(data: Path) -> list[int]:
    """The processes of PostgreSQL that work in this data folder."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if Path(process.cwd()).is_relative_to(data.resolve()):
                found.append(process.pid)
    return found


def postmaster(data: Path) -> int:
    return int((data / "postgres" / "postmaster.pid").read_text().splitlines()[0])


def remove(data: Path) -> None:
    """A data folder of a test, and whatever a failed test left at work in it."""
    for pid in postgres_in(data):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not postgres_in(data), "the end of PostgreSQL")
    discard(data)


def import_everything() -> None:
    import bursar

    for module in pkgutil.walk_packages(bursar.__path__, "bursar."):
        if "versions" not in module.name and not module.name.endswith((".env", ".child")):
            importlib.import_module(module.name)
    late = ("alembic.command", "asyncpg", "encodings.idna", "multiprocessing.util", "stringprep")
    for name in (*late, "sqlalchemy.dialects.postgresql.asyncpg", "uvicorn.lifespan.off"):
        importlib.import_module(name)


def main(uid: int, gid: int, arguments: list[str]) -> None:
    from bursar import cli

    import_everything()
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    sys.argv = ["bursar", *arguments]
    cli.main()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
