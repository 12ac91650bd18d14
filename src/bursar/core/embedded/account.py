"""Programs of PostgreSQL run as an ordinary user: never as root, and with nothing of root left."""

import os
import pwd
import signal
import subprocess
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bursar.core.embedded.errors import DataFolderForbidden, EmbeddedError

ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


class StopRequested(BaseException):
    """Not an error: ends whatever the supervisor is waiting for; never leaves this package."""


@dataclass(frozen=True)
class Account:
    """The operating-system user that PostgreSQL runs as."""

    uid: int
    gid: int
    name: str

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a child process this user; nothing where we are that user already."""
        if os.geteuid() != 0:
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def choose(data: Path, cluster: Path) -> Account:
    """Ourselves; or, for root, who owns the data, else `postgres`, else `nobody`."""
    own_uid = os.geteuid()
    owner = _owner(cluster)
    if own_uid != 0:
        if owner not in (None, own_uid):
            raise DataFolderForbidden(
                f"{cluster} belongs to user {_name(owner)}: run Bursar as that user or as root, "
                "or name another data folder."
            )
        return _account(own_uid)
    if owner == 0 and any(cluster.iterdir()):
        raise DataFolderForbidden(
            f"{cluster} belongs to root, and PostgreSQL refuses to run as root: give it to an "
            f"ordinary user, for example with `chown -R {_ordinary().name}: {cluster}`."
        )
    uid = owner or _owner(data)
    return _account(uid) if uid else _ordinary()


def _owner(path: Path) -> int | None:
    return path.stat().st_uid if path.exists() else None


def _name(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return str(uid)


def _account(uid: int) -> Account:
    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        raise DataFolderForbidden(
            f"User id {uid} has no name on this machine, and PostgreSQL cannot check who signs in "
            "without one: add it to /etc/passwd, run as a user with a name, or name an external "
            "server in DATABASE_URL."
        ) from None
    return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)


def _ordinary() -> Account:
    for name in ("postgres", "nobody"):
        try:
            return _account(pwd.getpwnam(name).pw_uid)
        except KeyError:
            continue
    raise DataFolderForbidden(
        "PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody` to run it "
        "as: run Bursar as an ordinary user, or give the data folder to one."
    )


def require_access(account: Account, path: Path, *, instead: str = "") -> None:
    """Refuse a path that this user may not enter or run, and name the folder that is in the way.

    `instead` is what to do rather than open somebody's folder on the way to it.
    """
    if may_enter(account, path):
        return
    blocked = next((p for p in reversed(path.parents) if not may_enter(account, p)), path)
    advice = f"allow it with `chmod o+x {blocked}`"
    if instead and blocked != path:
        advice = f"{instead}, or {advice}"
    raise DataFolderForbidden(
        f"PostgreSQL runs as user {account.name}, who may not enter {blocked}, and needs {path}: "
        f"{advice}."
    )


def may_enter(account: Account, path: Path) -> bool:
    """Whether this user may enter this folder, or run this program."""
    # Asking as that user covers access lists and mount options; reading mode bits would not.
    if account.identity:
        return run(["test", "-x", str(path)], account).code == 0
    return os.access(path, os.X_OK)


@dataclass(frozen=True)
class Outcome:
    """How a program ended and everything it printed."""

    code: int
    output: str


def run(
    arguments: list[str],
    account: Account,
    *,
    text: str = "",
    folder: Path = Path("/"),
    stop: threading.Event | None = None,
) -> Outcome:
    """Run a program to its end as this user; a stop request kills it with all its children."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as printed:
        given.write(text.encode())
        given.seek(0)
        child = spawn(arguments, account, folder=folder, given=given, printed=printed)
        try:
            while stop is not None and child.poll() is None:
                if stop.is_set():
                    raise StopRequested
                _wait_briefly(child)
            code = child.wait()
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)  # not reaped yet, so the id is still ours
            child.wait()
            raise
        printed.seek(0)
        return Outcome(code, printed.read().decode(errors="replace").strip())


def _wait_briefly(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(timeout=0.05)
    except subprocess.TimeoutExpired:
        return


def spawn(
    arguments: list[str],
    account: Account,
    *,
    printed: IO[bytes],
    folder: Path = Path("/"),
    given: IO[bytes] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program as this user, in a session of its own that no terminal can interrupt."""
    try:
        return subprocess.Popen(
            arguments,
            stdin=given or subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=ENVIRONMENT,
            umask=0o077,
            start_new_session=True,
            **account.identity,
        )
    except OSError as error:
        raise EmbeddedError(f"{arguments[0]} cannot be run: {error.strerror}.") from error
