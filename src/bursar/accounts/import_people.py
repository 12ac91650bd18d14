"""One record of an import is a person who can be stored, or every reason why it is not.

A reason never repeats what stands in the file: in a file with its columns in the wrong order, that
may be a password.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Any
from uuid import UUID

from bursar.accounts import emails
from bursar.accounts.import_files import Column, Record
from bursar.accounts.models import CustomerRole, Status, Tier
from bursar.auth.actor import OPERATOR_ID
from bursar.auth.passwords import is_known_hash
from bursar.core.wire import one_line

MOST_COLUMNS_NAMED = 50


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody as the table takes them."""

    line: int
    email: str
    id: UUID | None = None
    username: str | None = None
    name: str = ""
    first_name: str = ""
    last_name: str = ""
    user_type: str = "customer"
    role: str = CustomerRole.INDIVIDUAL_CLIENT
    tier: str = Tier.FREE
    status: str = Status.ACTIVE
    email_verified: bool = False
    password_hash: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    last_login: datetime | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """A line that is not taken, and all that is wrong with it."""

    line: int
    last_line: int
    reasons: list[str]
    email: str | None = None  # only where it is one


class Reader:
    """Makes people of records, and remembers those it has seen: nobody may be there twice."""

    def __init__(self) -> None:
        self.ignored: dict[str, None] = {}  # columns, in the order in which they were met
        self.ids_not_kept = 0
        self._lines: dict[str, dict[Any, int]] = {"email": {}, "username": {}, "id": {}}

    def read(self, record: Record) -> Person | Rejected:
        if record.fault:
            return Rejected(record.line, record.last_line, [record.fault])
        values, unknown = sorted_out(record)
        self._note(values, unknown)
        facts, reasons = facts_of(values)
        reasons += misplaced(unknown)
        reasons += self._met_before(facts) if not reasons else []
        if reasons:
            return Rejected(record.line, record.last_line, reasons, facts.get("email"))
        person = person_of(record.line, facts)
        for name, key in keys_of(facts).items():
            self._lines[name][key] = record.line
        return person

    def _note(self, values: "Values", unknown: list["Cell"]) -> None:
        """Most older systems count their users; such a number means nothing here."""
        if ids := values.pop("id", []):
            if kept := [cell for cell in ids if looks_like_uuid(cell[1])]:
                values["id"] = kept
            else:
                self.ids_not_kept += 1
        for column, _ in unknown:
            if len(self.ignored) < MOST_COLUMNS_NAMED:
                self.ignored[shown(column.name)] = None

    def _met_before(self, facts: dict[str, Any]) -> list[str]:
        return [
            f"{name}: is on line {self._lines[name][key]} already"
            for name, key in keys_of(facts).items()
            if key in self._lines[name]
        ]


Cell = tuple[Column, Any]
Values = dict[str, list[Cell]]


def sorted_out(record: Record) -> tuple[Values, list[Cell]]:
    """By field what is given, and what belongs to none."""
    values: Values = {}
    unknown = []
    for column, raw in record.cells:
        value = raw.strip() if isinstance(raw, str) else raw
        if column.field is None:
            unknown.append((column, value))
        elif value not in MISSING:
            values.setdefault(column.field, []).append((column, value))
    return values, unknown


MISSING = (None, "", "\\N")  # the last one is what MySQL and PostgreSQL write for null


def looks_like_uuid(value: object) -> bool:
    return isinstance(value, str) and UUID_TEXT.fullmatch(value) is not None


UUID_TEXT = re.compile(r"[0-9A-Fa-f]{8}(-?[0-9A-Fa-f]{4}){3}-?[0-9A-Fa-f]{12}")


def keys_of(facts: dict[str, Any]) -> dict[str, Any]:
    """What two people cannot share, as the database compares it."""
    keys = {"email": facts.get("email"), "id": facts.get("id")}
    keys["username"] = facts["username"].lower() if facts.get("username") else None
    return {name: key for name, key in keys.items() if key is not None}


def misplaced(unknown: list[Cell]) -> list[str]:
    """Nobody brings their password along later, so a hash under a name unknown to us is no trifle.

    What is ignored otherwise can be looked up in the old system.
    """
    return [
        f"{shown(column.name)}: holds a password hash; call the column password_hash"
        for column, value in unknown
        if isinstance(value, str) and value.startswith(("$", "pbkdf2")) and is_known_hash(value)
    ]


def shown(name: str) -> str:
    """The name of a column, on one line and not endless."""
    text = name if len(name) <= 40 else f"{name[:40]}…"
    return text if text.isprintable() else ascii(text)


def facts_of(values: Values) -> tuple[dict[str, Any], list[str]]:
    """What is right, and the reasons for what is not."""
    facts: dict[str, Any] = {}
    reasons = [] if "email" in values else ["email: is missing"]
    for name, given in values.items():
        column, value = given[0]
        if any(other != value for _, other in given):
            names = " and ".join(shown(each.name) for each, _ in given)
            reasons.append(f"{names}: say different things")
            continue
        try:
            facts[name] = CHECKS[name](value)
        except ValueError as error:
            reasons.append(f"{shown(column.name)}: {error}")
    if not (facts.get("first_name") or facts.get("last_name")):
        reasons += unsplittable(facts.get("name", ""))
    return facts, reasons


