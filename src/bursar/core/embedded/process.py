"""Knows a server of ours when it sees one, and never signals a process that is not."""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bursar.core.embedded.errors import DataFolderForeign
from bursar.core.embedded.programs import are_own, same_file

START_TOLERANCE_SECONDS = 10.0  # pid file and kernel read two clocks, one second apart at most
POLL_SECONDS = 0.1  # only where the system has no pidfd to wait on (macOS)


class Process:
    """One process, pinned: a signal reaches this very process or none, even if its id is reused.

    Raises ProcessLookupError where there is no such process. `child` is given for a process that
    we started ourselves and therefore have to collect when it ends.
    """

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child
        self._handle = _open_handle(pid)
        try:
            self._seen = psutil.Process(pid)
        except psutil.NoSuchProcess:
            self.close()
            raise ProcessLookupError(pid) from None

    def close(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended already is no error."""
        try:
            if sys.platform == "linux" and self._handle is not None:
                signal.pidfd_send_signal(self._handle, number)
            else:
                self._seen.send_signal(number)  # compares the start time first
        except (ProcessLookupError, psutil.NoSuchProcess):
            return

    def ended(self, within_seconds: float = 0.0, wake: int | None = None) -> bool:
        """Whether it has ended, waiting this long for it or until `wake` can be read."""
        watched = [fd for fd in (self._handle, wake) if fd is not None]
        if self._handle is None:
            within_seconds = min(within_seconds, POLL_SECONDS)
        poll = select.poll()
        for fd in watched:
            poll.register(fd, select.POLLIN)
        readable = {fd for fd, _ in poll.poll(within_seconds * 1000)}
        over = self._handle in readable if self._handle is not None else not self._is_running()
        if over and self._child is not None:
            self._child.wait()
        return over

    def _is_running(self) -> bool:
        try:
            return bool(self._seen.is_running() and self._seen.status() != psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            return False

    def executable(self) -> Path | None:
        """The program that it runs, under the path it was started from; None where it is hidden."""
        with _unreadable_is_foreign():
            return Path(self._seen.exe())
        return None

    def works_in(self, folder: Path) -> bool:
        with _unreadable_is_foreign():
            return same_file(Path(self._seen.cwd()), folder)
        return False

    def started_at(self, seconds: float) -> bool:
        with _unreadable_is_foreign():
            return bool(abs(self._seen.create_time() - seconds) <= START_TOLERANCE_SECONDS)
        return False

    def children_titles(self) -> list[str]:
        with _unreadable_is_foreign():
            return [" ".join(child.cmdline()) for child in self._seen.children()]
        return []


def _open_handle(pid: int) -> int | None:
    if sys.platform == "linux":
        try:
            return os.pidfd_open(pid)
        except ProcessLookupError:
            raise
        except OSError:  # an old kernel, or a sandbox that does not know the call
            return None
    return None


@contextmanager
def _unreadable_is_foreign() -> Iterator[None]:
    # Root sees everybody, the owner of a server sees it: what we cannot see is not ours.
    try:
        yield
    except (psutil.Error, OSError):
        return


@dataclass(frozen=True)
class Record:
    """What PostgreSQL wrote about itself into postmaster.pid; a claim until it is verified."""

    pid: int
    started: float
    socket_folder: str
    status: str


def read_record(cluster: Path) -> Record | None:
    """The claim in postmaster.pid, or None where there is none that can be read."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        lines = [line.strip() for line in lines] + [""] * 8
        return Record(int(lines[0]), float(lines[2]), lines[4], lines[7])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None


def find_server(cluster: Path, data: Path) -> tuple[Process, Record] | None:
    """The server of this cluster, verified by program, folder and start time; None if none runs.

    The process is pinned before it is looked at, so what was looked at is what gets the signals.
    """
    record = read_record(cluster)
    if record is None or record.pid <= 0:
        return None
    try:
        process = Process(record.pid)
    except ProcessLookupError:
        return None
    here = process.works_in(cluster)
    executable = process.executable() or Path()
    ours = executable.name == "postgres" and are_own(executable, data)
    if here and ours and process.started_at(record.started) and not process.ended():
        return process, record
    process.close()
    if here and executable.name.startswith("postgres"):
        raise DataFolderForeign(
            f"Process {record.pid} is a PostgreSQL server that works in {cluster} and that this "
            f"installation of Bursar did not start: stop it with `kill -INT {record.pid}`, then "
            "try again."
        )
    return None


def processes_in(folder: Path, data: Path) -> list[Process]:
    """Every process of Bursar's PostgreSQL that works in this folder, whoever its parent is."""
    found = []
    for process in _all_processes():
        if process.works_in(folder) and _is_own(process, data):
            found.append(process)
        else:
            process.close()
    return found


def _all_processes() -> Iterator[Process]:
    for pid in psutil.pids():
        with suppress(ProcessLookupError, PermissionError):
            yield Process(pid)


def _is_own(process: Process, data: Path) -> bool:
    executable = process.executable()
    return (
        executable is not None
        and executable.name in ("postgres", "initdb")
        and are_own(executable, data)
    )


def runs_from(folder: Path) -> bool:
    """Whether any process runs a program that lies in this folder."""
    for process in _all_processes():
        executable = process.executable()
        process.close()
        if executable is not None and executable.is_relative_to(folder):
            return True
    return False
