"""One data folder has one supervisor, and its socket lies where nobody else can put a thing."""

import errno
import fcntl
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from bursar.core.embedded.account import Account, require_access
from bursar.core.embedded.errors import (
    DataFolderForbidden,
    DataFolderForeign,
    DataFolderInUse,
    DiskFull,
    EmbeddedError,
)

OWNER = "bursar"
DATABASE = "bursar"
SOCKET_PREFIX = "bursar-"
SOCKET_NAMES = (".s.PGSQL.5432", ".s.PGSQL.5432.lock")
SOCKET_PATH_BYTES = 103  # what macOS allows; Linux allows 107


@contextmanager
def plain_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into one sentence that says what to do."""
    try:
        yield
    except OSError as error:
        place, reason = error.filename or path, error.strerror
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"No space is left for {place}: make some, then start again.") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise DataFolderForbidden(
                f"{place} cannot be used ({reason}): give this user the right to it, or name "
                "another data folder."
            ) from error
        raise EmbeddedError(f"{place} cannot be used as data folder: {reason}.") from error


def prepare(data: Path) -> Path:
    """The data folder under its real name, made where it is missing, refused if not Bursar's."""
    with plain_errors(data):
        data = data.expanduser().resolve()
        with suppress(FileExistsError):
            _make(data)
        names = {entry.name for entry in data.iterdir() if not entry.name.startswith(".")}
    if names - {"lost+found"} and not names & {"lock", "postgres", "secret_key"}:
        raise DataFolderForeign(
            f"{data} is not empty and is not a data folder of Bursar's: name an empty or a new one."
        )
    return data


def _make(data: Path) -> None:
    data.parent.mkdir(parents=True, exist_ok=True)
    data.mkdir(mode=0o700)
    if os.geteuid() == 0:
        # PostgreSQL's user has to pass through, whatever root's umask says; nobody else can read.
        with _opened(data, 0) as fd:
            os.fchmod(fd, 0o711)


class Lock:
    """The lock on a data folder. The kernel gives it back however its holder ends.

    The file says which process holds the lock and which socket folder it made, so that the next
    holder can clean up after one that was killed. Children do not inherit it.
    """

    def __init__(self, data: Path) -> None:
        self._path = data / "lock"
        self._data = data
        self._fd = -1

    def __enter__(self) -> "Lock":
        with plain_errors(self._path):
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._fd = os.open(self._path, flags, 0o600)
            if os.fstat(self._fd).st_nlink != 1:
                self._close()
                raise DataFolderForeign(f"{self._path} is not a plain file: remove it.")
            self._take()
        # A forked worker that outlives us must not hold what we held.
        os.register_at_fork(after_in_child=self._close)
        return self

    def _take(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (self._lines() or ["?"])[0]
            self._close()
            raise DataFolderInUse(
                f"{self._data} is already in use by process {holder}: stop that one, or name "
                "another data folder."
            ) from None

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _lines(self) -> list[str]:
        return os.pread(self._fd, 4096, 0).decode(errors="replace").splitlines()

    @property
    def last_socket_folder(self) -> Path | None:
        """The folder that the last holder noted, if any."""
        lines = self._lines()
        return Path(lines[1]) if len(lines) > 1 and lines[1] else None

    def note(self, account: Account, socket_folder: Path | None) -> None:
        """Write down who holds the lock and where its socket is."""
        with plain_errors(self._path):
            if account.identity:
                os.fchown(self._fd, account.uid, account.gid)  # its owner may come without root
            text = f"{os.getpid()}\n{socket_folder or ''}\n".encode()
            os.pwrite(self._fd, text, 0)
            os.ftruncate(self._fd, len(text))


@dataclass(frozen=True)
class Address:
    """Where a running server can be reached."""

    socket_folder: Path

    def url(self, role: str = OWNER, database: str = DATABASE) -> str:
        return f"postgresql://{quote(role, '')}@/{quote(database, '')}?host={self.socket_folder}"


def make_socket_folder(account: Account, lock: Lock) -> Address:
    """A short folder with a name nobody can guess, that only PostgreSQL's user may enter."""
    base = _socket_base(account)
    folder = base / f"{SOCKET_PREFIX}{secrets.token_hex(8)}"
    lock.note(account, folder)  # before it exists: whatever happens next, it will be found again
    with plain_errors(folder):
        folder.mkdir(mode=0o700)
        give_to(account, folder)
    return Address(folder)


def _socket_base(account: Account) -> Path:
    for base in (Path("/tmp"), Path(tempfile.gettempdir()).resolve()):  # noqa: S108 - see above
        longest = base / f"{SOCKET_PREFIX}{'x' * 16}" / SOCKET_NAMES[1]
        if len(os.fsencode(longest)) <= SOCKET_PATH_BYTES and _is_safe(base):
            require_access(account, base)
            return base
    raise EmbeddedError(
        "There is no safe folder for the database's socket: /tmp must exist and be sticky "
        "(`chmod 1777 /tmp`), or TMPDIR must name a short folder of your own."
    )


def _is_safe(base: Path) -> bool:
    # Where others may write, the sticky bit is what keeps them from swapping our folder.
    if not base.is_dir() or not os.access(base, os.W_OK | os.X_OK):
        return False
    status = base.stat()
    others_write = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(status.st_mode & stat.S_ISVTX) or (
        not others_write and status.st_uid in (0, os.geteuid())
    )


def give_to(account: Account, folder: Path) -> None:
    """Hand a folder that we just made to PostgreSQL's user, unless it was swapped meanwhile."""
    if not account.identity:
        return
    with _opened(folder, 0) as fd:
        os.fchown(fd, account.uid, account.gid)


def is_own_folder(folder: Path, account: Account) -> bool:
    """Whether this folder is still there and still closed to everybody else."""
    return _is_closed(folder, {account.uid})


def _is_closed(folder: Path, owners: set[int]) -> bool:
    try:
        status = folder.lstat()
    except OSError:
        return False
    closed = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    return closed and status.st_uid in owners


def remove_socket_folder(folder: Path, account: Account) -> None:
    """Remove a folder made above; whatever else bears its name by now is left alone."""
    if not folder.name.startswith(SOCKET_PREFIX):
        return
    if _is_closed(folder, {account.uid, os.geteuid()}):
        remove_files(folder, account, set(SOCKET_NAMES))
        with suppress(OSError):  # not empty: not only ours
            folder.rmdir()


def remove_files(folder: Path, account: Account, names: set[str]) -> None:
    """Remove files of this user's in a folder of this user's; links are not followed."""
    with suppress(OSError), _opened(folder, account.uid) as fd:
        for name in names:
            with suppress(FileNotFoundError):
                os.unlink(name, dir_fd=fd)


@contextmanager
def _opened(folder: Path, owner: int) -> Iterator[int]:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(fd).st_uid != owner:
            raise PermissionError(errno.EPERM, "belongs to somebody else", str(folder))
        yield fd
    finally:
        os.close(fd)
