"""Where a command works: its settings, and the database of the server or of its own."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bursar.commands.terminal import say
from bursar.core.errors import BursarError
from bursar.core.settings import Settings, load


def settings_of(data: Path | None, **given: object) -> Settings:
    return load(data=data, **given)


@contextmanager
def owner_url(settings: Settings, *, make: bool = False) -> Iterator[str]:
    """The database as its owner: the external one, the running one, or one for this command.

    Only a command that is there for it makes a database in an empty folder: for the others it is a
    folder that was mistyped.
    """
    external = settings.database_direct_url or settings.database_url
    if external:
        yield external.get_secret_value()
        return
    if not make:
        require_database(settings.data)
    from bursar.core import embedded

    with embedded.connect_or_start(settings.data, say) as address:
        yield address.url()


@contextmanager
def migrated_url(settings: Settings) -> Iterator[str]:
    """The same, once it is sure that it is what this release needs."""
    from bursar.core.migrate import check

    with owner_url(settings) as url:
        asyncio.run(check(url, settings))
        yield url


class NoDatabase(BursarError, status=404, code="cli.no_database"):
    """The data folder has no database yet, and this command does not make one."""


def require_database(data: Path) -> None:
    try:
        found = any(entry.name.startswith("postgres") for entry in data.iterdir())
    except PermissionError:
        return  # the next one to look says who may
    except OSError:
        found = False
    if not found:
        raise NoDatabase(f"There is no database in {data}: `bursar serve` makes one there.")
