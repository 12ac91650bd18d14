"""Who calls, as Bursar knows them: `scope["bursar"]` of every call that was let in."""

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

from bursar.core.addresses import canonical

Connection = MutableMapping[str, Any]  # the scope of ASGI


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of the key that was shown, and what is left to them."""

    user_id: str | None
    key_id: str
    tier: str | None
    scopes: frozenset[str]
    quota_remaining: int | None  # None: without end
    usage_id: str | None  # of this call, as it was counted

    @classmethod
    def of(cls, verdict: dict[str, Any]) -> "Caller":
        quota = verdict["quota"] or {}
        return cls(
            verdict["user_id"],
            verdict["key_id"],
            verdict["tier"],
            frozenset(verdict["scopes"] or ()),
            quota.get("remaining"),
            verdict["usage_id"],
        )


def shown_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Authorization counts, X-API-Key where there is none."""
    key = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if scheme.lower() == "bearer" else None
        if name == b"x-api-key":
            key = value.decode("latin-1").strip()
    return key


def address(scope: Connection) -> str | None:
    """Where the caller is, as the server says; None for what is no address, such as a socket."""
    client = scope.get("client")
    try:
        return str(canonical(client[0])) if client else None
    except ValueError:
        return None


def plain_header(scope: Connection, wanted: bytes, longest: int) -> str | None:
    """A header as it may stand in a record: without control characters, and cut."""
    for name, value in scope["headers"]:
        if name == wanted:
            text = value.decode("latin-1")[:longest]
            return "".join(c for c in text if c >= " " and not "\x7f" <= c <= "\x9f") or None
    return None
