"""Usage: reported by whoever made the calls or served them, and read by whose it is."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bursar.auth.actor import Actor
from bursar.auth.guard import customer_or_key
from bursar.auth.scopes import KeyScope
from bursar.core import files
from bursar.core.batch import Misfit, refused
from bursar.core.database import Database, Db, Within
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.files import Format
from bursar.core.hot import hot
from bursar.core.idempotency import BadKey, KeyInFlight, KeyReused, own_key
from bursar.core.openapi import IDEMPOTENCY_PARAMETER
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Day, Route, Time, answer
from bursar.metering import events, export, keyed, queries
from bursar.metering.event_schemas import (
    Counted,
    EventIn,
    EventsIn,
    EventsOut,
    TooManyEvents,
    is_binary,
)
from bursar.metering.events import (
    BeforeRetention,
    EventConflict,
    InTheFuture,
    UnknownCustomer,
    UnknownKey,
)
from bursar.metering.export import Wanted
from bursar.metering.latency import percentile
from bursar.metering.queries import By, Filters, Part
from bursar.metering.schemas import (
    Breakdown,
    MonthOut,
    PartOut,
    QuotaOut,
    RestOut,
    Summary,
    UsageList,
    UsageOut,
)

router = APIRouter(prefix="/usage", tags=["usage"], route_class=Route)

READ = customer_or_key(KeyScope.USAGE_READ)
REPORT = customer_or_key(KeyScope.USAGE_WRITE, KeyScope.USAGE_INGEST)

OF_KEYS = (BadKey, KeyReused, KeyInFlight)
LONGEST_DAYS, LONGEST_HOURS = 400, 31  # days in which a breakdown may look


@router.post(
    "",
    status_code=201,
    response_model=Counted,
    responses={
        200: {"model": Counted, "description": "It was counted before."},
        **documented(
            EventConflict, InTheFuture, BeforeRetention, UnknownCustomer, UnknownKey, *OF_KEYS
        ),
    },
    openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
)
@own_key
async def report_one(request: Request, actor: Annotated[Actor, REPORT], body: EventIn) -> Response:
    """Counts one call, once for its event_id."""
    if is_binary(request.scope["headers"]):
        raise InvalidInput.at("header ce-id", "A CloudEvent goes to usage/events, as any other.")

    async def count(database: Database | Within) -> Response:
        [outcome] = await events.report(database, actor, [body.event()])
        if isinstance(outcome, BursarError):
            raise outcome
        status = 201 if outcome == "counted" else 200
        return answer({"event_id": body.event_id, "status": outcome}, status)

    return await keyed.once(request, count)


@router.post(
    "/events",
    response_model=EventsOut,
    responses=documented(TooManyEvents, *OF_KEYS),
    openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
)
@own_key
@hot
async def report_many(
    request: Request, actor: Annotated[Actor, REPORT], body: EventsIn
) -> Response:
    """Counts up to 1,000 calls, each by itself and once for its event_id. Takes CloudEvents, too:
    one (application/cloudevents+json, or binary with `ce-` headers) or a batch
    (application/cloudevents-batch+json), with the call in `data`."""
    items = body.items()
    asked = [item.error if isinstance(item, Misfit) else item.event() for item in items]

    async def count(database: Database | Within) -> Response:
        return told(items, await events.report(database, actor, asked))

    return await keyed.once(request, count)


def told(items: list[EventIn | Misfit], outcomes: list[events.Outcome]) -> Response:
    named = [item.name if isinstance(item, Misfit) else item.event_id for item in items]
    return answer(
        {
            "counted": outcomes.count("counted"),
            "duplicates": outcomes.count("duplicate"),
            "refused": sum(isinstance(outcome, BursarError) for outcome in outcomes),
            "outcomes": [outcome_of(*each) for each in zip(named, outcomes, strict=True)],
        }
    )


def outcome_of(event_id: str | None, outcome: events.Outcome) -> dict[str, Any]:
    if isinstance(outcome, BursarError):
        return {"event_id": event_id, **refused(outcome)}
    code = 201 if outcome == "counted" else 200
    return {"event_id": event_id, "status": outcome, "status_code": code}


class UsageFilter(BaseModel):
    """Which calls somebody wants to see."""

    endpoint: str | None = Field(None, max_length=300, pattern=r"^[^\x00]*$")
    key: UUID | None = None
    status_code: int | None = Field(None, ge=100, le=599)
    failed: bool | None = None
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")

    def given(self) -> dict[str, Any]:
        """What somebody has asked for, in the words of the query."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)

    def filters(self) -> Filters:
        return Filters(self.endpoint, self.key, self.status_code, self.failed, self.from_, self.to)


