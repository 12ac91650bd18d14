"""Carries the data of an older PostgreSQL into a new cluster, and keeps the old one untouched.

    python -m bursar.core.embedded.upgrade DATA /usr/lib/postgresql/17/bin

The programs of the older version have to be on the machine; no wheel brings two versions.
"""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from bursar.core.embedded import cluster as clusters
from bursar.core.embedded.account import Account, choose, require_access, run
from bursar.core.embedded.copies import reachable_programs
from bursar.core.embedded.errors import (
    DataVersionMismatch,
    EmbeddedError,
    ProgramsMissing,
)
from bursar.core.embedded.folder import (
    Lock,
    make_socket_folder,
    plain_errors,
    prepare,
    remove_socket_folder,
)
from bursar.core.embedded.programs import Programs, major_version

USAGE = "usage: python -m bursar.core.embedded.upgrade DATA FOLDER-OF-THE-OLD-PROGRAMS"


def upgrade(data: Path, old_programs: Path, say: Callable[[str], None]) -> None:
    """Upgrade the cluster in this data folder; whatever goes wrong, the old one stays usable."""
    if not data.is_dir():
        raise DataVersionMismatch(f"There is no database in {data} to upgrade.")
    data = prepare(data)
    old = Programs(old_programs.resolve())
    with plain_errors(data), Lock(data) as lock:
        source = _find_source(data)
        account = choose(data, source)
        require_access(account, source, instead="move the data folder to another place")
        clusters.remove_unfinished(data)
        new = reachable_programs(data, account, say)
        _require_versions(old, new, source, account)
        say(f"making a new database beside {source}")
        target = clusters.initialise(data, new, account, options=_checksums(old, source, account))
        sockets = make_socket_folder(account, lock).socket_folder
        try:
            say("copying the data; this can take minutes")
            _run_pg_upgrade(old, new, source, target, sockets, account)
        finally:
            remove_socket_folder(sockets, account)
            lock.note(account, None)
        kept = _swap(data, source, target)
    say(f"done; the old data is kept in {kept}: remove it when you have seen that all is well")


def _find_source(data: Path) -> Path:
    # An upgrade that was killed between its two renames left only the old cluster, renamed.
    cluster = data / "postgres"
    if cluster.exists():
        return cluster
    for kept in data.glob("postgres.[0-9]*"):
        return kept
    raise DataVersionMismatch(f"There is no database in {data} to upgrade.")


def _require_versions(old: Programs, new: Programs, source: Path, account: Account) -> None:
    if not old.server.is_file():
        raise ProgramsMissing(f"{old.folder} does not hold the programs of a PostgreSQL server.")
    require_access(account, old.server)
    try:
        theirs = int((source / "PG_VERSION").read_text().strip())
    except (FileNotFoundError, ValueError):
        raise DataVersionMismatch(f"{source} holds no PostgreSQL cluster.") from None
    ours = major_version(new, account)
    given = major_version(old, account)
    if theirs >= ours:
        raise DataVersionMismatch(f"{source} is of PostgreSQL {theirs}: nothing to upgrade.")
    if given != theirs:
        raise DataVersionMismatch(
            f"{source} is of PostgreSQL {theirs}, but {old.folder} holds PostgreSQL {given}: "
            f"name the folder with the programs of PostgreSQL {theirs}."
        )


def _checksums(old: Programs, source: Path, account: Account) -> tuple[str, ...]:
    # pg_upgrade copies pages as they are, so both sides have to agree on this.
    outcome = run([old["pg_controldata"], str(source)], account)
    without = "checksum version:           0" in outcome.output
    return ("--no-data-checksums",) if without else ("--data-checksums",)


def _run_pg_upgrade(
    old: Programs, new: Programs, source: Path, target: Path, sockets: Path, account: Account
) -> None:
    arguments = [new["pg_upgrade"], "--username", clusters.SUPERUSER, "--socketdir", str(sockets)]
    arguments += ["--old-bindir", str(old.folder), "--new-bindir", str(new.folder)]
    arguments += ["--old-datadir", str(source), "--new-datadir", str(target)]
    outcome = run(arguments, account, folder=target)
    if outcome.code != 0:
        reason = _reason(target) or " ".join(outcome.output.splitlines()[-3:])
        shutil.rmtree(target, ignore_errors=True)
        raise EmbeddedError(
            f"The data could not be upgraded and is as it was; pg_upgrade said: {reason}"
        )


def _reason(target: Path) -> str:
    """What the logs that pg_upgrade points to say went wrong; they go with the failed cluster."""
    logs = sorted(target.glob("pg_upgrade_output.d/*/log/*.log"), key=lambda p: p.stat().st_mtime)
    lines = [line for log in logs for line in log.read_text(errors="replace").splitlines()]
    words = ("error:", "ERROR:", "FATAL:")
    return next((line.strip() for line in reversed(lines) if any(w in line for w in words)), "")


def _swap(data: Path, source: Path, target: Path) -> Path:
    version = (source / "PG_VERSION").read_text().strip()
    kept = data / f"postgres.{version}"
    source.rename(kept)
    target.rename(data / "postgres")
    clusters.sync_folder(data)
    return kept


def main(arguments: list[str]) -> int:
    def say(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201 - this is a command

    if len(arguments) != 2:
        say(USAGE)
        return 2
    try:
        upgrade(Path(arguments[0]), Path(arguments[1]), say)
    except EmbeddedError as error:
        say(error.detail)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
