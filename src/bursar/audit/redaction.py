"""What a row of the audit trail never holds: passwords, tokens, keys, hashes, nor endless text.

A net under the services, which leave such things out themselves: values under names that sound like
a secret are replaced, at any depth, and so is text that looks like a hash or a token whatever it is
called. A name that ends in what only describes a secret (`key_id`, `password_changed_at`) is none.
"""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import orjson

from bursar.core.api_keys import LOOKS_LIKE_ONE

REDACTED = "[redacted]"
MAX_BYTES = 32_768  # of before and after together; record_audit refuses more
LONG_TEXT = 500
DEEPEST = 20

SECRET = frozenset((
    "password", "passwords", "passwd", "passphrase", "pwd", "secret", "secrets", "token", "tokens",
    "hash", "hashes", "digest", "otp", "totp", "key", "keys", "credential", "credentials",
    "authorization", "cookie", "cookies", "pin", "cvc", "cvv",
))  # fmt: skip
MAY_BE_NUMBERS = frozenset(
    ("password", "passwd", "pwd", "secret", "otp", "totp", "pin", "cvc", "cvv")
)
NUMBERS = (int, float, Decimal)
DESCRIBES = frozenset((
    "id", "ids", "at", "on", "by", "count", "counts", "name", "names", "days", "hours", "minutes",
    "seconds", "type", "kind", "prefix", "price", "limit", "status", "version", "scheme",
))  # fmt: skip
WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|[0-9]+")
GIVEN_AWAY = re.compile(
    r"\$(argon2|2[abxy]\$|scrypt|pbkdf2)|eyJ[\w-]+\.eyJ|Bearer |-----BEGIN |" + LOOKS_LIKE_ONE
)


def is_secret(name: str, value: Any) -> bool:
    """A number under `max_tokens` counts them; under `otp` it is one."""
    words = [word.lower() for word in WORDS.findall(name)]
    if not words or words[-1] in DESCRIBES:
        return False
    return not (MAY_BE_NUMBERS if isinstance(value, NUMBERS) else SECRET).isdisjoint(words)


def redact(value: Any, *, secret: bool = False, depth: int = 0) -> Any:
    """The same without secrets. That there is none (null), yes or no, tells nothing and stays."""
    if value is None or isinstance(value, bool):
        return value
    if secret or isinstance(value, bytes | bytearray | memoryview) or depth > DEEPEST:
        return REDACTED
    if isinstance(value, Mapping):
        return {
            str(name): redact(each, secret=is_secret(str(name), each), depth=depth + 1)
            for name, each in value.items()
        }
    if isinstance(value, str):
        return REDACTED if GIVEN_AWAY.search(value) else value
    if isinstance(value, Sequence | set | frozenset):
        return [redact(each, depth=depth + 1) for each in value]
    return value


def changes(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Of both sides only what differs; a side that is not there leaves the other one whole."""
    if before is None or after is None:
        return (None if before is None else dict(before)), (None if after is None else dict(after))
    missing = object()
    names = [
        name
        for name in {**before, **after}
        if before.get(name, missing) != after.get(name, missing)
    ]
    return (
        {name: before[name] for name in names if name in before},
        {name: after[name] for name in names if name in after},
    )


def encode(
    before: Mapping[str, Any] | None, after: Mapping[str, Any] | None
) -> tuple[str | None, str | None]:
    """Both sides as JSON without secrets, and short enough: long text is cut, or all of it left."""
    texts = as_json(before), as_json(after)
    if size(texts) > MAX_BYTES:
        texts = as_json(shorten(before)), as_json(shorten(after))
    if size(texts) > MAX_BYTES:
        texts = too_large(texts[0]), too_large(texts[1])
    return texts


def as_json(value: Mapping[str, Any] | None) -> str | None:
    if value is None:
        return None
    return orjson.dumps(redact(value), default=plain).decode()


def plain(value: Any) -> Any:
    """A Decimal keeps its digits; anything else that JSON cannot say is named by its type.

    Ids as the driver reads them are of a class of its own, which orjson does not know.
    """
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal) and value.is_finite():
        return orjson.Fragment(format(value, "f"))
    return f"[{type(value).__name__}]"


def size(texts: tuple[str | None, str | None]) -> int:
    return sum(len(text.encode()) for text in texts if text is not None)


def shorten(value: Any, depth: int = 0) -> Any:
    if isinstance(value, str) and len(value) > LONG_TEXT:
        return f"{value[:LONG_TEXT]}… ({len(value)} characters)"
    if isinstance(value, Mapping) and depth <= DEEPEST:
        return {name: shorten(each, depth + 1) for name, each in value.items()}
    if isinstance(value, list | tuple) and depth <= DEEPEST:
        return [shorten(each, depth + 1) for each in value]
    return value


def too_large(text: str | None) -> str | None:
    return text and orjson.dumps({"[too large]": f"{len(text.encode())} bytes"}).decode()
