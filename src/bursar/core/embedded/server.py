"""A server is started, waited for through its recovery, and stopped without leaving a process."""

import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bursar.core.embedded import cluster as clusters
from bursar.core.embedded.account import Account, StopRequested, spawn
from bursar.core.embedded.errors import EmbeddedError
from bursar.core.embedded.folder import Address, is_own_folder, remove_files
from bursar.core.embedded.process import Process, find_server, processes_in, read_record
from bursar.core.embedded.programs import Programs, are_current

START_SECONDS = 600.0  # without progress; a recovery that moves on may take longer
PROGRESS_SECONDS = 10.0
SIGN_IN_SECONDS = 10.0
LINGER_SECONDS = 90.0  # a server that lost its pid file notices within a minute and ends
FAST_STOP_SECONDS = 60.0
IMMEDIATE_STOP_SECONDS = 15.0

RECOVERING = "the database is recovering from a crash; this can take minutes"


@dataclass(frozen=True)
class Place:
    """Everything that does not change between two starts of one server."""

    data: Path
    cluster: Path
    logs: Path
    programs: Programs
    account: Account
    say: Callable[[str], None]
    stop: threading.Event  # somebody wants an end
    hurry: threading.Event  # and wants it now


def adopt(place: Place) -> tuple[Process, Address] | None:
    """The server that a killed supervisor left behind, ready; one that is of no use is stopped."""
    found = find_server(place.cluster, place.data)
    if found is None:
        return None
    process, record = found
    if not are_current(process.executable() or Path(), place.data):
        place.say(f"process {process.pid} is a database of another version; starting it anew")
        stop(place, process)
        return None
    address = Address(Path(record.socket_folder))
    try:
        place.say(f"the database still runs as process {process.pid}; taking it over")
        if clusters.write_access_rules(place.cluster, place.account):
            process.signal(signal.SIGHUP)
        await_ready(place, process)
        if is_own_folder(address.socket_folder, place.account):
            await_sign_in(place, address)
            return process, address
    except EmbeddedError as error:
        place.say(f"it cannot be used ({error}); starting it anew")
    except BaseException:
        stop(place, process)
        raise
    stop(place, process)
    return None


def start(place: Place, address: Address) -> Process:
    """A new server, ready and signed in to; on any failure nothing of it is left running."""
    await_no_leftover(place)
    clusters.write_access_rules(place.cluster, place.account)
    if not clusters.was_stopped_properly(place.cluster, place.programs, place.account):
        place.say(RECOVERING)
    command = clusters.server_command(place.cluster, place.programs, address, place.logs)
    since = time.time() - 1
    with tempfile.TemporaryFile() as printed:
        child = spawn(command, place.account, printed=printed)
        process = Process(child.pid, child)
        try:
            await_ready(place, process)
            await_sign_in(place, address)
        except BaseException as error:
            stop(place, process)
            if isinstance(error, ServerEnded):
                output = _read(printed) or clusters.reason_in_log(place.logs, since)
                raise clusters.explained(str(error), output, place.logs) from None
            raise
    return process


def await_no_leftover(place: Place) -> None:
    """Wait for the children of a killed server; they hold the memory that the next one needs.

    We hold the lock and no verified server runs, so a pid file that is left is stale. PostgreSQL
    would believe it if its number belongs to somebody else by now.
    """
    deadline = time.monotonic() + LINGER_SECONDS
    said = False
    while left := processes_in(place.cluster, place.data):
        pids = ", ".join(str(process.pid) for process in left)
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"Processes of an earlier server still work in {place.cluster}: {pids}. They did "
                f"not end within {LINGER_SECONDS:.0f} s; end them with `kill`, then start again."
            )
        if not said:
            place.say(f"waiting for processes of an earlier server to end: {pids}")
        said = True
        for process in left:
            process.ended(0.05)
            process.close()
        _raise_if_stopped(place)
    remove_files(place.cluster, place.account, {"postmaster.pid"})


class ServerEnded(EmbeddedError, status=503, code="embedded.ended"):
    """The server ended before it was ready; its log says why."""


def await_ready(place: Place, process: Process) -> None:
    """Wait until the server says it is ready, for as long as its recovery makes progress."""
    began = moved = time.monotonic()
    position, next_word = "", began + PROGRESS_SECONDS
    while not process.ended(0.01):
        record = read_record(place.cluster)
        if record is not None and (record.pid, record.status) == (process.pid, "ready"):
            return
        _raise_if_stopped(place)
        now = time.monotonic()
        if now < next_word:
            continue
        next_word = now + PROGRESS_SECONDS
        latest = _recovery_position(process)
        if latest != position:
            position, moved = latest, now
        place.say(f"the database is still starting after {now - began:.0f} s {position}".rstrip())
        if now - moved > START_SECONDS:
            raise EmbeddedError(
                f"The database made no progress for {START_SECONDS:.0f} s while it started: look "
                f"into {place.logs}."
            )
    raise ServerEnded("PostgreSQL ended while it started")


def _recovery_position(process: Process) -> str:
    # The startup process shows the write-ahead log segment that it is replaying.
    titles = (title.partition("startup ") for title in process.children_titles())
    return next((f"({rest.strip()})" for _, found, rest in titles if found), "")


def await_sign_in(place: Place, address: Address) -> None:
    """Sign in for real, and see that Bursar's role and database are there."""
    deadline = time.monotonic() + SIGN_IN_SECONDS
    while True:
        problem = clusters.sign_in(place.programs, place.account, address, clusters.PREPARE)
        if problem is None:
            return
        _raise_if_stopped(place)
        if time.monotonic() > deadline:
            raise clusters.explained("The database cannot be used", problem, place.logs)
        place.stop.wait(0.1)  # new access rules take a moment to be read


def _raise_if_stopped(place: Place) -> None:
    if place.stop.is_set():
        raise StopRequested


def _read(printed: IO[bytes]) -> str:
    printed.seek(0)
    text = printed.read().decode(errors="replace")
    return text if "FATAL:" in text or "PANIC:" in text else ""


def stop(place: Place, process: Process) -> None:
    """Stop the server: in order, then at once, then by force; returns when nothing is left."""
    try:
        process.signal(signal.SIGINT)
        deadline = time.monotonic() + FAST_STOP_SECONDS
        while not process.ended(0.05) and time.monotonic() < deadline:
            if place.hurry.is_set():
                break
        if not process.ended():
            place.say("the database takes too long to stop; stopping it at once")
            process.signal(signal.SIGQUIT)
            if not process.ended(IMMEDIATE_STOP_SECONDS):
                process.signal(signal.SIGKILL)
                process.ended(IMMEDIATE_STOP_SECONDS)
    finally:
        process.close()
