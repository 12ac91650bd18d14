"""Writes the OpenAPI document without a database."""

from pathlib import Path
from tempfile import TemporaryDirectory

from bursar.app import create_app
from bursar.commands.terminal import answer_json
from bursar.core.settings import Settings


def run() -> None:
    with TemporaryDirectory() as folder:
        app = create_app(Settings(data=Path(folder)), "postgresql://nobody@127.0.0.1/none")
        answer_json(app.openapi())
