"""Calls that are reported, in our own words or as CloudEvents, and what became of each."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import unquote
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from bursar.core import api_keys
from bursar.core.batch import LONGEST, Misfit, item_of, name_of, or_misfit
from bursar.core.errors import BursarError
from bursar.core.wire import Batch, Time, Wire
from bursar.metering.events import Event
from bursar.metering.schemas import LONGEST_ID, Call, EventId

MOST_EVENTS = 1000  # in one request


class EventIn(Call):
    """One call, as it is reported after it."""

    timestamp: Time | None = Field(None, description="When it was; now, if that is left out.")
    api_key_id: UUID | None = None
    user_id: UUID | None = Field(None, description="By services: whose call it was.")

    def event(self) -> Event:
        facts = self.facts()
        if self.timestamp:
            facts["timestamp"] = self.timestamp
        return Event(facts, self.event_id, self.user_id, self.api_key_id)


def reference(value: str) -> str:
    if not URI_REFERENCE.fullmatch(value):
        raise ValueError("This is no URI reference: it has no blanks, and %20 for each of them.")
    return value


URI_REFERENCE = re.compile(r"([\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9a-f]{2})+", re.ASCII | re.IGNORECASE)


def rfc_3339(value: Any) -> Any:
    if isinstance(value, str) and not RFC_3339.fullmatch(value):
        raise ValueError("A time has a date and a zone, as in 2026-11-21T08:00:00Z.")
    return value


RFC_3339 = re.compile(
    r"\d{4}-\d\d-\d\d[t ]\d\d:\d\d:\d\d(\.\d+)?(z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)


def json_type(value: str) -> str:
    if not JSON_TYPE.fullmatch(value):
        raise ValueError("Only JSON is taken: application/json, or nothing.")
    return value


JSON_TYPE = re.compile(r"[^\s/;]+/([^\s/;]+\+)?json\s*(;.*)?", re.IGNORECASE)


def refuse_binary(value: Any) -> Any:
    if value is not None:
        raise ValueError("Send `data` as JSON: data_base64 is not taken.")
    return value


class CloudEvent(Wire):
    """One call as CloudEvents 1.0 has it, in JSON: `source` and `id` together are its id."""

    specversion: Literal["1.0"]
    source: Annotated[
        str,
        Field(min_length=1, max_length=LONGEST_ID),
        AfterValidator(reference),
        AfterValidator(api_keys.refuse),
    ]
    id: EventId
    type: Annotated[str, Field(min_length=1)]
    time: Annotated[Time, BeforeValidator(rfc_3339)] | None = None
    subject: UUID | None = None
    datacontenttype: Annotated[str, AfterValidator(json_type)] | None = None
    data_base64: Annotated[Any, BeforeValidator(refuse_binary)] = None
    data: EventIn

    @field_validator("id")
    @classmethod
    def fits(cls, value: str, info: ValidationInfo) -> str:
        if len(f"{info.data.get('source')} {value}") > LONGEST_ID:
            raise ValueError(f"`source` and `id` together may have {LONGEST_ID - 1} characters.")
        return value

    def event_in(self) -> EventIn:
        """No reference has a blank in it, so that the first one ends the source."""
        about: dict[str, Any] = {"event_id": f"{self.source} {self.id}"}
        about |= {"timestamp": self.time} if self.time else {}
        about |= {"user_id": self.subject} if self.subject else {}
        return self.data.model_copy(update=about)


ATTRIBUTES = frozenset((b"ce-specversion", b"ce-source", b"ce-id", b"ce-type"))
QUOTED = re.compile(r'"(.*)"', re.DOTALL)


def is_binary(headers: Sequence[tuple[bytes, bytes]]) -> bool:
    """Whether it is a CloudEvent in binary mode: its attributes are headers, its data the body."""
    said = dict(headers)
    if ATTRIBUTES.isdisjoint(said):
        return False
    return not said.get(b"content-type", b"").lower().startswith(b"application/cloudevents")


def of_headers(data: Any, headers: Sequence[tuple[bytes, bytes]]) -> dict[str, Any]:
    """The same event in JSON."""
    said = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
    event = {name[3:]: plain(value) for name, value in said.items() if name.startswith("ce-")}
    return {**event, "datacontenttype": said.get("content-type"), "data": data}


def plain(value: str) -> str:
    """A header's text as the HTTP binding has it: perhaps quoted, and percent-encoded UTF-8."""
    if quoted := QUOTED.fullmatch(value):
        value = re.sub(r"\\(.)", r"\1", quoted[1])
    return unquote(value)


def of_cloud_event(value: Any) -> EventIn | Misfit:
    found = item_of(value, CloudEvent.model_validate)
    if isinstance(found, CloudEvent):
        return found.event_in()
    source, its_id = name_of(value, "source"), name_of(value, "id")
    return replace(found, name=f"{source} {its_id}"[:LONGEST] if source and its_id else None)


class TooManyEvents(BursarError, status=413, code="usage.too_many_events"):
    """A request has at most 1,000 events; send the rest in another."""


def bounded(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_EVENTS:
        raise TooManyEvents(
            f"{len(value)} items were sent; a request has at most {MOST_EVENTS}.",
            limit=MOST_EVENTS,
        )
    return value


class EventsIn(Batch, Wire):
    """Calls that are counted or refused each by itself; also as CloudEvents, one or a batch."""

    most_items: ClassVar[int] = MOST_EVENTS

    events: Annotated[
        list[Annotated[EventIn, or_misfit("event_id", "eventId")]],
        Field(min_length=1),
        BeforeValidator(bounded),
    ]

    @classmethod
    def framed(cls, value: Any, headers: Sequence[tuple[bytes, bytes]]) -> Any:
        return of_headers(value, headers) if is_binary(headers) else value

    @model_validator(mode="before")
    @classmethod
    def of_cloud_events(cls, value: Any) -> Any:
        if is_cloud_event(value):
            value = [value]
        if isinstance(value, list):
            return {"events": [of_cloud_event(each) for each in bounded(value)]}
        return value

    def items(self) -> list[EventIn | Misfit]:
        return [*self.events]


def is_cloud_event(value: Any) -> bool:
    """Also one that lacks something, to be told what; none of its attributes is ever a list."""
    attributes = {"specversion", "source", "id", "type"}
    is_object = isinstance(value, dict) and not isinstance(value.get("events"), list)
    return is_object and not attributes.isdisjoint(value)


class EventOutcome(Wire):
    """What became of one event."""

    event_id: str | None
    status: Literal["counted", "duplicate", "refused"]
    status_code: int = Field(description="What it would have been answered alone.")
    code: str | None = None
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


class EventsOut(Wire):
    """An outcome for each event, in their order."""

    counted: int
    duplicates: int
    refused: int
    outcomes: list[EventOutcome]


class Counted(Wire):
    """What became of the event."""

    event_id: str | None
    status: Literal["counted", "duplicate"]
