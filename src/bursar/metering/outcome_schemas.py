"""Outcomes of calls over the wire, each with what became of it."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, ValidationError, WrapValidator

from bursar.core.errors import BursarError
from bursar.core.problems import from_validation
from bursar.core.wire import WHOLE, Wire
from bursar.metering.outcomes import CallOutcome
from bursar.metering.schemas import Long, bounded


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


@dataclass(frozen=True, slots=True)
class NoOutcome:
    """An item that is none: it is refused alone."""

    usage_id: str | None
    error: BursarError


def or_why_not(value: Any, read: Any) -> OutcomeIn | NoOutcome:
    try:
        found: OutcomeIn = read(value)
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_context=False, include_input=False)
        usage_id = value.get("usage_id", value.get("usageId")) if isinstance(value, dict) else None
        problem = from_validation({**each, "loc": ("body", *each["loc"])} for each in wrong)
        return NoOutcome(usage_id[:36] if isinstance(usage_id, str) else None, problem)
    return found


class OutcomesIn(Wire):
    """Up to 1,000 outcomes, each kept or refused by itself."""

    outcomes: Annotated[
        list[Annotated[OutcomeIn, WrapValidator(or_why_not)]],
        Field(min_length=1),
        BeforeValidator(bounded),
    ]

    def items(self) -> list[OutcomeIn | NoOutcome]:
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