def unsplittable(name: str) -> list[str]:
    """The trigger keep_names_in_step makes two of a whole name; both have to fit."""
    first, _, last = name.partition(" ")
    fits = max(len(first), len(last.strip(" "))) <= LONGEST_PART
    return [] if fits else [f"name: each part of it has at most {LONGEST_PART} characters"]


def person_of(line: int, facts: dict[str, Any]) -> Person:
    """Whoever is active by one column and not by another stays outside."""
    if not facts.pop("is_active", True) and facts.get("status", Status.ACTIVE) == Status.ACTIVE:
        facts["status"] = Status.SUSPENDED
    return Person(line, **facts)


# What a field may hold; a ValueError says what it has to be


def text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("has to be text")
    return value


def email(value: object) -> str:
    try:
        stored = normal_email(text(value))
    except ValueError as error:  # what follows these two repeats parts of the address
        raise ValueError(re.split("[:(]", str(error))[0].rstrip(" .")) from None
    if len(stored.partition("@")[0]) > LONGEST_LOCAL_PART:
        raise ValueError(f"has at most {LONGEST_LOCAL_PART} characters before the @")
    return stored


def normal_email(address: str) -> str:
    """As emails.normal, in a tenth of its time: most people share their domain with others."""
    local, _, domain = address.rpartition("@")
    if PLAIN_LOCAL_PART.fullmatch(local) and len(address) <= SURELY_SHORT:
        stored = f"{local.lower()}@{normal_domain(domain)}"
        if len(stored) <= SURELY_SHORT:
            return stored
    return emails.normal(address)


@lru_cache(maxsize=10_000)
def normal_domain(domain: str) -> str:
    return emails.normal(f"a@{domain}").removeprefix("a@")


PLAIN_LOCAL_PART = re.compile(r"[A-Za-z0-9_+-]+(\.[A-Za-z0-9_+-]+)*")
SURELY_SHORT = 200  # for what is longer, emails.normal has limits on several parts
LONGEST_LOCAL_PART = 64
LONGEST_PART, LONGEST_NAME = 100, 200  # of a name


def uuid(value: object) -> UUID:
    found = UUID(text(value))
    if found.int in RESERVED:
        raise ValueError("is reserved")
    return found


RESERVED = {0, OPERATOR_ID.int, UUID(int=2**128 - 1).int}


def username(value: object) -> str:
    if not USERNAME.fullmatch(text(value)):
        raise ValueError("has 3 to 50 letters, digits, dots, dashes and underscores")
    return text(value)


USERNAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,48}[A-Za-z0-9]")


def a_name(longest: int) -> Callable[[object], str]:
    def check(value: object) -> str:
        if len(text(value)) > longest:
            raise ValueError(f"has at most {longest} characters")
        try:
            stored = one_line(text(value))
        except ValueError:
            raise ValueError("has a line break or a control character in it") from None
        if len(stored) > longest:
            raise ValueError(f"has at most {longest} characters")
        return stored

    return check


def user_type(value: object) -> str:
    if not USER_TYPE.fullmatch(text(value)):
        raise ValueError("is one word of at most 50 letters, digits, dashes and underscores")
    return text(value)


USER_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,49}")


def one_of(kind: type[StrEnum]) -> Callable[[object], str]:
    allowed = {one.value: None for one in kind}

    def check(value: object) -> str:
        found = text(value).lower()
        if found not in allowed:
            raise ValueError(f"has to be one of: {', '.join(allowed)}")
        return found

    return check


def yes_or_no(value: object) -> bool:
    found = YES_OR_NO.get(str(value).lower()) if isinstance(value, str | bool | int) else None
    if found is None:
        raise ValueError("has to be true or false")
    return found


YES_OR_NO = dict.fromkeys(("true", "t", "yes", "y", "1"), True)
YES_OR_NO |= dict.fromkeys(("false", "f", "no", "n", "0"), False)


def password_hash(value: object) -> str | None:
    """Django writes an exclamation mark and 40 letters for somebody who has no password."""
    if DJANGO_NONE.fullmatch(text(value)):
        return None
    if not is_known_hash(text(value)):
        raise ValueError(
            "is no hash that is known (bcrypt, PBKDF2-SHA256, Argon2id); "
            "a password in plain text is never taken"
        )
    return text(value)


DJANGO_NONE = re.compile(r"![A-Za-z0-9]{40}")


def moment(value: object) -> datetime:
    """Without an offset it is UTC."""
    try:
        found = datetime.fromisoformat(text(value))
    except ValueError:
        raise ValueError("is no time such as 2024-05-17T09:30:00Z") from None
    found = found if found.tzinfo else found.replace(tzinfo=UTC)
    if not EARLIEST <= found <= datetime.now(UTC) + timedelta(days=1):
        raise ValueError("is before 1970 or in the future")
    return found


EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)

CHECKS: dict[str, Callable[[object], Any]] = {
    "id": uuid,
    "email": email,
    "username": username,
    "name": a_name(LONGEST_NAME),
    "first_name": a_name(LONGEST_PART),
    "last_name": a_name(LONGEST_PART),
    "user_type": user_type,
    "role": one_of(CustomerRole),
    "tier": one_of(Tier),
    "status": one_of(Status),
    "is_active": yes_or_no,
    "email_verified": yes_or_no,
    "password_hash": password_hash,
    "created_at": moment,
    "last_login": moment,
}
