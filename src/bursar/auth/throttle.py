"""How often something may be tried: counted in PostgreSQL, so right across processes and restarts.

    await throttle.count(database, throttle.login(kind, email, address))   # or TooManyAttempts
    ...
    await throttle.forget(database, throttle.login(kind, email, address))  # it was the password

Counting is a transaction of its own: what the request does afterwards does not undo it. So it is
called before the request has opened anything, and never with rows of these counters locked.
"""

import ipaddress
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID
from weakref import WeakKeyDictionary

from bursar.auth.actor import Kind
from bursar.core import failures
from bursar.core.database import DOOR, Database
from bursar.core.database_errors import DRIVER_ERRORS
from bursar.core.errors import BursarError
from bursar.core.seal import Seal

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limit:
    """So many times in so many seconds, from the first attempt on.

    `forgiven` by success: those who know the password have not been guessing it. Never so for a
    limit of an address, or an account of their own would buy everybody there new attempts.
    """

    name: str
    times: int
    seconds: int
    forgiven: bool = False


MINUTES, HOUR, DAY = 5 * 60, 3600, 24 * 3600

LOGIN = Limit("login", 10, MINUTES, forgiven=True)  # to an account from an address
LOGIN_TO = Limit("login_to", 100, HOUR, forgiven=True)  # to an account from everywhere
LOGIN_FROM = Limit("login_from", 300, MINUTES)  # an office may share one address
# One row for the whole installation. Measured, it takes 5,500 attempts a second (8,400 without it),
# and no more when spread over sixteen: its lock is held for one short statement, not for a disk.
LOGIN_EVERYWHERE = Limit("login_everywhere", 60_000, MINUTES)
SECOND_FACTOR = Limit("second_factor", 5, MINUTES, forgiven=True)
SECOND_FACTOR_DAY = Limit("second_factor_day", 50, DAY, forgiven=True)  # 1 in 6,000 to guess one
PROOF = Limit("proof", 10, MINUTES, forgiven=True)
MAILS_TO = Limit("mails_to", 3, HOUR)  # whoever asks: nobody's inbox is filled by us
MAILS_FROM = Limit("mails_from", 20, HOUR)
MAILS_EVERYWHERE = Limit("mails_everywhere", 20_000, HOUR)  # or a crowd fills the outbox
SIGN_UP = Limit("sign_up", 20, HOUR)
SIGN_UP_EVERYWHERE = Limit("sign_up_everywhere", 20_000, HOUR)
LINKS = Limit("links", 20, MINUTES)  # they cannot be guessed, but each costs a look

Attempts = Sequence[tuple[Limit, str]]


def login(kind: Kind, email: str, address: str | None) -> Attempts:
    who, where = person(kind, email), network_of(address)
    return (
        (LOGIN, f"{who} {where}"),
        (LOGIN_TO, who),
        (LOGIN_FROM, where),
        (LOGIN_EVERYWHERE, ""),
    )


def second_factor(person_id: UUID) -> Attempts:
    """By the id, not the address: whoever gets here has shown the password."""
    return (SECOND_FACTOR, str(person_id)), (SECOND_FACTOR_DAY, str(person_id))


def proof(person_id: UUID) -> Attempts:
    """Somebody who is signed in shows their password once more."""
    return ((PROOF, str(person_id)),)


def mails(kind: Kind, email: str, address: str | None) -> Attempts:
    """A forgotten password, or the mail once more."""
    return (
        (MAILS_TO, person(kind, email)),
        (MAILS_FROM, network_of(address)),
        (MAILS_EVERYWHERE, ""),
    )


def sign_up(address: str | None) -> Attempts:
    return (SIGN_UP, network_of(address)), (SIGN_UP_EVERYWHERE, "")


def links(address: str | None) -> Attempts:
    """A token from a mail is tried."""
    return ((LINKS, network_of(address)),)


def person(kind: Kind, email: str) -> str:
    """Not whether there is one: an unknown e-mail address has the same limits."""
    return f"{kind}:{email.strip().casefold()}"


UNKNOWN = "unknown"


def network_of(address: str | None) -> str:
    """What one household has: an IPv4 address, or the /64 that an IPv6 address is one of many in.

    Whoever has no address, a caller on a socket of this machine, shares a bucket with the like.
    """
    try:
        parsed = ipaddress.ip_address((address or "").partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


class TooManyAttempts(BursarError, status=429, code="auth.too_many_attempts"):
    """This was tried too often; nothing was looked at. Try again after `Retry-After` seconds."""

    @classmethod
    def wait(cls, seconds: int) -> "TooManyAttempts":
        when = f"{seconds} seconds" if seconds < 100 else f"{-(-seconds // 60)} minutes"
        return cls(
            f"Too many attempts; try again in {when}.", headers={"Retry-After": str(seconds)}
        )


async def count(database: Database, attempts: Attempts) -> None:
    """Counts one attempt on all keys or, where one has none left, on none: TooManyAttempts."""
    keys = [digest(database, limit, key) for limit, key in attempts]
    if len(set(keys)) != len(keys):
        raise ValueError("one attempt counts once on each key")
    row = await database.fetch_one(
        DOOR,
        "select count_attempts($2, $3, $4) as seconds",
        keys,
        [limit.times for limit, _ in attempts],
        [limit.seconds for limit, _ in attempts],
    )
    if row and row["seconds"]:
        raise TooManyAttempts.wait(row["seconds"])


async def forget(database: Database, attempts: Attempts) -> None:
    """After a success: what it forgives of these starts again from nothing. The success stands
    whether this succeeds or not: a password was changed, and an error would deny it."""
    if keys := forgiven(database, attempts):
        try:
            await database.fetch_one(DOOR, "select forget_attempts($2)", keys)
        except (BursarError, *DRIVER_ERRORS) as error:
            log.warning("attempts are not forgotten: %s", failures.message(error))


def forgiven(database: Database, attempts: Attempts) -> list[bytes]:
    """The keys of what a success forgives, for `clear_attempts` in its own statement."""
    return [digest(database, limit, key) for limit, key in attempts if limit.forgiven]


_seals: WeakKeyDictionary[Database, Seal] = WeakKeyDictionary()


def digest(database: Database, limit: Limit, key: str) -> bytes:
    """Keyed: whoever reads a dump cannot try out e-mail addresses against it."""
    if database not in _seals:
        _seals[database] = Seal(database.settings.secret_keys, "throttle")
    return _seals[database].mark(f"{limit.name}\0{key}".encode("utf-8", "surrogatepass"))
