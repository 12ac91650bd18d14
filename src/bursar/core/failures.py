"""What is kept of an error: its kind, one bounded line, where it was; no secrets, no values."""

import re
import traceback
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import orjson
import sqlalchemy
from sqlalchemy.exc import StatementError

from bursar.core import api_keys

MAX_MESSAGE = 500
MAX_FRAMES = 12
HIDDEN = "[hidden]"
DRIVERS = tuple(str(Path(str(module.__file__)).parent) for module in (sqlalchemy, asyncpg))
SECRETS = (
    (re.compile(r"(?<=://)[^\s/@]+(?=@)"), HIDDEN),  # user:password@ in an address
    (re.compile(r"(?i)\b(bearer|basic)\s+\S+"), rf"\1 {HIDDEN}"),
    (
        re.compile(
            r"(?i)\b([\w-]*(?:password|passwd|secret|token|api[_-]?key|authorization))"
            r"(['\"]?\s*[=:]\s*)(?:'[^']*'|\"[^\"]*\"|\S+)"
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(?:sk|pk|rk|whsec|ghp|xox[a-z])[-_][A-Za-z0-9_-]{8,}"), HIDDEN),
    (api_keys.ONE, api_keys.HIDDEN),
    (re.compile(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*"), HIDDEN),  # a signed token
)


def message(error: BaseException) -> str:
    """One line for an operator, and no value.

    A database error's later lines (DETAIL) carry rows and parameters, and where a value is not
    what its column takes, so does its first one.
    """
    told: BaseException = error
    if isinstance(error, StatementError) and error.orig:
        told = error.orig.__cause__ or error.orig
    state = getattr(told, "sqlstate", None) or ""
    lines = str(told).splitlines() or [""]
    line = f"a value was refused ({state})" if state.startswith("22") else lines[0]
    for pattern, replacement in SECRETS:
        line = pattern.sub(replacement, line)
    return f"{type(told).__name__}: {line}"[:MAX_MESSAGE]


def where(error: BaseException) -> str:
    """The last places in the code that it came through: a traceback without its text.

    Without the dozen inside SQLAlchemy, behind which the one that matters would be out of sight.
    """
    places = [
        f"{frame.filename}:{frame.lineno} in {frame.name}"
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith(DRIVERS)
    ]
    return "\n".join(places[-MAX_FRAMES:])


def report(job_id: int, error: BaseException) -> str:
    """The same and where it happened, in the shape in which PgQueuer keeps tracebacks."""
    kind, _, line = message(error).partition(": ")
    return orjson.dumps(
        {
            "job_id": job_id,
            "timestamp": datetime.now(UTC),
            "exception_type": kind,
            "exception_message": line,
            "traceback": where(error),
            "additional_context": None,
        }
    ).decode()
