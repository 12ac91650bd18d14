"""Keys over the wire: what customers say of them, and staff in camelCase."""

from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    PlainSerializer,
    RootModel,
    ValidationError,
    WrapValidator,
)
from pydantic_core import PydanticUseDefault

from bursar.core.addresses import canonical_network
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Batch, Line, Moment, StaffWire, Time, Wire, storable
from bursar.keys.models import KeyStatus, Network
from bursar.keys.rules import LONGEST_GRACE

MOST_ADDRESSES, MOST_SCOPES = 50, 50
MOST_LEAKS = 100  # in one request


def network(text: str) -> Network:
    """An address stands for itself alone, a network for all in it."""
    try:
        return canonical_network(text.strip())
    except ValueError:
        raise ValueError("This is no IP address or network such as 203.0.113.0/24.") from None


Name = Annotated[Line, Field(min_length=1, max_length=100)]
Address = Annotated[str, Field(max_length=50), AfterValidator(network)]
Scopes = Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=MOST_SCOPES)]
Rate = Annotated[int, Field(strict=True, ge=1, le=1_000_000), WHOLE]
PerMonth = Annotated[int, Field(strict=True, ge=1, le=10**12), WHOLE]


class NewKey(Wire):
    """What a key is called and may do; without scopes it is good for your calls, and reads nothing
    here."""

    name: Name
    scopes: Scopes = Field(default=[], description="GET /api/v1/api-keys/scopes names them.")
    expires_at: Time | None = None
    allowed_addresses: list[Address] = Field(
        default=[], max_length=MOST_ADDRESSES, description="Empty: from everywhere."
    )
    per_second: Rate | None = Field(None, description="Beside the limits of the tier.")
    per_minute: Rate | None = None
    per_month: PerMonth | None = None

    def facts(self) -> dict[str, Any]:
        return dict(self)


class NewServiceKey(NewKey, StaffWire):
    """A credential for another service of the business."""


class KeyChange(Wire):
    """What is given is changed; null takes an expiry or a limit away."""

    name: Name = ""
    scopes: Scopes = Field(default=[])
    expires_at: Time | None = None
    allowed_addresses: list[Address] = Field(default=[], max_length=MOST_ADDRESSES)
    per_second: Rate | None = None
    per_minute: Rate | None = None
    per_month: PerMonth | None = None

    def facts(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.model_fields_set}


class KeyChangeByStaff(KeyChange, StaffWire):
    """The same in the words of the staff API."""


class Rotation(Wire):
    """How long the old key goes on being good beside the new one."""

    grace_seconds: Annotated[
        int, Field(strict=True, ge=0, le=int(LONGEST_GRACE.total_seconds())), WHOLE
    ] = 86_400


class RotationByStaff(Rotation, StaffWire):
    """The same in the words of the staff API."""


Shown = Annotated[Network, PlainSerializer(str, return_type=str)]


class KeyOut(Wire):
    """A key, masked."""

    id: UUID
    user_id: UUID | None
    name: str
    masked: str = Field(description="Its beginning and end, to know it again.")
    scopes: list[str]
    allowed_addresses: list[Shown]
    per_second: int | None
    per_minute: int | None
    per_month: int | None
    status: KeyStatus = Field(
        validation_alias=AliasChoices("standing", "status"),
        description="As of now; an expired key may be given another expiry.",
    )
    expires_at: Moment | None
    grace_until: Moment | None = Field(description="It was replaced, and is good until then.")
    rotated_from: UUID | None
    revoked_at: Moment | None
    revoke_reason: str | None
    last_used_at: Moment | None = Field(description="To the minute.")
    created_at: Moment
    version: int


class KeyMade(KeyOut):
    """A new key, with the one sight of it."""

    key: str


class KeyList(PageFields, Wire):
    """One page of keys."""

    api_keys: list[KeyOut]


class KeyForStaff(KeyOut, StaffWire):
    """A key as staff see it."""

    created_by: UUID | None


class KeyMadeForStaff(KeyForStaff):
    """A new key, with the one sight of it."""

    key: str


class KeyListForStaff(PageFields, StaffWire):
    """One page of keys."""

    api_keys: list[KeyForStaff]


class ScopeOut(Wire):
    """A scope and what it allows; one of your own API has no sentence here."""

    name: str
    allows: str


class ScopeList(Wire):
    """Every scope that a key of yours may have."""

    scopes: list[ScopeOut]


def or_default(value: Any, read: Callable[[Any], Any]) -> Any:
    try:
        if storable(value):
            return read(value)
    except ValidationError:
        pass
    raise PydanticUseDefault


Readable = Annotated[str, WrapValidator(or_default)]


class Leak(Wire):
    """A key that somebody has found, as a secret scanner reports it. What cannot be read of it is
    passed over: a key is no safer for the bad address it was found at."""

    token: Readable = Field("", description="All of the key; what is none is a false positive.")
    type: Readable = "bursar_api_key"
    url: Readable | None = Field(None, description="Where it was found; the audit trail keeps it.")
    source: Readable | None = None


def or_empty(value: Any, read: Callable[[Any], Leak]) -> Leak:
    try:
        return read(value)
    except ValidationError:
        return Leak()  # no object


AnyLeak = Annotated[Leak, WrapValidator(or_empty)]


def demand_few(value: Any) -> Any:
    if isinstance(value, list) and len(value) > MOST_LEAKS:
        raise ValueError(
            f"A report has at most {MOST_LEAKS} keys, and none of these was looked at: send them "
            "in several."
        )
    return value


Leaks = Annotated[list[AnyLeak], Field(min_length=1, max_length=MOST_LEAKS)]


class LeaksIn(Batch, RootModel[Annotated[Leaks, BeforeValidator(demand_few)]]):
    """One bad item keeps no key of the others alive: by itself it is none of ours."""

    most_items: ClassVar[int] = MOST_LEAKS


class LeakOutcome(Wire):
    """What became of one report, in the words that scanners of GitHub understand."""

    token_hash: str = Field(description="SHA-256 of the token, in base64.")
    token_type: str
    label: Literal["true_positive", "false_positive"]
