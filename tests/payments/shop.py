"""Customers who pay by Stripe, and its webhooks as they would come in.

payment = await shop.pay(CARL, 20)           # asked for, paid on Stripe's page
await shop.hear()                            # its webhooks arrive, and are read
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import httpx2
from stripe import WebhookSignature

from bursar.auth.actor import Actor
from tests.accounts import people
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.payments.stripe_program import Account
from tests.world import CARL, OLIVIA

KEY = "sk_test_of_the_tests"
SECRETS = ("whsec_the_new_one", "whsec_the_old_one")
PAYMENTS = "/api/v1/payments"
WEBHOOK = f"{PAYMENTS}/webhook"
SUBSCRIBER = "payments.details"


@dataclass
class Shop:
    """Bursar and its Stripe."""

    live: Live
    stripe: Account

    async def ask(self, who: Actor = CARL, amount: Any = 20, **given: Any) -> httpx2.Response:
        """A payment is asked for; `key` is its Idempotency-Key."""
        headers = {"Idempotency-Key": given.pop("key")} if "key" in given else {}
        body = {"payment_method": "stripe", "amount": amount, **given}
        async with self.live.api(who, **headers) as api:
            return await api.post(PAYMENTS, json={k: v for k, v in body.items() if v is not None})

    async def begin(self, who: Actor = CARL, amount: Any = 20, **given: Any) -> dict[str, Any]:
        answer = await self.ask(who, amount, **given)
        assert answer.status_code == 201, answer.text
        begun: dict[str, Any] = answer.json()
        return begun

    async def pay(self, who: Actor = CARL, amount: Any = 20, **given: Any) -> dict[str, Any]:
        """Asked for and paid at Stripe; Bursar has not heard of that yet."""
        method = given.pop("card", "pm_ok")
        begun = await self.begin(who, amount, **given)
        self.stripe.pay(begun["stripe_payment_intent_id"], method)
        return begun

    async def paid(self, who: Actor = CARL, amount: Any = 20, **given: Any) -> dict[str, Any]:
        """And heard of."""
        begun = await self.pay(who, amount, **given)
        await self.post(who, f"{PAYMENTS}/{begun['id']}/confirmation")
        return await self.read(begun["id"])

    async def post(
        self, who: Actor, path: str, body: Any = None, **headers: str
    ) -> httpx2.Response:
        async with self.live.api(who, **headers) as api:
            return await api.post(path, json=body)

    async def read(self, payment: str, who: Actor = OLIVIA) -> dict[str, Any]:
        async with self.live.api(who) as api:
            answer = await api.get(f"/api/v1/admin/payments/{payment}")
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    async def refund(self, payment: str, amount: Any = None, **given: Any) -> httpx2.Response:
        key = given.pop("key", None)
        headers = {"Idempotency-Key": key} if key else {}
        body = {"amount": amount, **given} if amount is not None else given
        return await self.post(OLIVIA, f"{PAYMENTS}/{payment}/refunds", body, **headers)

    async def tell(self, event: dict[str, Any], **how: Any) -> httpx2.Response:
        """One webhook, signed as Stripe signs."""
        body = json.dumps(event)
        async with self.live.api() as api:
            return await api.post(WEBHOOK, content=body, headers=signed(body, **how))

    async def hear(self, kind: str = "") -> None:
        """All webhooks that Stripe has for us, in order, and the jobs that read them."""
        for event in self.stripe.events(kind):
            answer = await self.tell(event)
            assert answer.status_code == 200, answer.text
        await self.work()

    async def work(self) -> None:
        """Jobs, what they publish, and the jobs that come of that."""
        await run_jobs(self.live)
        await people.tell(self.live, SUBSCRIBER)
        await run_jobs(self.live)

    async def told(self) -> list[tuple[str, str]]:
        """What has become of the webhooks: type and status."""
        query = "select type, status from payment_events order by received_at, id"
        return [(row["type"], row["status"]) for row in await rows(self.live, query)]


def signed(body: str, *, secret: str = SECRETS[0], age_seconds: float = 0) -> dict[str, str]:
    moment = int(time.time() - age_seconds)
    header = WebhookSignature.generate_signature_header(body, secret, moment)
    return {"Stripe-Signature": header, "Content-Type": "application/json"}