class UsageQuery(UsageFilter, PageQuery):
    """A page of calls, perhaps only those that fit."""

    sort: str | None = sort_field(queries.USAGE)


class UsageFile(UsageFilter):
    """Calls to take away."""

    format: Format = "csv"


def whose(actor: Actor) -> UUID:
    if actor.customer is None:
        raise TypeError("the guard lets nobody through without a customer")
    return actor.customer


@router.get("", responses=documented(InvalidInput))
async def list_usage(
    db: Db, actor: Annotated[Actor, READ], ask: Annotated[UsageQuery, Query()]
) -> UsageList:
    """Your calls, the newest first."""
    page = await queries.usage(db, whose(actor), ask, ask.filters())
    return UsageList.of(page, usage=[UsageOut.model_validate(row) for row in page.items])


@router.get(
    "/export",
    response_class=StreamingResponse,
    dependencies=[READ],
    responses=files.ANSWERS | documented(InvalidInput),
)
async def export_usage(
    request: Request, actor: Annotated[Actor, READ], ask: Annotated[UsageFile, Query()]
) -> StreamingResponse:
    """The same as a file: CSV or JSON lines."""
    wanted = Wanted(whose(actor), ask.filters(), datetime.now(UTC))
    pieces = export.stream(request.app.state.database, actor.claim, wanted, ask.format)
    return file(await files.begin(pieces), ask.format, wanted.now)


def file(pieces: AsyncIterator[bytes], kind: Format, now: datetime) -> StreamingResponse:
    return StreamingResponse(
        pieces, media_type=files.MEDIA_TYPES[kind], headers=files.headers("usage", kind, now)
    )


class SummaryQuery(PageQuery):
    """A page of months, or one."""

    month: str | None = Field(None, pattern=r"^\d{4}-(0[1-9]|1[0-2])$", examples=["2026-11"])
    sort: str | None = sort_field(queries.MONTHS)


@router.get("/summary", responses=documented(InvalidInput))
async def summarize(
    db: Db, actor: Annotated[Actor, READ], ask: Annotated[SummaryQuery, Query()]
) -> Summary:
    """What each month adds up to, as long as your account has been there."""
    page = await queries.summary(db, whose(actor), ask, month=ask.month)
    return Summary.of(page, months=[MonthOut.model_validate(row) for row in page.items])


@router.get("/quota")
async def read_quota(db: Db, actor: Annotated[Actor, READ]) -> QuotaOut:
    """What you may use in this month and have used, and how often you may call."""
    return QuotaOut.model_validate(await queries.quota(db, whose(actor)))


class BreakdownQuery(BaseModel):
    """By what, and in which days; the last 30, if none are said."""

    by: By = "endpoint"
    from_: Day | None = Field(None, alias="from")
    to: Day | None = Field(None, description="The first day that is not wanted any more.")

    def span(self) -> tuple[date, date]:
        try:
            until = self.to or datetime.now(UTC).date() + timedelta(days=1)
            since = self.from_ or until - timedelta(days=30 if self.by != "hour" else 2)
        except OverflowError:
            raise InvalidInput.at("?to", "This lies outside of the calendar.") from None
        longest = LONGEST_HOURS if self.by == "hour" else LONGEST_DAYS
        if not timedelta(0) < until - since <= timedelta(days=longest):
            raise InvalidInput.at("?from", f"From lies before to, by at most {longest} days.")
        return since, until


@router.get("/breakdown", responses=documented(InvalidInput))
async def break_down(
    db: Db, actor: Annotated[Actor, READ], ask: Annotated[BreakdownQuery, Query()]
) -> Breakdown:
    """Calls by endpoint, key, status, day or hour, with percentiles of their response times."""
    return Breakdown(**await breakdown(db, whose(actor), ask))


async def breakdown(db: Db, user_id: UUID, ask: BreakdownQuery) -> dict[str, Any]:
    since, until = ask.span()
    parts, rest = await queries.breakdown(db, user_id, ask.by, since, until)
    return {
        "by": ask.by,
        "from_": since,
        "to": until,
        "parts": [PartOut(**part_out(part)) for part in parts],
        "rest": RestOut(**part_out(rest) | {"part": None, "parts": rest.parts}) if rest else None,
    }


def part_out(part: Part) -> dict[str, Any]:
    average = round(part.total_response_time_ms / part.timed, 1) if part.timed else None
    shares = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
    return {
        "part": part.part,
        "requests": part.requests,
        "failed_requests": part.failed_requests,
        "units": part.units,
        "average_ms": average,
        **{name: percentile(part.latencies, share) for name, share in shares.items()},
    }
