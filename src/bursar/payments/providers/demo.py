"""A provider for show, on a machine without keys: its page approves or declines, no money moves.

It keeps nothing of its own: what the page says is applied at once, as a fact
(payments/demo_page.py), and whoever asks later hears that it still waits. It is there only where
the settings allow it, which is never where real money could be meant (core/payment_settings.py).
"""

import hashlib
import hmac
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from bursar.core.settings import Settings
from bursar.payments.models import ProviderState
from bursar.payments.providers import (
    Answer,
    BadSignature,
    Booked,
    Charge,
    Event,
    Fact,
    Return,
    What,
)


class Demo:
    """In the place of Stripe and PayPal."""

    name = "demo"
    is_test = True

    def __init__(self, public_url: str, secret_keys: tuple[str, ...]) -> None:
        self._public_url, self._keys = public_url, secret_keys

    @classmethod
    def of(cls, settings: Settings) -> "Demo":
        return cls(settings.public_url, settings.secret_keys)

    def token(self, payment_id: str) -> str:
        """What the link to a payment's page has in it, and nobody can guess."""
        return sign(self._keys[0], payment_id)

    def knows(self, payment_id: str, token: str) -> bool:
        return any(hmac.compare_digest(sign(key, payment_id), token) for key in self._keys)

    async def create(self, charge: Charge) -> Answer:
        if charge.off_session:
            return Answer(ProviderState.DONE, (captured(charge),))
        token = self.token(str(charge.payment_id))
        url = f"{self._public_url}/demo-payments/{charge.payment_id}?token={token}"
        return Answer(ProviderState.WAITING, next_action={"type": "redirect", "url": url})

    async def look(self, charge: Charge) -> Answer:
        return await self.create(charge)

    async def complete(self, charge: Charge) -> Answer:
        return await self.create(charge)

    async def cancel(self, charge: Charge) -> Answer:
        return Answer(ProviderState.GONE, code="cancelled", reason="given up")

    async def refund(self, back: Return) -> Answer:
        gone = Fact(
            What.REFUNDED,
            self.name,
            f"demo_re_{back.refund_id.hex}",
            {"id": str(back.payment_id)},
            amount=back.amount,
            currency=back.currency,
            refund_id=str(back.refund_id),
        )
        return Answer(ProviderState.DONE, (gone,))

    async def look_at_refund(self, back: Return) -> Answer:
        return await self.refund(back)

    async def forget(self, token: str) -> None:
        """It knows none."""

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        raise BadSignature("The demo sends no webhooks.")

    def facts(self, payload: Mapping[str, Any]) -> tuple[Fact, ...]:
        return ()

    async def booked(self, since: datetime, until: datetime) -> AsyncIterator[Booked]:
        nothing: tuple[Booked, ...] = ()
        for each in nothing:
            yield each

    async def close(self) -> None:
        """It has no connections."""


def sign(key: str, payment_id: str) -> str:
    return hmac.new(key.encode(), f"demo payment {payment_id}".encode(), hashlib.sha256).hexdigest()


def captured(charge: Charge) -> Fact:
    return Fact(
        What.CAPTURED,
        Demo.name,
        f"demo_{charge.payment_id.hex}",
        {"id": str(charge.payment_id)},
        amount=charge.amount,
        currency=charge.currency,
    )
