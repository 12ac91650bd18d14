"""PayPal by its Orders API: the customer approves an order at PayPal, Bursar takes it.

What is approved is taken once, whoever asks how often: an order can be captured once only. An order
whose answer was lost moves nothing, for nobody has its link; the same key finds it again while
PayPal keeps that, and another one is made after.
"""

import time
from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import orjson

from bursar.core.payment_settings import split
from bursar.core.settings import Settings
from bursar.payments.currencies import digits
from bursar.payments.models import ProviderState
from bursar.payments.providers import (
    Answer,
    BadClock,
    BadEvent,
    Booked,
    Charge,
    Event,
    Fact,
    Return,
    paypal_report,
)
from bursar.payments.providers.paypal_api import Api, Refused
from bursar.payments.providers.paypal_facts import (
    NOT_TAKEN,
    TAKEN,
    captures_of,
    facts_of_event,
    facts_of_order,
    facts_of_refund,
    moment,
)
from bursar.payments.providers.paypal_signatures import Signatures

LIVE = ("https://api-m.paypal.com", "https://api.paypal.com")
TOLERANCE_SECONDS = 300
ORDERS = "/v2/checkout/orders"
WHOLE_ONLY = ("HUF", "JPY", "TWD")  # PayPal takes no decimals in these, whatever ISO 4217 says
TRY_AGAIN = ("INSTRUMENT_DECLINED", "PAYER_ACTION_REQUIRED", "ORDER_NOT_APPROVED")


