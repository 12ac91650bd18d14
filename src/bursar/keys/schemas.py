"""Keys over the wire: what customers say of them, and staff in camelCase."""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import AfterValidator, Field, PlainSerializer

from bursar.core.addresses import canonical_network
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Line, Moment, StaffWire, Time, Wire
from bursar.keys.models import KeyStatus, Network
from bursar.keys.rules import LONGEST_GRACE

MOST_ADDRESSES, MOST_SCOPES = 50, 50


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
        return {name: getattr(self, name) for name in type(self).model_fields}


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
    status: KeyStatus
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


class Leak(Wire):
    """A key that somebody has found, as a secret scanner reports it."""

    token: Annotated[str, Field(max_length=500)]
    type: Annotated[str, Field(max_length=100)] = "bursar_api_key"
    url: Annotated[str, Field(max_length=2000)] | None = None
    source: Annotated[str, Field(max_length=100)] | None = None


class LeakOutcome(Wire):
    """What became of one report, in the words that scanners of GitHub understand."""

    token_hash: str = Field(description="SHA-256 of the token, in base64.")
    token_type: str
    label: Literal["true_positive", "false_positive"]
