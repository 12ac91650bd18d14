"""Runs SQL of several statements inside the migration's transaction."""

from typing import Any

from alembic import op
from sqlalchemy.util import await_only


def run(sql: str) -> None:
    """asyncpg takes more than one statement only as a plain script, past SQLAlchemy's cursor."""
    connection: Any = op.get_bind().connection.driver_connection
    await_only(connection.execute(sql))
