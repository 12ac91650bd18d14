"""A row's version is its ETag: a reader saves the transfer, a writer cannot overwrite unseen.

What a body shows beyond that, and what changes without a new version (when somebody last signed
in), stands behind a dot: a reader hears of it, a writer's If-Match does not fail for it.
"""

import re
from datetime import datetime
from typing import Annotated

from fastapi import Header, Request, Response

from bursar.core.errors import BursarError


class PreconditionFailed(BursarError, status=412, code="precondition_failed"):
    """The row has changed since the version that If-Match names; read it again."""


IfMatch = Annotated[
    str | None,
    Header(
        description="The ETag that you read; the write is refused if the row has changed since.",
        max_length=200,
    ),
]


def of(version: int, beyond: datetime | None = None) -> str:
    return f'"{version}.{beyond.timestamp():.6f}"' if beyond else f'"{version}"'


BEYOND = re.compile(r"\.[\d.]+(?=\"$)")


def check(if_match: str | None, version: int) -> None:
    """Refuses a write that was meant for another version; without If-Match the last one wins.

    A weak tag is none.
    """
    if if_match is None or if_match.strip() == "*":
        return
    if of(version) not in {BEYOND.sub("", tag.strip()) for tag in if_match.split(",")}:
        raise PreconditionFailed("This has changed since you read it; read it again, then write.")


def unless_known(request: Request, response: Response) -> Response:
    """304 without a body where the reader already has this version."""
    known, tag = request.headers.get("if-none-match"), response.headers.get("etag")
    if known is None or tag is None or response.status_code != 200:
        return response
    if known.strip() == "*" or tag in names(known):
        return Response(status_code=304, headers={"ETag": tag})
    return response


def names(header: str) -> set[str]:
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}
