"""One process of several: `python -m bursar.commands.child KIND FD`, started by `bursar serve`."""

import os
import socket
import sys

from bursar.commands import processes
from bursar.core import logs
from bursar.core.errors import BursarError
from bursar.core.settings import load

PARENT = 0  # standard input, a pipe that ends when `bursar serve` does, even by kill -9


def main(kind: str, descriptor: int) -> None:
    settings = load()
    logs.configure(settings)
    url = os.environ["BURSAR_DATABASE_URL"]
    sock = socket.socket(fileno=descriptor)
    if kind == processes.API:
        processes.run_until_signal(
            lambda stop: processes.serve_api(settings, url, sock, stop, shared=True),
            parent=PARENT,
        )
    else:
        sock.close()
        processes.run_until_signal(
            lambda stop: processes.run_jobs(settings, url, stop), parent=PARENT
        )


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]))
    except BursarError as error:
        sys.stderr.write(f"bursar: {error.detail}\n")
        sys.exit(error.exit_code)
