"""One JSON object per line on stderr, or readable text; no request body, token or secret in it.

Nor an API key, whoever put it into a path or a message: each line is looked through here.
"""

import logging
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import orjson

from bursar.core.api_keys import masked
from bursar.core.settings import Settings

direct: "logging.StreamHandler[Any]" = logging.StreamHandler()  # until `configure`: no formatter
QUIET = {"alembic": logging.WARNING, "asyncio": logging.WARNING, "sqlalchemy": logging.WARNING}


def configure(settings: Settings) -> None:
    """Sends every logger of this process through one handler."""
    direct.setStream(sys.stderr)
    direct.setFormatter(JsonLines() if settings.log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [direct]
    root.setLevel(settings.log_level.upper())
    for name, level in QUIET.items():
        logging.getLogger(name).setLevel(level)


def answered(logger: logging.Logger, fields: dict[str, Any]) -> None:
    """The line of an answered request. Written directly where it is JSON: a tenth of a hot read
    goes into the records and locks of logging."""
    if not isinstance(direct.formatter, JsonLines):
        logger.info("request", extra={"fields": fields})
        return
    line = {"time": datetime.now(UTC), "level": "info", "logger": logger.name}
    with suppress(OSError, ValueError):  # nobody reads the log any more: the request goes on
        direct.stream.write(as_line({**line, "message": "request", **fields}) + "\n")


class JsonLines(logging.Formatter):
    """For machines; what a caller passes as extra={"fields": {...}} becomes members."""

    def format(self, record: logging.LogRecord) -> str:
        return as_line({**head(record), **body(record)})


def as_line(fields: dict[str, Any]) -> str:
    return masked(orjson.dumps(fields, default=str, option=orjson.OPT_UTC_Z).decode())


class TextLines(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        rest = {key: value for key, value in body(record).items() if key != "exception"}
        pairs = " ".join(f"{key}={plain(rest[key])}" for key in rest if key != "message")
        trace = f"\n{body(record)['exception']}" if record.exc_info else ""
        moment = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S")
        line = f"{moment} {record.levelname.lower():7} {record.getMessage()} {pairs}"
        return masked(line.rstrip() + trace)


def plain(value: Any) -> str:
    """One line stays one line, whatever a caller has put into a path."""
    return str(value).encode("unicode_escape").decode()


def head(record: logging.LogRecord) -> dict[str, Any]:
    return {
        "time": datetime.fromtimestamp(record.created, UTC),
        "level": record.levelname.lower(),
        "logger": record.name,
    }


def body(record: logging.LogRecord) -> dict[str, Any]:
    fields: dict[str, Any] = {"message": record.getMessage(), **getattr(record, "fields", {})}
    if record.exc_info and record.exc_info[0]:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
    return fields
