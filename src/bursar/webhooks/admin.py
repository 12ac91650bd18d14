"""Staff say who is told of which events, see what was sent, and send it again."""

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.auth.actor import Actor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag, events
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageQuery, of_list, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.webhooks import queries, service
from bursar.webhooks.addresses import BadUrl, PrivateAddress
from bursar.webhooks.models import DeliveryStatus, EndpointStatus, WebhookEndpoint
from bursar.webhooks.schemas import (
    AttemptOut,
    DeliveryList,
    DeliveryOut,
    DeliveryWithAttempts,
    EndpointEdit,
    EndpointIn,
    EndpointList,
    EndpointOut,
    EndpointWithSecret,
    EventTypeList,
    EventTypeOut,
    ReplayedOut,
    ReplayIn,
    RotationIn,
)
from bursar.webhooks.service import StillPending, SwitchedOff, TooManyEndpoints, UnknownEvent

router = APIRouter(tags=["webhooks"], route_class=Route)

READ = staff(Permission.WEBHOOKS_READ)
WRITE = staff(Permission.WEBHOOKS_WRITE)
BAD = (BadUrl, PrivateAddress, UnknownEvent)


class EndpointsQuery(PageQuery):
    """A page of endpoints, perhaps only those that fit."""

    status: EndpointStatus | None = None
    search: str | None = Field(
        None, min_length=1, max_length=100, description="Part of the URL or the description."
    )
    sort: str | None = sort_field(queries.ENDPOINTS)


class DeliveriesQuery(PageQuery):
    """A page of deliveries, perhaps only those that fit."""

    endpoint_id: UUID | None = None
    status: DeliveryStatus | None = None
    event_type: str | None = Field(None, min_length=1, max_length=100)
    sort: str | None = sort_field(queries.DELIVERIES)


@router.get("/webhook-endpoints", dependencies=[READ], responses=documented(InvalidInput))
async def list_endpoints(db: Db, ask: Annotated[EndpointsQuery, Query()]) -> EndpointList:
    """Who is told of events, the newest first."""
    page = await queries.endpoints(db, ask, search=ask.search, status=ask.status)
    rows = [EndpointOut.model_validate(row) for row in page.items]
    return EndpointList.of(page, webhook_endpoints=rows)


@router.post("/webhook-endpoints", status_code=201, responses=documented(*BAD, TooManyEndpoints))
async def create_endpoint(
    db: Db, response: Response, actor: Annotated[Actor, WRITE], body: EndpointIn
) -> EndpointWithSecret:
    """The answer has the secret, which is never shown again."""
    return with_secret(response, *await service.create(db, actor, dict(body)))


@router.get("/webhook-endpoints/{endpoint_id}", dependencies=[READ], responses=documented(NotFound))
async def read_endpoint(db: Db, response: Response, endpoint_id: UUID) -> EndpointOut:
    """One endpoint; the ETag is its version."""
    return shown(response, await queries.endpoint(db, endpoint_id))


@router.put(
    "/webhook-endpoints/{endpoint_id}",
    dependencies=[WRITE],
    responses=documented(NotFound, *BAD, PreconditionFailed),
)
async def change_endpoint(
    db: Db, response: Response, endpoint_id: UUID, body: EndpointEdit, if_match: IfMatch = None
) -> EndpointOut:
    """Changes what is given. Switched off, what waits for it has failed; switched on, it is told of
    what happens from then on."""
    return shown(response, await service.change(db, endpoint_id, body.facts(), if_match=if_match))


@router.delete(
    "/webhook-endpoints/{endpoint_id}",
    status_code=204,
    dependencies=[WRITE],
    responses=documented(NotFound, PreconditionFailed),
)
async def remove_endpoint(db: Db, endpoint_id: UUID, if_match: IfMatch = None) -> None:
    """With all that it was ever sent."""
    await service.remove(db, endpoint_id, if_match=if_match)


