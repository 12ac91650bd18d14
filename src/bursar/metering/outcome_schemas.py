"""Outcomes of calls over the wire, each with what became of it."""

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field

from bursar.core.batch import Misfit, or_misfit
from bursar.core.wire import WHOLE, Batch, Wire
from bursar.metering.event_schemas import MOST_EVENTS, bounded
from bursar.metering.outcomes import CallOutcome
from bursar.metering.schemas import Long


class OutcomeIn(Wire):
    """How one call ended that keys/verify has counted."""

    usage_id: UUID = Field(description="As keys/verify has answered it.")
    user_id: UUID = Field(description="As keys/verify has answered it.")
    status_code: Annotated[int, Field(strict=True, ge=100, le=599), WHOLE]
    response_time_ms: Annotated[int, Field(strict=True, ge=0, le=86_400_000), WHOLE] | None = None
    error_message: Long | None = None

    def outcome(self) -> CallOutcome:
        return CallOutcome(
            self.usage_id,
            self.user_id,
            self.status_code,
            self.response_time_ms,
            self.error_message,
        )


class OutcomesIn(Batch, Wire):
    """Up to 1,000 outcomes, each kept or refused by itself."""

    most_items: ClassVar[int] = MOST_EVENTS

    outcomes: Annotated[
        list[Annotated[OutcomeIn, or_misfit("usage_id", "usageId")]],
        Field(min_length=1),
        BeforeValidator(bounded),
    ]

    def items(self) -> list[OutcomeIn | Misfit]:
        return [*self.outcomes]


class OutcomeTold(Wire):
    """What became of one outcome."""

    usage_id: str | None
    status: Literal["recorded", "duplicate", "refused"]
    status_code: int = Field(description="What it would have been answered alone.")
    code: str | None = None
    detail: str | None = None
    errors: list[dict[str, Any]] | None = None


class OutcomesTold(Wire):
    """What became of each, in their order."""

    recorded: int
    duplicates: int
    refused: int
    outcomes: list[OutcomeTold]
