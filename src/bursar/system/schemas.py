"""Settings and health as they go over the wire."""

from typing import Any, Literal
from uuid import UUID

from pydantic import Field, RootModel
from pydantic.alias_generators import to_snake

from bursar.core.paging import PageFields
from bursar.core.wire import Moment, StaffWire, Wire
from bursar.system.catalogue import CATALOGUE


class SettingOut(StaffWire):
    """A setting: what holds now, what it may be."""

    key: str
    value: Any
    default: Any
    description: str
    value_schema: dict[str, Any] = Field(
        description="Type and limits of the value, as JSON Schema."
    )
    version: int = Field(description="0 while the default holds; the number in the ETag.")
    updated_at: Moment | None
    updated_by: UUID | None


class SettingList(PageFields, StaffWire):
    """One page of settings."""

    settings: list[SettingOut]


class SettingValues(RootModel[dict[str, Any]]):
    """New values by key; in either case, as everywhere in the staff API."""

    @classmethod
    def __get_pydantic_json_schema__(cls, *_: Any) -> dict[str, Any]:
        """Worked out when the document is: by then every domain has declared its settings."""
        return {
            "type": "object",
            "title": "SettingValues",
            "minProperties": 1,
            "additionalProperties": False,
            "properties": {key: {**setting.schema} for key, setting in sorted(CATALOGUE.items())},
            "examples": [{"cache_ttl_seconds": 600}],
        }

    def by_key(self) -> dict[str, Any]:
        return {to_snake(key): value for key, value in self.root.items()}


class SettingsChangedOut(StaffWire):
    """What holds after a change."""

    status: Literal["success"] = "success"
    settings: dict[str, Any]


class SettingIn(StaffWire):
    """A new value for one setting."""

    value: Any = Field(description="In the type that valueSchema says.")


class SettingChangeOut(StaffWire):
    """Who changed what from what to what; null stands for the default."""

    id: UUID
    key: str
    old: Any
    new: Any
    changed_at: Moment
    changed_by: UUID | None


class SettingChangeList(PageFields, StaffWire):
    """One page of changes."""

    changes: list[SettingChangeOut]


class Alive(Wire):
    """The process answers."""

    status: Literal["healthy"] = "healthy"


class Part(Wire):
    """One thing that was looked at."""

    status: Literal["healthy", "failing"]
    detail: str


class Ready(Wire):
    """Whether this process may take traffic, and why not."""

    status: Literal["ready", "not_ready"]
    parts: dict[str, Part]


class Health(StaffWire):
    """The whole of it, for staff."""

    status: Literal["healthy", "failing"]
    version: str
    uptime_seconds: float
    parts: dict[str, Part]