@router.post(
    "/webhook-endpoints/{endpoint_id}/secret",
    dependencies=[WRITE],
    responses=documented(NotFound, PreconditionFailed),
)
async def rotate_secret(
    db: Db, response: Response, endpoint_id: UUID, body: RotationIn, if_match: IfMatch = None
) -> EndpointWithSecret:
    """A new secret, shown this once; until the grace is over the one before signs too."""
    grace = timedelta(hours=body.grace_hours)
    rotated = await service.rotate_secret(db, endpoint_id, grace, if_match=if_match)
    return with_secret(response, *rotated)


@router.post(
    "/webhook-endpoints/{endpoint_id}/tests",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, SwitchedOff),
)
async def send_test(db: Db, endpoint_id: UUID) -> DeliveryOut:
    """Sends `webhooks.test` in a moment, once; read the delivery to see how that went."""
    return DeliveryOut.model_validate(await service.send_test(db, endpoint_id))


@router.post(
    "/webhook-endpoints/{endpoint_id}/replays",
    dependencies=[WRITE],
    responses=documented(NotFound, SwitchedOff),
)
async def replay_failed(db: Db, endpoint_id: UUID, body: ReplayIn) -> ReplayedOut:
    """Sends again all that was made since then and has failed, each with its webhook-id."""
    replayed, more = await service.replay_failed(db, endpoint_id, body.since)
    return ReplayedOut(replayed=replayed, more=more)


@router.get("/webhook-event-types", dependencies=[READ])
async def list_event_types(ask: Annotated[PageQuery, Query()]) -> EventTypeList:
    """Every event that leaves the house, by name."""
    found = [
        EventTypeOut(name=name, description=said(event), data_schema=event.model_json_schema())
        for name, event in events.public().items()
    ]
    page = of_list(found, ask)
    return EventTypeList.of(page, webhook_event_types=list(page.items))


def said(event: type[Any]) -> str:
    return " ".join((event.__doc__ or "").split())


@router.get("/webhook-deliveries", dependencies=[READ], responses=documented(InvalidInput))
async def list_deliveries(db: Db, ask: Annotated[DeliveriesQuery, Query()]) -> DeliveryList:
    """What was sent, or is to be, the newest first."""
    page = await queries.deliveries(
        db, ask, endpoint_id=ask.endpoint_id, status=ask.status, event_type=ask.event_type
    )
    rows = [DeliveryOut.model_validate(row) for row in page.items]
    return DeliveryList.of(page, webhook_deliveries=rows)


@router.get(
    "/webhook-deliveries/{delivery_id}", dependencies=[READ], responses=documented(NotFound)
)
async def read_delivery(db: Db, delivery_id: UUID) -> DeliveryWithAttempts:
    """One delivery, what was sent, and how each attempt ended."""
    row = await queries.delivery(db, delivery_id)
    log = [AttemptOut.model_validate(each) for each in await queries.attempts(db, delivery_id)]
    facts = DeliveryOut.model_validate(row).model_dump(by_alias=False)
    return DeliveryWithAttempts.model_validate({**facts, "body": row.body, "attempt_log": log})


@router.post(
    "/webhook-deliveries/{delivery_id}/replays",
    status_code=201,
    dependencies=[WRITE],
    responses=documented(NotFound, SwitchedOff, StillPending),
)
async def replay(db: Db, delivery_id: UUID) -> DeliveryOut:
    """Sends one again, whether it had arrived or not, with the same webhook-id."""
    return DeliveryOut.model_validate(await service.replay(db, delivery_id))


def shown(response: Response, endpoint: WebhookEndpoint) -> EndpointOut:
    response.headers["ETag"] = etag.of(endpoint.version)
    return EndpointOut.model_validate(endpoint)


def with_secret(response: Response, endpoint: WebhookEndpoint, secret: str) -> EndpointWithSecret:
    facts = shown(response, endpoint).model_dump(by_alias=False)
    return EndpointWithSecret.model_validate({**facts, "secret": secret})
