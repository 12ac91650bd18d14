"""Customers and staff who come in by the front door, the mail they get, and the jobs behind it."""

import asyncio
import re
from dataclasses import dataclass
from typing import Any

import asyncpg
import httpx2

from bursar.core import events, mail_outbox, relay
from bursar.core.database import WORKER
from bursar.worker import Worker
from tests.conftest import Live
from tests.databases import raw

AUTH = "/api/v1/auth"
USERS = "/api/v1/users"
ADMIN_USERS = "/api/v1/admin/users"
PASSWORD = "a boat full of otters"
OTHER_PASSWORD = "seven sleepy lighthouses"


@dataclass
class Customer:
    """Somebody with an account and the tokens of one session."""

    id: str
    email: str
    access_token: str
    refresh_token: str

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.access_token}"}


async def sign_up(
    api: httpx2.AsyncClient, email: str = "carl@example.com", **given: Any
) -> Customer:
    body = {"email": email, "password": PASSWORD, "full_name": "Carl Carlson", **given}
    answer = await api.post(f"{AUTH}/signup", json=body)
    assert answer.status_code == 201, answer.text
    return customer(answer)


async def log_in(
    api: httpx2.AsyncClient, email: str = "carl@example.com", password: str = PASSWORD
) -> Customer:
    answer = await api.post(f"{AUTH}/login", json={"email": email, "password": password})
    assert answer.status_code == 200, answer.text
    return customer(answer)


def customer(answer: httpx2.Response) -> Customer:
    body = answer.json()
    return Customer(
        body["user"]["id"], body["user"]["email"], body["access_token"], body["refresh_token"]
    )


async def run_jobs(live: Live) -> None:
    """Everything that is due, and what that adds, in this process."""
    worker = Worker(live.database, live.settings)
    while True:
        await worker.fill()
        if not worker.running:
            return
        await asyncio.gather(*worker.running)


async def listen(live: Live, *subscribers: str) -> None:
    """From now on they hear what happens."""
    await relay.register(live.database, [events.subscribers[name] for name in subscribers])


async def tell(live: Live, *subscribers: str) -> int:
    """They hear of all that has happened, also of what an older transaction elsewhere on the server
    holds back for a moment; of how many events, is the answer."""
    heard = 0
    for name in subscribers:
        heard += (delivery := await deliver(live, name)).events
        while delivery.events or delivery.next_in_seconds == relay.SOON:
            await asyncio.sleep(0.01 if delivery.next_in_seconds else 0)
            heard += (delivery := await deliver(live, name)).events
    return heard


async def deliver(live: Live, subscriber: str) -> relay.Delivery:
    return await relay.deliver(live.database, events.subscribers[subscriber])


async def mails(live: Live, to: str) -> list[mail_outbox.Shown]:
    """What somebody would find in their mailbox, the newest first."""
    async with live.database.transaction(WORKER) as db:
        listed = await mail_outbox.listing(db, list(mail_outbox.Status))
        return [await mail_outbox.show(db, each.id) for each in listed if each.recipient == to]


async def link_in_mail(live: Live, to: str) -> str:
    """The token of the newest link that was mailed to somebody."""
    await run_jobs(live)
    words = (await mails(live, to))[0].words
    assert words is not None
    found = re.search(r"[?&]token=([A-Za-z0-9_-]+)", words.text)
    assert found, words.text
    return found[1]


async def rows(live: Live, sql: str, *arguments: Any) -> list[asyncpg.Record]:
    """As the owner: what is really there."""
    connection = await asyncpg.connect(raw(live.url))
    try:
        return list(await connection.fetch(sql, *arguments))
    finally:
        await connection.close()


async def change(live: Live, setting: str, value: Any) -> None:
    """As staff would, by the settings page."""
    from tests.world import OLIVIA

    async with live.api(OLIVIA) as api:
        answer = await api.put("/api/v1/admin/settings", json={setting: value})
    assert answer.status_code == 200, answer.text


async def actions(live: Live, target: str) -> list[str]:
    """What the audit trail says happened to somebody, the oldest first."""
    query = "select event_type from audit_logs where target_id = $1 order by id"
    return [row["event_type"] for row in await rows(live, query, target)]
