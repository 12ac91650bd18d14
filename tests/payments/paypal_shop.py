"""Customers who pay by PayPal, and its webhooks as they would come in."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from bursar.app import create_app
from bursar.core.database import WORKER
from bursar.payments import tasks
from tests import databases
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.paypal_program import CLIENT, SECRET, WEBHOOK_IDS, Account
from tests.wallets.purses import move_in
from tests.world import CARL, OLIVIA

PAYMENTS = "/api/v1/payments"
WEBHOOK = f"{PAYMENTS}/webhooks/paypal"


@dataclass
class Till:
    """Bursar and its PayPal."""

    live: Live
    paypal: Account

    async def begin(self, amount: Any = 20, **given: Any) -> dict[str, Any]:
        body = {"payment_method": "paypal", "amount": amount, **given}
        return await self.post(PAYMENTS, body, status=201)

    async def post(self, path: str, body: Any = None, *, status: int = 200) -> dict[str, Any]:
        async with self.live.api(OLIVIA if path.endswith("refunds") else CARL) as api:
            answer = await api.post(path, json=body)
        assert answer.status_code == status, answer.text
        answered: dict[str, Any] = answer.json()
        return answered

    async def confirm(self, payment: dict[str, Any]) -> dict[str, Any]:
        return await self.post(f"{PAYMENTS}/{payment['id']}/confirmation")

    async def paid(self, amount: Any = 20) -> dict[str, Any]:
        begun = await self.begin(amount)
        self.paypal.approve(begun["paypal_order_id"])
        return await self.confirm(begun)

    async def tell(self, event: dict[str, Any], **how: Any) -> httpx2.Response:
        body = json.dumps(event)
        return await self.send(body, self.paypal.sign(body, **how))

    async def send(self, body: str, headers: dict[str, str]) -> httpx2.Response:
        async with self.live.api() as api:
            return await api.post(WEBHOOK, content=body, headers=headers)

    async def hear(self, kind: str = "") -> None:
        for event in self.paypal.events(kind):
            assert (await self.tell(event)).status_code == 200
        await run_jobs(self.live)

    async def sweep(self) -> None:
        """A minute and more later."""
        await rows(self.live, "update payments set asked_at = now() - interval '2 hours'")
        await rows(self.live, "update refunds set asked_at = now() - interval '2 hours'")
        async with self.live.database.transaction(WORKER) as db:
            await tasks.sweep(db, {})
        await run_jobs(self.live)

    async def told(self) -> dict[str, str]:
        found = await rows(self.live, "select type, status from payment_events")
        return {row["type"]: row["status"] for row in found}


@asynccontextmanager
async def paypal_till(paypal: Account) -> AsyncIterator[Till]:
    """Carl and Dora have wallets; what they pay goes to the PayPal of the tests."""
    paypal.side("start_anew")
    settings = databases.test_settings(
        paypal_client_id=CLIENT,
        paypal_client_secret=SECRET,
        paypal_webhook_id=",".join(WEBHOOK_IDS),
        paypal_api_base=paypal.url,
    )
    url = await databases.clone()
    live = Live(url, settings, create_app(settings, url))
    await move_in(live)
    yield Till(live, paypal)
    await live.app.state.till.close()
    await live.app.state.providers.close()
    await live.database.close()
    await databases.discard(url)
