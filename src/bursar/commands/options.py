"""Options that several commands share, so that each means the same everywhere."""

from pathlib import Path
from typing import Annotated

import typer

Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="The data folder.",
        metavar="DIR",
        show_default=False,
        readable=False,  # whether it can be used is said by who uses it, with what to do
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
