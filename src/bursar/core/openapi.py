"""The OpenAPI document tells the whole truth: every error of every operation stands in it."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts

from bursar.core.problems import MEDIA_TYPE, Problem, problem_response

COMMON = {
    "413": "The body is larger than this installation takes.",
    "422": "`invalid_input`: one or more fields are wrong; `errors` points at each of them.",
    "503": "Overloaded, or the database cannot be reached; `Retry-After` says when to come back.",
    "default": "Any other failure, as a problem document.",
}
SIGNED_IN = {
    "401": "Not signed in, or the access token is not valid any more.",
    "403": "Signed in, but not allowed.",
}
IDEMPOTENT = {"409": "`idempotency.in_flight`: the first request with this key is still at work."}

IDEMPOTENCY_PARAMETER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
    "description": "The same key and body answer the first answer again.",
}


def install(app: FastAPI) -> None:
    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = describe(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def describe(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes
    )
    schemas = schema.setdefault("components", {}).setdefault("schemas", {})
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs"))
    schemas["Problem"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    own_keys = keeping_own_keys(app)
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            takes_key = method == "post" and path not in own_keys
            complete(operation, takes_key=takes_key)
    return schema


def keeping_own_keys(app: FastAPI) -> set[str]:
    """Paths whose POST says itself what an Idempotency-Key means there, if anything."""
    contexts = [each for each in iter_route_contexts(app.routes) if "POST" in (each.methods or ())]
    return {str(c.path_format) for c in contexts if getattr(c.endpoint, "own_key", False)}


def complete(operation: dict[str, Any], *, takes_key: bool) -> None:
    """Adds what every operation may answer to what its route has declared itself."""
    if operation["responses"].get("422", {}).get("content", {}).get("application/json"):
        del operation["responses"]["422"]  # FastAPI's own form of a validation error
    common = {**COMMON, **(SIGNED_IN if operation.get("security") else {})}
    if takes_key:
        common |= IDEMPOTENT
        operation.setdefault("parameters", []).append(IDEMPOTENCY_PARAMETER)
    for status, description in common.items():
        declared = operation["responses"].get(status)
        if declared is None:
            operation["responses"][status] = problem_response([description])
        elif MEDIA_TYPE in declared.get("content", {}):
            declared["description"] += f"\n\n{description}"
