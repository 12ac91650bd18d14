"""What PostgreSQL and its drivers raise, said in Bursar's own words."""

import logging

import asyncpg
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from bursar.core.errors import BursarError, InvalidInput

log = logging.getLogger("bursar.database")


class DatabaseBusy(BursarError, status=503, code="database.busy"):
    """Every connection is in use; the request did nothing and may be sent again."""

    @classmethod
    def now(cls) -> "DatabaseBusy":
        return cls("All database connections are in use; try again.", headers={"Retry-After": "1"})


class DatabaseUnavailable(BursarError, status=503, code="database.unavailable"):
    """The database cannot be reached; the request did nothing and may be sent again."""

    @classmethod
    def now(cls) -> "DatabaseUnavailable":
        return cls(
            "The database cannot be reached at the moment; try again.", headers={"Retry-After": "2"}
        )


class OutcomeUnknown(BursarError, status=503, code="database.outcome_unknown"):
    """The database was lost while it committed: look whether the change is there, or repeat the
    request with the same Idempotency-Key."""

    @classmethod
    def now(cls) -> "OutcomeUnknown":
        return cls(
            "The database was lost while it committed, so this may or may not have happened: look, "
            "or repeat the request with the same Idempotency-Key.",
            headers={"Retry-After": "2"},
        )


class DatabaseSlow(BursarError, status=503, code="database.too_slow"):
    """A statement ran into its time limit and was ended; nothing was changed."""

    @classmethod
    def now(cls) -> "DatabaseSlow":
        return cls(
            "This took longer than it may and was ended; nothing was changed.",
            headers={"Retry-After": "5"},
        )


class Conflict(BursarError, status=409, code="conflict"):
    """Another request changed the same thing at the same time; read it again and retry."""

    @classmethod
    def now(cls) -> "Conflict":
        return cls("Another request changed the same thing at the same time; try again.")


# serialization failure, deadlock, lock not available, unique and exclusion constraints
CONFLICTS = {"40001", "40P01", "55P03", "23505", "23P01"}
TOO_SLOW = {"57014", "25P03", "25P04"}  # statement, idle and transaction time limits
# what a caller sent: too long, out of range, no such time, unstorable characters
CALLERS = {"22001", "22003", "22007", "22008", "22021", "22P02", "22P05"}
# lost for now, but by an answer: out of resources, a standby, sign-in refused
SAID_NO = ("53", "25006", "28")
GONE = ("08", "57P", *SAID_NO)  # or connection lost, server going down or starting

SQL_ERRORS = (
    SQLAlchemyError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
DRIVER_ERRORS = (*SQL_ERRORS, OSError)  # for code that opens connections of its own


def translate(error: BaseException) -> BursarError | None:
    """Bursar's word for a driver's error; None where it is a defect of ours.

    Not for OSError or TimeoutError as such: those may come from anything that a handler does.
    """
    if isinstance(error, PoolTimeout):
        return DatabaseBusy.now()
    if is_lost(error):
        log.warning("the database was lost: %s", state_of(error) or type(error).__name__)
        return DatabaseUnavailable.now()
    state = state_of(error)
    if named := BursarError.by_sqlstate.get(state):
        return named(words_of(error))
    if state in CALLERS or is_unsendable(error):
        return InvalidInput("A value is out of range or has characters that cannot be stored.")
    if state in CONFLICTS:
        return Conflict.now()
    return DatabaseSlow.now() if state in TOO_SLOW else None


def state_of(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) else error
    return getattr(cause, "sqlstate", None) or ""


def words_of(error: BaseException) -> str:
    """What a function in the database said when it raised this, without rows and places."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    told = getattr(cause, "__cause__", None) or cause
    return str(getattr(told, "message", told))


def is_lost(error: BaseException) -> bool:
    """The connection, or the server behind it, is not there any more."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    if isinstance(error, asyncpg.InternalClientError):
        return True  # the server went away between two messages
    closed = isinstance(error, asyncpg.InterfaceError) and "closed" in str(error)
    return closed or state_of(error).startswith(GONE)


def leaves_open(error: BaseException) -> bool:
    """What was sent had no answer when it was lost: it may have happened, or happen yet."""
    lost = isinstance(error, OSError) or is_lost(error)
    return lost and not state_of(error).startswith(SAID_NO)


def is_unsendable(error: BaseException) -> bool:
    """asyncpg could not put a parameter into the form of its column."""
    if isinstance(error, asyncpg.DataError):
        return not state_of(error)
    return isinstance(error, DBAPIError) and "invalid input for query argument" in str(error)
