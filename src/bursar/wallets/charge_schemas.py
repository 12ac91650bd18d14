"""Charges and holds as services of the business ask for them; every amount is an exact decimal."""

import json
from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import (
    AfterValidator,
    Field,
    JsonValue,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from bursar.core import api_keys, exact
from bursar.core.batch import Misfit, or_misfit
from bursar.core.money import Amount
from bursar.core.paging import PageFields
from bursar.core.wire import WHOLE, Batch, Line, Moment, Money, StaffWire
from bursar.wallets.ledger import USD
from bursar.wallets.models import HoldState

MOST_CHARGES = 500  # in one request
LONGEST_HOLD_SECONDS = 30 * 86_400
MOST_METADATA_BYTES = 4096  # as ck_transfers_metadata has it

Currency = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9]{2,11}$", examples=[USD])]
Category = Annotated[Line, Field(min_length=1, max_length=100)]
Description = Annotated[Line, Field(min_length=1, max_length=200)]
Key = Annotated[str, Field(pattern=r"^[!-~]{1,255}$"), AfterValidator(api_keys.refuse)]


def small(metadata: dict[str, JsonValue]) -> None:
    """Measured as PostgreSQL writes it out: with blanks, and every number with all its digits."""
    try:
        exact.dumps(metadata)
    except TypeError:
        raise ValueError("A number in it is too large, or it is too deep.") from None
    kept = json.dumps(metadata, ensure_ascii=False, default=lambda number: format(number, "f"))
    api_keys.refuse(kept)
    if len(kept.encode()) > MOST_METADATA_BYTES:
        raise ValueError(f"This may have at most {MOST_METADATA_BYTES} bytes, with a description.")


class ChargeIn(StaffWire):
    """What a customer used, and what it costs."""

    user_id: UUID
    amount: Amount
    currency: Currency = USD
    category: Category | None = Field(None, description="For the analysis of spending: models, api")
    description: Description | None = None
    metadata: dict[str, Any] | None = None

    @field_validator("metadata")
    @classmethod
    def fits(cls, metadata: dict[str, Any] | None, info: ValidationInfo) -> dict[str, Any] | None:
        small(beside(metadata, info.data.get("description")) or {})
        return metadata

    def about(self) -> dict[str, Any] | None:
        """What is kept beside the transfer."""
        return beside(self.metadata, self.description)


def beside(metadata: dict[str, Any] | None, description: str | None) -> dict[str, Any] | None:
    said = {"description": description} if description else {}
    return {**(metadata or {}), **said} or None


class ChargeOut(StaffWire):
    """A charge, and what it left."""

    operation_id: UUID
    transfer_id: UUID
    user_id: UUID
    amount: Money
    currency: str
    available: Money = Field(description="Posted less held; an overdraft is never counted.")
    posted_at: Moment


class BulkCharge(ChargeIn):
    """One of many charges; its key does for it what an Idempotency-Key does for a request."""

    key: Key


class BulkIn(Batch, StaffWire):
    """Charges that are done or refused each by itself."""

    most_items: ClassVar[int] = MOST_CHARGES

    charges: Annotated[
        list[Annotated[BulkCharge, or_misfit("key")]],
        Field(min_length=1, max_length=MOST_CHARGES),
    ]

    def items(self) -> list[BulkCharge | Misfit]:
        return [*self.charges]


class ChargeOutcome(StaffWire):
    """What became of one charge: the fields of a charge, or those of a problem."""

    key: str | None
    status: Literal["charged", "refused"]
    replayed: bool | None = Field(None, description="It was done before, under the same key.")
    operation_id: UUID | None = None
    transfer_id: UUID | None = None
    user_id: UUID | None = None
    amount: Money | None = None
    currency: str | None = None
    balance: Money | None = None
    available: Money | None = None
    needed: Money | None = Field(None, description="Where there was not enough.")
    posted_at: Moment | None = None
    code: str | None = None
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


class BulkOut(StaffWire):
    """An outcome for each charge, in their order."""

    outcomes: list[ChargeOutcome]


class HoldIn(ChargeIn):
    """An amount to be set aside until it is known what something costs."""

    seconds: Annotated[int, Field(ge=1, le=LONGEST_HOLD_SECONDS, strict=True), WHOLE] = 3600


class HoldOut(StaffWire):
    """An amount that is set aside, and what became of it."""

    id: UUID
    operation_id: UUID
    user_id: UUID | None
    currency: str
    amount: Money
    captured: Money
    state: HoldState
    category: str | None
    metadata: dict[str, Any] | None
    created_at: Moment
    expires_at: Moment
    closed_at: Moment | None


class HoldList(PageFields, StaffWire):
    """One page of a customer's holds."""

    holds: list[HoldOut]


class HoldMade(HoldOut):
    """A new hold, and what it left."""

    available: Money


class CaptureIn(StaffWire):
    """How much of a hold is taken: all that is left, unless it is said."""

    amount: Amount | None = None
    final: StrictBool = Field(False, description="What is left then goes back at once.")


class CaptureOut(ChargeOut):
    """What was taken of a hold."""

    hold_id: UUID


class VoidOut(StaffWire):
    """What went back from a hold."""

    operation_id: UUID
    hold_id: UUID
    user_id: UUID | None
    amount: Money
    currency: str
    available: Money
    posted_at: Moment
