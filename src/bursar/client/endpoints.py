"""What a call is counted as: the route it will take, not its address, of which there is no end."""

import re
import sys
from collections.abc import Iterable
from typing import Any

from bursar.client.callers import Connection

LONGEST = 300
UNMATCHED = "unmatched"
NUMBERED = re.compile(r"(?!v\d+$)[^/]*\d[^/]*")  # a segment with a digit, except a version


def endpoint_of(scope: Connection, app: Any) -> str:
    """The route's own text, where the application has routes as Starlette and FastAPI have them.

    Of any other application: the path, with every segment that holds a digit as {id}.
    """
    path: str = scope["path"]
    root: str = scope.get("root_path", "")
    if f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :] or "/"
    routes = getattr(scope.get("app", app), "routes", None)
    if not routes:
        return plain(path)
    method = scope.get("method", "GET") if scope["type"] == "http" else None
    return plain(find(routes, "GET" if method == "HEAD" else method, path) or UNMATCHED, ids=False)


def find(routes: Iterable[Any], method: str | None, path: str) -> str | None:
    """As the application will match it: the first that fits, else one that lacks the method."""
    almost = None
    for route in flat(routes):
        pattern, name = getattr(route, "path_regex", None), getattr(route, "path_format", None)
        match = pattern.match(path) if pattern is not None and name else None
        if match is None:
            continue
        original = getattr(route, "original_route", route)
        if inner := getattr(original, "routes", None):
            found = find(inner, method, "/" + match["path"])
            return f"{original.path}{found}" if found else None
        if takes(getattr(route, "methods", None), method):
            return str(name)
        almost = almost or str(name)
    return almost


def flat(routes: Iterable[Any]) -> Iterable[Any]:
    """FastAPI nests routers, and has a function that says which routes come of it."""
    contexts = getattr(sys.modules.get("fastapi.routing"), "iter_route_contexts", None)
    return contexts(routes) if contexts else routes


def takes(methods: set[str] | None, method: str | None) -> bool:
    return methods is None or (method in methods if method else not methods)


def plain(text: str, *, ids: bool = True) -> str:
    """As it may stand in a record."""
    if ids:
        text = "/".join("{id}" if NUMBERED.fullmatch(part) else part for part in text.split("/"))
    clean = "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f")
    return clean.encode(errors="replace").decode()[:LONGEST] or "/"
