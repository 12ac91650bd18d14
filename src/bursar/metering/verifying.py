"""The route by which other services of the business ask of a key, and count the call."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response

from bursar.auth.actor import Actor
from bursar.auth.guard import service
from bursar.auth.scopes import KeyScope
from bursar.core.hot import hot
from bursar.core.idempotency import BadKey, given_key, own_key
from bursar.core.openapi import IDEMPOTENCY_PARAMETER
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.keys import secret
from bursar.metering.desk import DeskFull, Question, Verdict
from bursar.metering.schemas import VerifyIn, VerifyOut

router = APIRouter(tags=["keys"], route_class=Route)

SERVICE = service(KeyScope.KEYS_VERIFY)
NONE_OF_OURS: dict[str, Any] = {
    "valid": False, "code": "UNKNOWN", "key_id": None, "user_id": None, "tier": None,
    "scopes": None, "replayed": False, "quota": None, "rate": None, "retry_after_seconds": None,
}  # fmt: skip


@router.post(
    "/keys/verify",
    response_model=VerifyOut,
    responses=documented(DeskFull, BadKey),
    openapi_extra={"parameters": [IDEMPOTENCY_PARAMETER]},
)
@own_key
@hot
async def verify_key(
    request: Request, actor: Annotated[Actor, SERVICE], body: VerifyIn
) -> Response:
    """Is this key good for this call, and how much is left; a call that may go on is counted. An
    Idempotency-Key stands for the event_id."""
    if not secret.is_sound(body.key):
        return answer(NONE_OF_OURS)
    question = Question(
        secret.digest(body.key),
        body.facts(),
        scope=body.scope,
        address=body.ip_address,
        event_id=body.event_id or given_key(request),
        counts=body.count,
    )
    return answer(told(await request.app.state.desk.ask(question)))


def told(verdict: Verdict) -> dict[str, Any]:
    """As VerifyOut says it, made by hand: this is asked before every call of somebody's API."""
    return {
        "valid": verdict["code"] == "VALID",
        **{name: verdict[name] for name in NONE_OF_OURS if name not in ("valid", "quota")},
        "quota": quota(verdict) if verdict["user_id"] else None,
    }


def quota(verdict: Verdict) -> dict[str, Any]:
    """What is left to the customer, or to this key where that is less."""
    limit, used, key_left = verdict["quota"], verdict["used"], verdict["key_left"]
    left = [max(0, limit - used)] if limit else []
    left += [max(0, key_left)] if key_left is not None else []
    return {"limit": limit or None, "used": used, "remaining": min(left, default=None)}
