"""Real receivers of webhooks on this machine, and what a test sends and asks for around them."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
from aiohttp import web
from standardwebhooks import Webhook

from bursar.core import events
from bursar.core.database import WORKER
from bursar.worker import Worker
from tests.accounts import people
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.world import OLIVIA

ENDPOINTS = "/api/v1/admin/webhook-endpoints"
DELIVERIES = "/api/v1/admin/webhook-deliveries"
USER_ID = "00000000-0000-7000-8000-0000000000c1"

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Receiver:
    """A server that keeps what it is sent, and answers what it is told to."""

    url: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    text: str = "thank you"
    answer: Answer | None = None  # instead of the three above
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    async def take(self, request: web.Request) -> web.StreamResponse:
        self.got.append((dict(request.headers), await request.read()))
        self.arrived.set()
        if self.answer:
            return await self.answer(request)
        return web.Response(status=self.status, headers=self.headers, text=self.text)

    @property
    def ids(self) -> list[str]:
        return [headers["webhook-id"] for headers, _ in self.got]

    def verified(self, secret: str, place: int = -1) -> Any:
        """What the library of Standard Webhooks makes of it, or its WebhookVerificationError."""
        headers, body = self.got[place]
        return Webhook(secret).verify(body, headers)


@asynccontextmanager
async def receiver(
    host: str = "127.0.0.1", tls: ssl.SSLContext | None = None, **given: Any
) -> AsyncIterator[Receiver]:
    made = Receiver(**given)
    application = web.Application()
    application.router.add_post("/{anything:.*}", made.take)
    application.router.add_get("/{anything:.*}", made.take)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0, ssl_context=tls)
    await site.start()
    port = runner.addresses[0][1]
    name = f"[{host}]" if ":" in host else host
    made.url = f"{'https' if tls else 'http'}://{name}:{port}/hook"
    try:
        yield made
    finally:
        await runner.cleanup()


async def make(api: httpx2.AsyncClient, url: str, **given: Any) -> dict[str, Any]:
    """An endpoint, with its secret."""
    answer = await api.post(ENDPOINTS, json={"url": url, **given})
    assert answer.status_code == 201, answer.text
    made: dict[str, Any] = answer.json()
    return made


async def endpoint_for(live: Live, url: str, **given: Any) -> dict[str, Any]:
    async with live.api(OLIVIA) as api:
        return await make(api, url, **given)


async def publish(live: Live, *happened: events.Event) -> None:
    async with live.database.transaction(WORKER) as db:
        for event in happened:
            await events.publish(db, event)


async def listen(live: Live) -> None:
    """From here on events are told to webhooks, as by a worker that has started."""
    await people.listen(live, "webhooks.deliver")


async def tell(live: Live) -> None:
    """Everything that was published is told."""
    await people.tell(live, "webhooks.deliver")


async def work(live: Live) -> None:
    """Everything that is due, in this process."""
    await tell(live)
    await run_jobs(live)


@asynccontextmanager
async def worker(live: Live) -> AsyncIterator[None]:
    """A worker beside the test, with all its loops."""
    stop = asyncio.Event()
    working = asyncio.create_task(Worker(live.database, live.settings).run(stop))
    yield
    stop.set()
    await working


async def make_due(live: Live) -> None:
    """Time has passed: whatever waits for its next attempt is due, and so are its jobs."""
    await rows(
        live, "update webhook_deliveries set next_attempt_at = now() where status = 'pending'"
    )
    await rows(live, "update pgqueuer set execute_after = now() where status = 'queued'")


async def delivery(live: Live) -> Any:
    """The only one there is."""
    [found] = await rows(live, "select * from webhook_deliveries")
    return found


async def attempts(live: Live) -> list[Any]:
    return await rows(live, "select * from webhook_attempts order by id")
