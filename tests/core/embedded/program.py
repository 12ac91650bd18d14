"""A small program with an embedded PostgreSQL, for tests to start, signal and kill.

    program.py UID GID serve DATA            run until a signal comes or the server keeps dying
    program.py UID GID attach DATA           connect_or_start, then wait for a line on stdin
    program.py UID GID forget DATA           enter and never leave
    program.py UID GID fork DATA             serve, with forked children
    program.py UID GID upgrade DATA FOLDER   bursar.core.embedded.upgrade

Root becomes the user UID first, here and not by whoever starts it: that user may not be able to
enter the folder that this Python lies in. Prints one JSON object per event on stdout, and what is
said to people on stderr.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from bursar.core.embedded import Embedded, EmbeddedError, connect_or_start, upgrade


def tell(**event: object) -> None:
    sys.stdout.write(json.dumps(event) + "\n")
    sys.stdout.flush()


def say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def leave(number: int, _: object) -> None:
    raise SystemExit(0)


def serve(data: Path) -> None:
    over = threading.Event()

    def failed(error: EmbeddedError) -> None:
        tell(failed=error.code, detail=error.detail)
        over.set()

    began = time.monotonic()
    with Embedded(data, say=say, failed=failed) as embedded:
        tell(seconds=time.monotonic() - began)
        tell(url=embedded.url(), socket_folder=str(embedded.address.socket_folder))
        over.wait()


def attach(data: Path) -> None:
    with connect_or_start(data, say) as address:
        tell(url=address.url(), socket_folder=str(address.socket_folder))
        sys.stdin.readline()


def forget(data: Path) -> None:
    """Enter and never leave: what a program does that ends without a word."""
    embedded = Embedded(data, say=say).__enter__()
    tell(url=embedded.url(), socket_folder=str(embedded.address.socket_folder))


def become(uid: int, gid: int) -> None:
    if os.geteuid() == 0 != uid:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)


def fork(data: Path) -> None:
    """Fork a worker that lives on, and one that leaves the block, as a forked server's would."""
    with Embedded(data, say=say) as embedded:
        worker = os.fork()
        if worker == 0:
            time.sleep(600)
        leaver = os.fork()
        if leaver != 0:
            os.waitpid(leaver, 0)
            tell(worker=worker, url=embedded.url())
            tell(socket_folder=str(embedded.address.socket_folder))
            signal.pause()


def main() -> None:
    uid, gid, command, *arguments = sys.argv[1:]
    become(int(uid), int(gid))
    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    tell(pid=os.getpid())
    if command == "upgrade":
        raise SystemExit(upgrade.main(arguments))
    commands = {"serve": serve, "attach": attach, "forget": forget, "fork": fork}
    try:
        commands[command](Path(arguments[0]))
    except EmbeddedError as error:
        tell(error=error.code, detail=error.detail)
        raise SystemExit(error.exit_code) from None


main()
