"""The PostgreSQL that comes with Bursar: a real server, supervised, closed to everybody else.

`Embedded` is for the process that owns the server (`bursar serve`); `connect_or_start` and
`running` are for commands beside it; `program` names PostgreSQL's own programs (psql, pg_dump).
Nothing here needs an event loop.
"""

import sys

from bursar.core.embedded.errors import ProgramsMissing

if sys.platform == "win32":
    raise ProgramsMissing(
        "Bursar's own PostgreSQL does not run on Windows: name an external server in DATABASE_URL."
    )

from bursar.core.embedded.attach import connect_or_start, running
from bursar.core.embedded.errors import (
    DataFolderForbidden,
    DataFolderForeign,
    DataFolderInUse,
    DataVersionMismatch,
    DiskFull,
    EmbeddedError,
    ServerKeepsDying,
)
from bursar.core.embedded.folder import DATABASE, OWNER, Address
from bursar.core.embedded.programs import wheel_programs
from bursar.core.embedded.supervisor import Embedded


def program(name: str) -> str:
    """The path of one of PostgreSQL's own programs, such as `psql`."""
    return wheel_programs()[name]


__all__ = [
    "DATABASE",
    "OWNER",
    "Address",
    "DataFolderForbidden",
    "DataFolderForeign",
    "DataFolderInUse",
    "DataVersionMismatch",
    "DiskFull",
    "Embedded",
    "EmbeddedError",
    "ProgramsMissing",
    "ServerKeepsDying",
    "connect_or_start",
    "program",
    "running",
]
