"""The routes by which services of the business ask of a key, count the call, and tell its end."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Request, Response

from bursar.auth.actor import Actor
from bursar.auth.guard import service
from bursar.auth.scopes import KeyScope
from bursar.core.batch import Misfit, refused
from bursar.core.database import Database, Within
from bursar.core.errors import BursarError
from bursar.core.hot import hot
from bursar.core.idempotency import REPLAYED, BadKey, KeyInFlight, KeyReused, own_key
from bursar.core.openapi import IDEMPOTENCY_PARAMETER
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.keys import secret
from bursar.metering import keyed, outcomes
from bursar.metering.desk import DeskFull, Question, Verdict
from bursar.metering.event_schemas import TooManyEvents
from bursar.metering.outcome_schemas import OutcomesIn, OutcomesTold
from bursar.metering.schemas import VerifyIn, VerifyOut

router = APIRouter(tags=["keys"], route_class=Route)

SERVICE = service(KeyScope.KEYS_VERIFY)
NONE_OF_OURS: dict[str, Any] = {
    "valid": False, "code": "UNKNOWN", "key_id": None, "user_id": None, "tier": None,
    "scopes": None, "replayed": False, "usage_id": None, "quota": None, "rate": None,
    "retry_after_seconds": None,
}  # fmt: skip


@router.post(
    "/keys/verify",
    response_model=VerifyOut,
    responses=documented(DeskFull, BadKey, KeyReused, KeyInFlight),
    openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
)
@own_key
@hot
async def verify_key(request: Request, _: Annotated[Actor, SERVICE], body: VerifyIn) -> Response:
    """Is this key good for this call, and how much is left; a call that may go on is counted, and
    with an Idempotency-Key once for it."""
    if not secret.is_sound(body.key):
        return answer(NONE_OF_OURS)
    question = Question(
        secret.digest(body.key),
        body.facts(),
        scope=body.scope,
        address=body.ip_address,
        event_id=body.event_id,
        counts=body.count,
        paces=body.count,
        keyed=await keyed.question(request),
    )
    verdict = await request.app.state.desk.ask(question)
    if verdict["code"] == "KEY_REUSED":
        raise KeyReused.now()
    if verdict["code"] == "KEY_IN_FLIGHT":
        raise KeyInFlight.now()
    return answer(told(verdict), headers=REPLAYED if verdict["asked_before"] else None)


def told(verdict: Verdict) -> dict[str, Any]:
    """As VerifyOut says it, made by hand: this is asked before every call of somebody's API.

    A service's own credential is no customer's key: it opens nothing there, uncounted as it is.
    """
    if verdict["user_id"] is None:
        return NONE_OF_OURS
    return {
        "valid": verdict["code"] == "VALID",
        **{name: verdict[name] for name in NONE_OF_OURS if name not in ("valid", "quota")},
        "quota": quota(verdict),
    }


def quota(verdict: Verdict) -> dict[str, Any]:
    """What is left to the customer, or to this key where that is less."""
    limit, used, key_left = verdict["quota"], verdict["used"], verdict["key_left"]
    left = max(0, limit - used) if limit else None
    if key_left is not None and (left is None or key_left < left):
        limit, left = verdict["key_quota"], max(0, key_left)
        used = limit - key_left
    return {"limit": limit or None, "used": used, "remaining": left}


@router.post(
    "/usage/outcomes",
    tags=["usage"],
    response_model=OutcomesTold,
    responses=documented(TooManyEvents, BadKey, KeyReused, KeyInFlight),
    openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
)
@own_key
@hot
async def tell_outcomes(
    request: Request, _: Annotated[Actor, SERVICE], body: OutcomesIn
) -> Response:
    """How calls ended that keys/verify has counted, up to 1,000: status, response time and error
    are filled in once, and nothing is counted again. Sent once more, each is a duplicate."""
    items = body.items()
    asked = [item.error if isinstance(item, Misfit) else item.outcome() for item in items]
    named = [item.name if isinstance(item, Misfit) else item.usage_id for item in items]

    async def settle(database: Database | Within) -> Response:
        ends = await outcomes.settle(database, asked)
        return answer(
            {
                "recorded": ends.count("recorded"),
                "duplicates": ends.count("duplicate"),
                "refused": sum(isinstance(each, BursarError) for each in ends),
                "outcomes": [told_of(*each) for each in zip(named, ends, strict=True)],
            }
        )

    return await keyed.once(request, settle)


def told_of(usage_id: UUID | str | None, told: outcomes.Told) -> dict[str, Any]:
    if isinstance(told, BursarError):
        return {"usage_id": usage_id, **refused(told)}
    return {"usage_id": usage_id, "status": told, "status_code": 200}
