"""Holds one data folder: takes over or starts its server, starts it again, reports if in vain."""

import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bursar.core.embedded import cluster as clusters
from bursar.core.embedded import server
from bursar.core.embedded.account import Account, StopRequested, choose, require_access
from bursar.core.embedded.copies import reachable_programs
from bursar.core.embedded.errors import EmbeddedError, ServerKeepsDying
from bursar.core.embedded.folder import (
    SOCKET_NAMES,
    Address,
    Lock,
    is_own_folder,
    make_socket_folder,
    plain_errors,
    prepare,
    remove_files,
    remove_socket_folder,
)
from bursar.core.embedded.process import Process, read_record
from bursar.core.embedded.programs import major_version

RESTARTS = 5
RESTART_WINDOW_SECONDS = 300.0
BACKOFF_SECONDS = 0.1  # before the second restart in the window; three times longer each time
TICK_SECONDS = 1.0
LOG_CHECK_SECONDS = 60.0
PLACE_FOR_ROOT = "/var/lib/bursar"  # the default that `bursar.core.settings` has for root


@dataclass
class Orders:
    """What the owner of a keeper tells it, from another thread."""

    owner: threading.Thread = field(default_factory=threading.current_thread)
    stop: threading.Event = field(default_factory=threading.Event)
    hurry: threading.Event = field(default_factory=threading.Event)
    wake: tuple[int, int] = field(default_factory=os.pipe)

    def request_stop(self) -> None:
        self.stop.set()
        os.write(self.wake[1], b".")

    def close(self) -> None:
        for fd in self.wake:
            os.close(fd)

    @property
    def ended(self) -> bool:
        # An owner that is gone without a word (an interpreter at its end) wants no server either.
        return self.stop.is_set() or not self.owner.is_alive()


def keep(
    data: Path,
    *,
    say: Callable[[str], None],
    orders: Orders,
    ready: Callable[[Address], None],
) -> None:
    """Run the server of this folder until the orders say stop, under the folder's lock."""
    data = prepare(data)
    with plain_errors(data), Lock(data) as lock:
        place = _prepare_cluster(data, say, orders)
        keeper = _Keeper(place, lock, orders)
        try:
            process = keeper.adopt_or_start()
            ready(keeper.address)
            keeper.watch(process, ready)
        finally:
            keeper.clean_up()


def _prepare_cluster(data: Path, say: Callable[[str], None], orders: Orders) -> server.Place:
    account = choose(data, data / "postgres")
    require_access(account, data, instead=_elsewhere(data, account))
    clusters.remove_unfinished(data)
    programs = reachable_programs(data, account, say, orders.stop)
    version = major_version(programs, account)
    if not clusters.require_version(data, version, upgrade_advice(data, version)):
        say("making a new database")
        clusters.create(data, programs, account, orders.stop)
    return server.Place(
        data=data,
        cluster=(data / "postgres").resolve(),
        logs=clusters.make_log_folder(data, account),
        programs=programs,
        account=account,
        say=say,
        stop=orders.stop,
        hurry=orders.hurry,
    )


def _elsewhere(data: Path, account: Account) -> str:
    """A place for the data that does not ask root to open a folder such as /root to everybody."""
    known = bool(account.identity) and data != Path(PLACE_FOR_ROOT)
    example = f", for example with `--data {PLACE_FOR_ROOT}`" if known else ""
    if (data / "postgres").exists():
        return f"move it to another place and name that{example}"
    return f"name another data folder{example}"


def upgrade_advice(data: Path, ours: int) -> Callable[[int], str]:
    """What to do about data of another major version, as commands that can be run today."""

    def advice(theirs: int) -> str:
        if theirs > ours:
            return "use the release of Bursar that wrote it, or a newer one."
        folder = f"/usr/lib/postgresql/{theirs}/bin"
        command = [sys.executable, "-m", "bursar.core.embedded.upgrade", str(data), folder]
        return (
            f"install the programs of PostgreSQL {theirs} (on Debian and Ubuntu: `apt install "
            f"postgresql-{theirs}`), then run `{shlex.join(command)}`, which keeps the old data."
        )

    return advice


class _Keeper:
    def __init__(self, place: server.Place, lock: Lock, orders: Orders) -> None:
        self._place = place
        self._lock = lock
        self._orders = orders
        self._address: Address | None = None

    @property
    def address(self) -> Address:
        assert self._address is not None  # noqa: S101 - set by every start
        return self._address

    def adopt_or_start(self) -> Process:
        record = read_record(self._place.cluster)
        left = [self._lock.last_socket_folder, Path(record.socket_folder) if record else None]
        adopted = server.adopt(self._place)
        if adopted is None:
            for folder in filter(None, left):
                remove_socket_folder(folder, self._account)
            return self._start()
        process, self._address = adopted
        self._lock.note(self._account, self._address.socket_folder)
        return process

    @property
    def _account(self) -> Account:
        return self._place.account

    def _start(self) -> Process:
        # The folder stays the same for a restart, so that every address given out stays true.
        if self._address and is_own_folder(self._address.socket_folder, self._account):
            remove_files(self._address.socket_folder, self._account, set(SOCKET_NAMES))
        else:
            self._address = make_socket_folder(self._account, self._lock)
        return server.start(self._place, self._address)

    def watch(self, process: Process, ready: Callable[[Address], None]) -> None:
        """Wait for the order to stop; meanwhile a server that dies is started again."""
        restarts: deque[float] = deque()
        while self._ended_by_itself(process):
            process.close()
            process = self._restart(restarts)
            ready(self.address)
        server.stop(self._place, process)

    def _ended_by_itself(self, process: Process) -> bool:
        next_log_check = 0.0
        while not self._orders.ended:
            if process.ended(TICK_SECONDS, self._orders.wake[0]):
                return not self._orders.ended
            if time.monotonic() > next_log_check:
                clusters.remove_old_logs(self._place.logs, self._account)
                next_log_check = time.monotonic() + LOG_CHECK_SECONDS
        return False

    def _restart(self, restarts: deque[float]) -> Process:
        reason = "it ended by itself or was killed"
        while True:
            self._wait_before_restart(restarts, reason)
            self._place.say(f"the database ended ({reason}); starting it again")
            try:
                process = self._start()
            except EmbeddedError as error:
                reason = error.detail
            else:
                self._place.say("the database runs again")
                return process

    def _wait_before_restart(self, restarts: deque[float], reason: str) -> None:
        now = time.monotonic()
        while restarts and restarts[0] < now - RESTART_WINDOW_SECONDS:
            restarts.popleft()
        if len(restarts) >= RESTARTS:
            raise ServerKeepsDying(
                f"The database ended {RESTARTS + 1} times within {RESTART_WINDOW_SECONDS:.0f} s "
                f"and is not started again ({reason}): look into {self._place.logs}."
            )
        if restarts and self._orders.stop.wait(BACKOFF_SECONDS * 3 ** (len(restarts) - 1)):
            raise StopRequested
        restarts.append(time.monotonic())

    def clean_up(self) -> None:
        """Remove the socket folder and the note of it."""
        if self._address is not None:
            remove_socket_folder(self._address.socket_folder, self._account)
        self._lock.note(self._account, None)