class PayPal:
    """One app at PayPal."""

    name = "paypal"

    def __init__(self, api: Api, webhook_ids: tuple[str, ...]) -> None:
        self._api = api
        self.is_test = api.base not in LIVE
        self._signatures = Signatures(api.base, webhook_ids, lambda url: api.fetch("GET", url))

    @classmethod
    def of(cls, settings: Settings) -> "PayPal":
        secret = settings.paypal_client_secret
        assert secret is not None  # noqa: S101 - the registry asks for no other
        client_id = settings.paypal_client_id or ""
        api = Api(settings.paypal_api_base, client_id, secret.get_secret_value())
        return cls(api, split(settings.paypal_webhook_id))

    async def create(self, charge: Charge) -> Answer:
        """An order that is known is gone on with: what was approved meanwhile is taken."""
        if charge.off_session or charge.method:
            return Answer(ProviderState.GONE, reason="PayPal payments need their payer.")
        if "paypal_order_id" in charge.ids:
            return await self.complete(charge)
        unit = {
            "custom_id": f"payment:{charge.payment_id}",
            "description": charge.description[:127],
            "amount": worded(charge.amount, charge.currency),
        }
        experience = {
            "return_url": charge.return_url,
            "cancel_url": charge.return_url,
            "user_action": "PAY_NOW",
            "shipping_preference": "NO_SHIPPING",
        }
        order = {
            "intent": "CAPTURE",
            "purchase_units": [unit],
            "payment_source": {"paypal": {"experience_context": experience}},
        }
        try:
            return answer_of(await self._api.post(ORDERS, charge.key, order))
        except Refused as refused:
            return gone(refused)

    async def look(self, charge: Charge) -> Answer:
        try:
            return answer_of(await self._order(charge))
        except Refused as refused:
            return gone(refused)

    async def complete(self, charge: Charge) -> Answer:
        """After a decline the payer approves anew, which makes the order, and the key, another."""
        try:
            order = await self._order(charge)
            if order.get("status") != "APPROVED":
                return answer_of(order)
            key = f"{charge.key}-capture-{order.get('update_time') or ''}"
            return await self._capture(order, key)
        except Refused as refused:
            return gone(refused)

    async def _order(self, charge: Charge) -> dict[str, Any]:
        return await self._api.get(f"{ORDERS}/{charge.ids['paypal_order_id']}")

    async def _capture(self, order: dict[str, Any], key: str) -> Answer:
        try:
            return answer_of(await self._api.post(f"{ORDERS}/{order['id']}/capture", key, {}))
        except Refused as refused:
            if refused.issue == "ORDER_ALREADY_CAPTURED":
                return answer_of(await self._api.get(f"{ORDERS}/{order['id']}"))
            if refused.issue not in TRY_AGAIN:
                raise
            return Answer(
                ProviderState.WAITING,
                next_action=asked_of_customer(order),
                code=refused.issue.lower(),
                reason=refused.description,
            )

    async def cancel(self, charge: Charge) -> Answer:
        """An order ends by itself when nobody takes it, and nobody but us can."""
        if "paypal_order_id" in charge.ids:
            answer = await self.look(charge)
            if answer.state != ProviderState.WAITING or answer.next_action is None:
                return answer
        return Answer(ProviderState.GONE, code="cancelled", reason="given up")

    async def refund(self, back: Return) -> Answer:
        capture = back.ids.get("paypal_payment_id")
        if capture is None:
            return Answer(ProviderState.GONE, reason="nothing was captured at PayPal")
        body = {
            "amount": worded(back.amount, back.currency),
            "custom_id": f"refund:{back.refund_id}",
        }
        try:
            made = await self._api.post(f"/v2/payments/captures/{capture}/refund", back.key, body)
        except Refused as refused:
            return gone(refused)
        return refund_answer(made)

    async def look_at_refund(self, back: Return) -> Answer:
        if back.provider_refund_id is None:
            return await self.refund(back)
        try:
            found = await self._api.get(f"/v2/payments/refunds/{back.provider_refund_id}")
        except Refused as refused:
            return gone(refused)
        return refund_answer(found)

    async def forget(self, token: str) -> None:
        """Nothing is saved at PayPal."""

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """Signed for one of our webhooks, at most 300 seconds ago or ahead."""
        await self._signatures.demand(body, headers)
        sent_at = moment(headers.get("paypal-transmission-time"))
        if sent_at is None or abs(sent_at.timestamp() - time.time()) > TOLERANCE_SECONDS:
            raise BadClock(f"This webhook's time is more than {TOLERANCE_SECONDS} s from ours.")
        try:
            event = orjson.loads(body)
            return Event(
                str(event["id"]), str(event["event_type"]), moment(event.get("create_time"))
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadEvent("This is not an event of PayPal's.") from None

    def facts(self, payload: Mapping[str, Any]) -> tuple[Fact, ...]:
        return tuple(facts_of_event(payload))

    def booked(self, since: datetime, until: datetime) -> AsyncIterator[Booked]:
        return paypal_report.lines(self._api, since, until)

    async def close(self) -> None:
        await self._api.close()


def answer_of(order: Mapping[str, Any]) -> Answer:
    """How an order stands; a capture that the bank still looks at waits for time, not for us."""
    captures = captures_of(order)
    status = str(captures[0]["status"]) if captures else str(order.get("status"))
    state = ProviderState.WAITING
    if status in TAKEN:
        state = ProviderState.DONE
    elif status in (*NOT_TAKEN, "VOIDED"):
        state = ProviderState.GONE
    details = (captures[0].get("status_details") or {}) if captures else {}
    return Answer(
        state,
        tuple(facts_of_order(order)),
        {"paypal_order_id": str(order["id"])},
        asked_of_customer(order) if not captures and state == ProviderState.WAITING else None,
        code=str(details["reason"]).lower() if details.get("reason") else None,
    )


def asked_of_customer(order: Mapping[str, Any]) -> dict[str, Any] | None:
    links = {link.get("rel"): link.get("href") for link in order.get("links") or ()}
    url = links.get("payer-action") or links.get("approve")
    return {"type": "redirect", "url": url} if url else None


def gone(refused: Refused) -> Answer:
    return Answer(ProviderState.GONE, code=refused.issue.lower(), reason=refused.description)


def refund_answer(refund: Mapping[str, Any]) -> Answer:
    states = {
        "COMPLETED": ProviderState.DONE,
        "FAILED": ProviderState.GONE,
        "CANCELLED": ProviderState.GONE,
    }
    return Answer(
        states.get(str(refund.get("status")), ProviderState.WAITING),
        tuple(facts_of_refund(refund)),
        {"provider_refund_id": str(refund["id"])},
        reason=(refund.get("status_details") or {}).get("reason"),
    )


def worded(amount: Decimal, currency: str) -> dict[str, str]:
    whole = currency in WHOLE_ONLY and amount == amount.to_integral_value()
    places = 0 if whole else digits(currency)
    return {"currency_code": currency, "value": f"{amount:.{places}f}"}
