"""The database that the programs stand on: Bursar's own PostgreSQL in a folder that goes again."""

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import asyncpg

from bursar.auth.actor import OPERATOR_ID, operator
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import Tokens
from bursar.core.embedded import Embedded
from bursar.core.migrate import migrate
from bursar.core.settings import Settings

KEY = "cache_ttl_seconds"
VALUE = 600
SECRET = "a secret key that only the benchmarks know"


@contextmanager
def new_folder() -> Iterator[Path]:
    """Open to the ordinary user that PostgreSQL runs as where the benchmark runs as root."""
    folder = Path(mkdtemp(prefix="bursar-bench"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def prepare(data: Path) -> None:
    """Makes the database, migrates it and stores the one setting that is read."""
    settings = Settings(data=data, secret_key=SECRET)
    with Embedded(data, say=lambda _: None) as server:
        asyncio.run(fill(server.url(), settings))


async def fill(url: str, settings: Settings) -> None:
    await migrate(url, settings, lambda _: None)
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            subject = str(OPERATOR_ID)
            await connection.execute(
                "select set_config('request.jwt.claim.sub', $1, true)", subject
            )
            await connection.execute(
                "insert into settings (key, value) values ($1, $2)", KEY, str(VALUE)
            )
    finally:
        await connection.close()


def serve(data: Path, *options: str) -> list[str]:
    """The command that a user types, on a port that the harness chooses."""
    return ["-m", "bursar.cli", "serve", "--data", str(data), "--port", "{port}", *options]


ENVIRONMENT = {"BURSAR_SECRET_KEY": SECRET, "BURSAR_DRAIN_SECONDS": "0"}  # stops without a pause


def sign_in() -> dict[str, str]:
    """The header of somebody who may read settings, good for longer than any run."""
    token = Tokens([SECRET]).sign(operator(StaffRole.OWNER), lifetime_seconds=12 * 3600)
    return {"Authorization": f"Bearer {token}"}
