"""A cluster exists whole or not at all, and only its operating-system user may sign in to it."""

import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from bursar.core.embedded.account import Account, run
from bursar.core.embedded.errors import (
    DataFolderForeign,
    DataVersionMismatch,
    DiskFull,
    EmbeddedError,
)
from bursar.core.embedded.folder import (
    DATABASE,
    OWNER,
    Address,
    give_to,
    plain_errors,
    remove_files,
)
from bursar.core.embedded.process import processes_in
from bursar.core.embedded.programs import Programs, last_line

SUPERUSER = "postgres"
UNFINISHED_PREFIX = "postgres.new-"
LOG_BYTES_EACH = "10MB"
LOG_FILES_KEPT = 10
KILL_SECONDS = 10.0

# Written into postgresql.conf when a cluster is made, and whoever runs it may change them there.
ADVISED = {
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "max_connections": "250",
    "huge_pages": "off",
    "io_method": "sync",  # no processes of its own; this machine is small
    "max_logical_replication_workers": "0",
    "jit": "off",
    "min_wal_size": "80MB",
    # At its first change after a checkpoint a page is logged whole. Checkpoints that come by time,
    # not by how much was logged, keep a full ledger as fast as an empty one.
    "max_wal_size": "4GB",
    "random_page_cost": "1.1",
    "shared_preload_libraries": "pg_stat_statements",
    "track_io_timing": "on",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}

# Given with each start: what Bursar promises about its server, whatever the file says.
PINNED = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    "restart_after_crash": "on",
    "log_destination": "stderr",
    "logging_collector": "on",
    "log_filename": "postgres-%Y-%m-%d-%H%M%S.log",
    "log_file_mode": "0600",
    "log_rotation_size": LOG_BYTES_EACH,
    "log_rotation_age": "1d",
    "log_startup_progress_interval": "10s",
}

HBA = """\
# Bursar writes this file at each start. Only the operating-system users named in pg_ident.conf
# may sign in, through the socket; there is no other way in.
local all all peer map=bursar
"""

PREPARE = f"""\
SELECT 'CREATE ROLE {OWNER} LOGIN CREATEROLE'
 WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{OWNER}') \\gexec
SELECT 'CREATE DATABASE {DATABASE} OWNER {OWNER}'
 WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{DATABASE}') \\gexec
\\connect {DATABASE}
SELECT 'CREATE EXTENSION pg_stat_statements'
 WHERE NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'pg_stat_statements') \\gexec
"""  # noqa: S608 - both names are constants of ours


def require_version(data: Path, ours: int, upgrade: Callable[[int], str]) -> bool:
    """Whether there is a cluster, which then is of our major version or refused."""
    cluster = data / "postgres"
    if not cluster.exists() or not any(cluster.iterdir()):
        left = next(data.glob("postgres.[0-9]*"), None)
        if left is not None:
            raise DataVersionMismatch(
                f"An upgrade of {left} was interrupted: {upgrade(int(left.suffix[1:]))}"
            )
        return False
    try:
        theirs = int((cluster / "PG_VERSION").read_text().strip())
    except (FileNotFoundError, ValueError):
        raise DataFolderForeign(
            f"{cluster} is not empty and holds no PostgreSQL cluster: move it away, or name "
            "another data folder."
        ) from None
    if theirs != ours:
        raise DataVersionMismatch(
            f"{cluster} was written by PostgreSQL {theirs}, and this Bursar brings PostgreSQL "
            f"{ours}: {upgrade(theirs)}"
        )
    return True


def create(data: Path, programs: Programs, account: Account, stop: threading.Event) -> None:
    """Make a cluster beside its place and move it there once it is whole and on the disk."""
    unfinished = initialise(data, programs, account, stop)
    with plain_errors(data):
        unfinished.rename(data / "postgres")
        sync_folder(data)


def initialise(
    data: Path,
    programs: Programs,
    account: Account,
    stop: threading.Event | None = None,
    options: tuple[str, ...] = ("--data-checksums",),
) -> Path:
    """A whole new cluster, synced to the disk, under a temporary name in the data folder."""
    with plain_errors(data):
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED_PREFIX, dir=data))
        give_to(account, folder)
    arguments = [programs["initdb"], "--pgdata", str(folder), "--username", SUPERUSER]
    arguments += ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    arguments += ["--auth=reject", "--no-instructions", "--no-sync", *options]
    arguments += [f"--set={name}={value}" for name, value in ADVISED.items()]
    # Its working folder is how the next start recognises it, should we be killed meanwhile.
    outcome = run(arguments, account, folder=folder, stop=stop)
    if outcome.code == 0:
        write_access_rules(folder, account)
        sync = [programs["initdb"], "--sync-only", "--pgdata", str(folder)]
        outcome = run(sync, account, folder=folder, stop=stop)
    if outcome.code != 0:
        shutil.rmtree(folder, ignore_errors=True)
        raise explained("The database could not be made", outcome.output, data)
    return folder


