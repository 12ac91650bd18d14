"""The chain of migrations is linear and dated, and makes what the models describe."""

import itertools
import re
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection

from bursar.core import migrate
from bursar.migrations.metadata import ours, target_metadata
from tests.conftest import Live

REVISION = re.compile(r"20\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])_\d{4}")


def chain() -> list[Script]:
    config = Config()
    config.set_main_option("script_location", str(migrate.PACKAGE / "migrations"))
    return list(ScriptDirectory.from_config(config).walk_revisions())[::-1]


def test_the_chain_is_linear_and_dated() -> None:
    links = chain()
    for before, after in itertools.pairwise(links):
        assert after.down_revision == before.revision
        assert after.revision > before.revision
    assert links[0].down_revision is None
    assert migrate.head() == links[-1].revision


def test_each_file_is_named_for_its_revision() -> None:
    for link in chain():
        assert REVISION.fullmatch(link.revision)
        assert Path(link.path).name.startswith(f"{link.revision}_")
        assert link.doc


def test_every_database_sql_is_applied() -> None:
    package = migrate.PACKAGE
    there = {path.relative_to(package).as_posix() for path in package.rglob("*.sql")}
    assert set(migrate.SQL_FILES) == there


async def test_the_models_are_what_the_migrations_make(live_db: Live) -> None:
    engine = migrate.owner_engine(live_db.url, live_db.settings)
    try:
        async with engine.connect() as connection:
            assert await connection.run_sync(differences) == []
    finally:
        await engine.dispose()


def differences(connection: Connection) -> list[Any]:
    options = {"include_name": by_name, "compare_type": True, "compare_server_default": True}
    context = MigrationContext.configure(connection, opts=options)
    return list(compare_metadata(context, target_metadata))


def by_name(name: str | None, kind: str, _: Any) -> bool:
    """As in migrations/env.py, but before SQLAlchemy looks at columns it does not know."""
    return ours(None, name, kind, True, None)
