"""Every failure leaves as an RFC 9457 problem document with a stable code and no secret in it."""

import html
from collections.abc import Iterable
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from bursar.core import exact
from bursar.core.api_keys import masked
from bursar.core.database_errors import SQL_ERRORS, translate
from bursar.core.errors import BursarError, InvalidInput, NotFound

MEDIA_TYPE = "application/problem+json"
MOST_ERRORS = 100
TYPE_PREFIX = "/docs/errors#"


class MethodNotAllowed(BursarError, status=405, code="method_not_allowed"):
    """The address exists, but not for this method; `Allow` lists those it takes."""


class Unreadable(BursarError, status=400, code="unreadable"):
    """The request is broken as HTTP and was not looked at further."""


class Internal(BursarError, status=500, code="internal"):
    """A defect of ours; the request id finds it in the log. Nothing was changed."""


class FieldError(BaseModel):
    """One bad field: where it stands, what is wrong with it."""

    pointer: str
    detail: str
    code: str


class Problem(BaseModel):
    """An RFC 9457 problem document."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | None = None


def install(app: FastAPI) -> None:
    """Sends every kind of failure through `answer`."""
    app.add_exception_handler(BursarError, handle)
    app.add_exception_handler(RequestValidationError, handle)
    app.add_exception_handler(HTTPException, handle)
    for driver_error in SQL_ERRORS:
        app.add_exception_handler(driver_error, handle)


async def handle(request: Request, error: Exception) -> Response:
    known = recognise(error)
    if known is None:
        raise error  # the edge logs it and answers 500
    if known.status == 405:
        known.headers["Allow"] = ", ".join(methods_of(request))
    return answer(known, request.state.request_id)


def recognise(error: Exception) -> BursarError | None:
    """The error in Bursar's words; None for a defect."""
    if isinstance(error, BursarError):
        return error
    if isinstance(error, RequestValidationError):
        return from_validation(error.errors())
    if isinstance(error, HTTPException):
        return from_http(error)
    return translate(error)


def methods_of(request: Request) -> list[str]:
    """All methods of this path; Starlette tells those of the first route only.

    Of the path that is declared first: /api-keys/leaks is not a key of that name as well.
    """
    found: set[str] = set()
    first: str | None = None
    for context in iter_route_contexts(request.app.routes):
        if context.methods and context.path_regex.match(request.url.path):
            first = first or context.path_format
            found |= context.methods if context.path_format == first else set()
    if "GET" in found or not found:  # nothing was found: a folder of files, which are read
        found |= {"GET", "HEAD"}
    return sorted(found)


def of_body(error: ValidationError) -> InvalidInput:
    """What a model says of a body, or of an item of one."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    return from_validation({**each, "loc": ("body", *each["loc"])} for each in found)


def from_validation(errors: Iterable[dict[str, Any]]) -> InvalidInput:
    """FastAPI's complaints as pointers: /name for the body, ?name for the query."""
    fields = [
        {"pointer": pointer(e["loc"]), "detail": sentence(e["msg"]), "code": e["type"]}
        for e in errors
    ]
    first = fields[0]
    more = f" ({len(fields)} fields are wrong)" if len(fields) > 1 else ""
    return InvalidInput(f"{first['pointer'] or 'body'}: {first['detail']}{more}", errors=fields)


def pointer(location: tuple[Any, ...]) -> str:
    place, *path = location
    if place == "body":
        return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)
    return f"{ {'query': '?', 'header': 'header ', 'path': 'path '}.get(place, f'{place} ') }" + (
        ".".join(str(part) for part in path)
    )


def sentence(message: str) -> str:
    return message.removeprefix("Value error, ").rstrip(".") + "."


def from_http(error: HTTPException) -> BursarError:
    """What Starlette raises by itself: no such path, no such method, a broken request."""
    if isinstance(error.__cause__, BursarError):
        return error.__cause__  # raised while the body was read; FastAPI makes a 400 of it
    if error.status_code == 404:
        return NotFound("There is nothing at this address.")
    if error.status_code == 405:
        return MethodNotAllowed("This address does not take that method.")
    return Unreadable("The request could not be read.")


def answer(error: BursarError, request_id: str) -> Response:
    document: dict[str, Any] = {
        "type": TYPE_PREFIX + error.code,
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "request_id": request_id,
        **error.extra,
    }
    if error.errors is not None:
        document["errors"] = error.errors[:MOST_ERRORS]
    return Response(
        masked(orjson.dumps(document, default=exactly).decode()),  # what is wrong may be quoted
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=error.headers,
    )


def exactly(value: Any) -> Any:
    return exact.as_number(value) if isinstance(value, Decimal) else str(value)


def documented(*errors: type[BursarError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route: each error it may answer, by status, for OpenAPI."""
    by_status: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        line = f"`{error.code}`: {' '.join((error.__doc__ or '').split())}"
        entry = by_status.setdefault(error.status, problem_response([]))
        entry["description"] = f"{entry['description']}\n\n{line}".strip()
    return by_status


def problem_response(lines: list[str]) -> dict[str, Any]:
    return {
        "description": "\n\n".join(lines),
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


def error_page(others: Iterable[tuple[int, str, str]]) -> str:
    """The page that each problem's `type` points to: every code with its meaning.

    `others`: the status, code and meaning of what is answered in our name where we are not asked.
    """
    errors = {code: (status, meaning) for status, code, meaning in others}
    for code, error in BursarError.registry.items():
        errors[code] = (error.status, " ".join((error.__doc__ or "").split()))
    rows = "".join(
        f'<tr id="{code}"><td><code>{code}</code></td><td>{status}</td>'
        f"<td>{html.escape(meaning)}</td></tr>"
        for code, (status, meaning) in sorted(errors.items())
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><title>Errors of the Bursar API'
        "</title><h1>Errors of the Bursar API</h1><table><thead><tr><th>Code<th>Status<th>Meaning"
        f"</thead><tbody>{rows}</tbody></table></html>"
    )