def explained(what: str, output: str, place: Path) -> EmbeddedError:
    """The error for what a program of PostgreSQL printed before it gave up."""
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return DiskFull(f"{what}: no space is left for {place}. Make some, then start again.")
    return EmbeddedError(f"{what}: {_reason(output)} (look into {place}).")


def _reason(output: str) -> str:
    lines = output.splitlines()
    for mark in ("PANIC:", "FATAL:", "ERROR:", "error:"):
        for before, line in zip(["", *lines], lines, strict=False):
            if mark not in line:
                continue
            if "contains errors" in line and before:  # which ones, the line before says
                line = before.replace("LOG:", mark)
            return line.partition(mark)[2].strip()
    return last_line(output)


def sync_folder(folder: Path) -> None:
    """Make renames in this folder survive a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_unfinished(data: Path) -> None:
    """Remove clusters that were never finished, and end what may still be working on them."""
    for folder in data.glob(f"{UNFINISHED_PREFIX}*"):
        for _ in range(2):  # initdb may have begun a process between the look and its end
            for process in processes_in(folder, data):
                process.signal(signal.SIGKILL)
                process.ended(KILL_SECONDS)
                process.close()
        with plain_errors(folder):
            shutil.rmtree(folder)


def write_access_rules(cluster: Path, account: Account) -> bool:
    """Let in this user, and root where Bursar runs as root; whether anything had to change."""
    names = [account.name, "root"] if account.identity else [account.name]
    ident = "".join(f'bursar "{name}" all\n' for name in names)
    wanted = {"pg_hba.conf": HBA, "pg_ident.conf": ident}
    stale = {name: text for name, text in wanted.items() if _text(cluster / name) != text}
    for name, text in stale.items():
        outcome = run(["tee", str(cluster / name)], account, text=text)
        if outcome.code != 0:
            raise explained(f"{name} could not be written", outcome.output, cluster)
    return bool(stale)


def _text(path: Path) -> str | None:
    try:
        return path.read_text()
    except (FileNotFoundError, UnicodeDecodeError):
        return None


def server_command(cluster: Path, programs: Programs, address: Address, logs: Path) -> list[str]:
    """The command line of the server, with everything that Bursar promises about it."""
    settings = PINNED | {
        "unix_socket_directories": str(address.socket_folder),
        "hba_file": str(cluster / "pg_hba.conf"),
        "ident_file": str(cluster / "pg_ident.conf"),
        "log_directory": str(logs),
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [programs["postgres"], "-D", str(cluster), *options]


def was_stopped_properly(cluster: Path, programs: Programs, account: Account) -> bool:
    """Whether the cluster needs no recovery, as its control file says."""
    outcome = run([programs["pg_controldata"], str(cluster)], account)
    return "cluster state:               shut down" in outcome.output


def sign_in(programs: Programs, account: Account, address: Address, script: str) -> str | None:
    """Run a script as superuser through the socket; None if it worked, else what was printed."""
    arguments = [programs["psql"], "-XqAtw", "-v", "ON_ERROR_STOP=1"]
    arguments += ["-h", str(address.socket_folder), "-U", SUPERUSER, "-d", "postgres"]
    outcome = run(arguments, account, text=script)
    return None if outcome.code == 0 else outcome.output


def make_log_folder(data: Path, account: Account) -> Path:
    """The folder for the server's logs, which only its user may read."""
    logs = data / "postgres-logs"
    with plain_errors(logs):
        if not logs.exists():
            logs.mkdir(mode=0o700)
            give_to(account, logs)
    return logs


def remove_old_logs(logs: Path, account: Account) -> None:
    """Keep the newest log files; PostgreSQL rotates them but never removes one."""
    names = sorted(path.name for path in logs.glob("postgres-*.log"))
    remove_files(logs, account, set(names[:-LOG_FILES_KEPT]))


def reason_in_log(logs: Path, since: float) -> str:
    """The lines of the newest log that say why the server gave up, if it came that far."""
    files = sorted(path for path in logs.glob("postgres-*.log") if path.lstat().st_mtime >= since)
    if not files or files[-1].is_symlink():
        return ""
    return files[-1].read_bytes()[-4096:].decode(errors="replace")
