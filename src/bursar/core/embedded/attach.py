"""Commands beside `serve` use the server that runs, and start one only where none does."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from bursar.core.embedded import cluster as clusters
from bursar.core.embedded.account import Account, choose
from bursar.core.embedded.errors import DataFolderInUse
from bursar.core.embedded.folder import Address, is_own_folder, plain_errors
from bursar.core.embedded.process import find_server
from bursar.core.embedded.programs import wheel_programs
from bursar.core.embedded.supervisor import Embedded

ATTACH_SECONDS = 600.0  # as long as a start may take in the process that we wait for
ADMIT_SECONDS = 10.0
POLL_SECONDS = 0.05


@contextmanager
def connect_or_start(data: Path, say: Callable[[str], None]) -> Iterator[Address]:
    """The server of this folder: the one that runs, else one for the time of this block."""
    deadline = time.monotonic() + ATTACH_SECONDS
    waiting = False
    with ExitStack() as stack:
        while (address := running(data)) is None:
            try:
                address = stack.enter_context(Embedded(data, say=say)).address
                break
            except DataFolderInUse as error:
                if time.monotonic() > deadline:
                    raise
                if not waiting:
                    say(f"waiting for the database: {error.detail}")
                waiting = True
                time.sleep(POLL_SECONDS)
        yield address


def running(data: Path) -> Address | None:
    """Where the verified, ready server of this folder can be reached; None if there is none."""
    data = data.expanduser().resolve()
    with plain_errors(data):
        cluster = (data / "postgres").resolve()
        if not (cluster / "postmaster.pid").exists():
            return None
        account = choose(data, cluster)
        found = find_server(cluster, data)
        if found is None:
            return None
        process, record = found
        address = Address(Path(record.socket_folder))
        try:
            if record.status != "ready" or not is_own_folder(address.socket_folder, account):
                return None
            # A server that its owner started has not let in root, who is Bursar just as well.
            if os.geteuid() == 0 and clusters.write_access_rules(cluster, account):
                process.signal(signal.SIGHUP)
                _await_root(address)
            return address
        finally:
            process.close()


def _await_root(address: Address) -> None:
    root, programs = Account(0, 0, "root"), wheel_programs()
    deadline = time.monotonic() + ADMIT_SECONDS
    while clusters.sign_in(programs, root, address, "SELECT 1") and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
