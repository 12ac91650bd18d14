"""Where providers send their webhooks: whoever can sign may tell, nobody else.

Answered with 200 once it is written down; what it means is read by a job (payments/inbox.py).
"""

from typing import Annotated

from fastapi import APIRouter, Request, Response

from bursar.auth.actor import Actor
from bursar.auth.guard import everyone
from bursar.core.errors import BursarError, NotFound
from bursar.core.hot import hot
from bursar.core.idempotency import own_key
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.payments.intake import IntakeFull
from bursar.payments.providers import BadClock, BadEvent, BadSignature
from bursar.payments.schemas import Taken

router = APIRouter(prefix="/payments", tags=["payments"], route_class=Route)

MOST_BYTES = 256 * 1024
REFUSALS = (BadSignature, BadClock, BadEvent, IntakeFull)


class WebhookTooLarge(BursarError, status=413, code="payments.webhook_too_large"):
    """A webhook has at most 256 KiB."""


@router.post("/webhook", response_model=Taken, responses=documented(*REFUSALS, WebhookTooLarge))
@own_key
@hot
async def stripe(request: Request, actor: Annotated[Actor, everyone]) -> Response:
    """Stripe's webhooks, at the address that older clients have set up."""
    return await take(request, "stripe")


@router.post(
    "/webhooks/{provider}",
    response_model=Taken,
    responses=documented(*REFUSALS, WebhookTooLarge, NotFound),
)
@own_key
@hot
async def webhook(request: Request, actor: Annotated[Actor, everyone], provider: str) -> Response:
    """A provider's webhooks: signed over the raw body, at most 300 seconds old or ahead."""
    return await take(request, provider)


async def take(request: Request, name: str) -> Response:
    provider = request.app.state.providers.known.get(name)
    if provider is None:
        raise NotFound("No provider of this name is set up here.")
    body = await request.body()
    if len(body) > MOST_BYTES:
        raise WebhookTooLarge(f"A webhook has at most {MOST_BYTES} bytes.")
    event = await provider.read_event(body, request.headers)
    is_new = await request.app.state.intake.take(name, event, body, request.headers)
    return answer({"received": True, "new": is_new})
