"""An event is published in the transaction of its change: both are there or neither is.

An event is declared once; its docstring and fields are its line in docs/reference/events.md:

    class SettingsChanged(events.Event, name="settings.changed"):
        \"""Staff gave a setting another value.\"""
        key: str

Whoever wants to know listens, in a transaction of the worker, after the change was committed:

    @events.on("settings.changed", subscriber="gateway.limits")
    async def reload(db: AsyncSession, event: Published) -> None: ...

What a subscriber writes and how far it has come are committed together (core/relay.py).

What others may know of, outside of this house, is declared `public=True`: those events go out as
webhooks to whoever asks for them. Everything else stays inside. Whoever listens to EVERY_PUBLIC is
told of all of them, also of those that domains above it declare. They stand in the service.py of
their domain, which the API (that lists them) and the worker (that tells them) both import.

A login role in the wrong hands can publish any event, and a subscriber runs as the worker: it takes
ids from the payload and looks for itself what is so. What only some may say happened declares it
(`name="payments.settled", published_by={Role.WORKER}`), and the relay passes over it from others.
"""

from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass
from datetime import datetime
from typing import Any, ClassVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.database import Role
from bursar.core.jobs import ANYBODY, NAME, as_json

CHANNEL = "bursar_events"


class Event(BaseModel):
    """The base of all events: what happened, in the past tense, with ids rather than copies."""

    model_config = ConfigDict(extra="forbid")
    event_name: ClassVar[str]
    published_by: ClassVar[Set[Role]]
    public: ClassVar[bool]

    def __init_subclass__(
        cls, *, name: str, published_by: Set[Role] = ANYBODY, public: bool = False, **given: Any
    ) -> None:
        super().__init_subclass__(**given)

    @classmethod
    def __pydantic_init_subclass__(cls, **given: Any) -> None:
        name: str = given["name"]
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not an event's name such as 'settings.changed'")
        if name in registry:
            raise ValueError(f"two events share the name {name}")
        if not cls.__doc__:
            raise ValueError(f"the event {name} needs a docstring: it is its documentation")
        cls.event_name = name
        cls.published_by = given.get("published_by", ANYBODY)
        cls.public = given.get("public", False)
        registry[name] = cls


registry: dict[str, type[Event]] = {}


def public() -> dict[str, type[Event]]:
    """Those that may leave the house, by name; all of them once all domains are imported."""
    return {name: event for name, event in sorted(registry.items()) if event.public}


PUBLISH = text("select publish_event(:name, cast(:payload as json))")


async def publish(db: AsyncSession, event: Event) -> None:
    """Adds an event in the caller's transaction; who did it and when is filled in by PostgreSQL."""
    encoded = as_json(event.model_dump(mode="json")).decode()
    await db.execute(PUBLISH, {"name": event.event_name, "payload": encoded})


@dataclass(frozen=True, slots=True)
class Published:
    """An event as its subscribers get it."""

    id: int
    name: str
    payload: dict[str, Any]
    published_by: str
    actor: UUID | None
    occurred_at: datetime


Handler = Callable[[AsyncSession, Published], Awaitable[None]]
EVERY_PUBLIC = "*"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Somebody who is told, in order, of every event of these names from their first day on."""

    name: str
    events: tuple[str, ...]
    handle: Handler
    timeout_seconds: float

    @property
    def names(self) -> tuple[str, ...]:
        """What it is told of; looked up late, for what is public is known only then."""
        return tuple(public()) if self.events == (EVERY_PUBLIC,) else self.events


subscribers: dict[str, Subscriber] = {}


def on(*names: str, subscriber: str, timeout_seconds: float = 30) -> Callable[[Handler], Handler]:
    """Subscribes a function; the subscriber's name keeps its position and never changes."""
    if not NAME.fullmatch(subscriber):
        raise ValueError(f"{subscriber!r} is not a subscriber's name such as 'gateway.limits'")
    if subscriber in subscribers:
        raise ValueError(f"two subscribers share the name {subscriber}")

    def register(function: Handler) -> Handler:
        subscribers[subscriber] = Subscriber(subscriber, names, function, timeout_seconds)
        return function

    return register


def check() -> None:
    """Every name that somebody listens to is declared; called once all domains are imported."""
    for subscriber in subscribers.values():
        if unknown := set(subscriber.names) - set(registry):
            raise LookupError(f"{subscriber.name} listens to undeclared events: {sorted(unknown)}")
