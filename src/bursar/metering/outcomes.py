"""How a call ended that keys/verify counted: told afterwards, kept once, counted no second time."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson

from bursar.core.database import WORKER, Database, Within
from bursar.core.errors import BursarError
from bursar.core.wire import as_json

SINCE = datetime(1970, 1, 1, tzinfo=UTC)
SETTLE = "select settle_usage($2::text::json)::text as told"


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """Of one call, named as keys/verify has named it."""

    usage_id: UUID
    user_id: UUID
    status_code: int
    response_time_ms: int | None = None
    error_message: str | None = None


class UnknownCall(BursarError, status=404, code="usage.unknown_call"):
    """No call was counted under this id for this customer, or it is not kept any more."""


class OutcomeKnown(BursarError, status=409, code="usage.outcome_known"):
    """The call has another outcome already; the first one stands."""


Told = str | BursarError  # 'recorded', 'duplicate', or why not


def said(told: str) -> Told:
    if told == "unknown":
        return UnknownCall("No call was counted under this id for this customer.")
    if told == "known":
        return OutcomeKnown("The call has another outcome already; the first one stands.")
    return told


async def settle(
    database: Database | Within, asked: Sequence[CallOutcome | BursarError]
) -> list[Told]:
    """Keeps each outcome once, and answers what became of each, in their order."""
    rows = [
        {
            "n": n,
            "id": each.usage_id,
            "user_id": each.user_id,
            "timestamp": moment.isoformat(),
            "status_code": each.status_code,
            "response_time_ms": each.response_time_ms,
            "error_message": each.error_message,
        }
        for n, each in enumerate(asked)
        if isinstance(each, CallOutcome) and (moment := moment_of(each.usage_id))
    ]
    found: dict[str, str] = {}
    if rows:
        row = await database.write_one(WORKER, SETTLE, as_json(rows).decode())
        assert row is not None  # noqa: S101 - a function answers one row
        found = orjson.loads(row["told"])
    told, first = list[Told](), dict[tuple[UUID, UUID], int]()
    for n, each in enumerate(asked):
        if isinstance(each, BursarError):
            told.append(each)
            continue
        outcome = found.get(str(n), "unknown")
        before = first.setdefault((each.user_id, each.usage_id), n)
        if outcome == "recorded" and before != n:  # the first one of this call stands
            outcome = "duplicate" if asked[before] == each else "known"
        told.append(said(outcome))
    return told


def moment_of(usage_id: UUID) -> datetime | None:
    """When the call was counted, to the microsecond, as time_of_id() in verify.sql wrote it."""
    if usage_id.version != 7:
        return None
    parts = usage_id.int >> 64 & 0xFFF
    milliseconds, microseconds = usage_id.int >> 80, parts * 1000 >> 12
    try:
        return SINCE + timedelta(milliseconds=milliseconds, microseconds=microseconds)
    except OverflowError:
        return None
