"""Stripe, by its own library: PaymentIntents, refunds, disputes, webhooks signed over raw bytes.

Retries are ours, so the library makes none. Whatever leaves open whether a call has happened is
`Unknown`; what Stripe refuses is an answer. A key is forgotten there after a day: from then on an
intent is looked for by our id, which stands in its metadata, before another one is made.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import stripe
from stripe import StripeClient, WebhookSignature

from bursar.core import money
from bursar.core.errors import BursarError
from bursar.core.payment_settings import split
from bursar.core.settings import Settings
from bursar.payments.models import ProviderState
from bursar.payments.providers import (
    Answer,
    BadClock,
    BadEvent,
    BadSignature,
    Booked,
    Charge,
    Event,
    Fact,
    NotShown,
    Return,
    Unknown,
)
from bursar.payments.providers.stripe_facts import (
    asked_of_customer,
    facts_of_event,
    facts_of_intent,
    facts_of_refund,
    ids_of_intent,
    scale_of,
)

TIMEOUT_SECONDS = 20
KEYS_KEPT = timedelta(hours=23)
TOLERANCE_SECONDS = 300
EXPANDED = ["latest_charge.balance_transaction", "payment_method"]
NOBODY_KNOWS = (stripe.APIConnectionError, stripe.APIError, stripe.RateLimitError)


class Stripe:
    """One account at Stripe."""

    name = "stripe"

    def __init__(self, secret: str, webhook_secrets: tuple[str, ...], api_base: str) -> None:
        self._secrets = webhook_secrets
        self.is_test = "_test_" in secret
        self._http = stripe.AIOHTTPClient(timeout=TIMEOUT_SECONDS)
        self._client = StripeClient(
            secret,
            base_addresses={"api": api_base},
            max_network_retries=0,
            http_client=self._http,
        )

    @classmethod
    def of(cls, settings: Settings) -> "Stripe":
        secret = settings.stripe_secret_key
        assert secret is not None  # noqa: S101 - the registry asks for no other
        webhook_secrets = split(settings.stripe_webhook_secret)
        return cls(secret.get_secret_value(), webhook_secrets, settings.stripe_api_base)

    async def create(self, charge: Charge) -> Answer:
        if charge.ids.get("stripe_payment_intent_id"):
            return await self.look(charge)
        if is_old(charge) and (found := await self._search(charge)):
            return self._answer(found, charge)
        customer = charge.customer_id
        if charge.save_method and customer is None:
            customer = await self._new_customer(charge)
        try:
            whole = minor(charge.amount, charge.currency)
        except BursarError as error:
            return unpayable(error)
        asked: dict[str, Any] = {
            "amount": whole,
            "currency": charge.currency.lower(),
            "description": charge.description,
            "metadata": {"payment_id": str(charge.payment_id)},
            "automatic_payment_methods": {"enabled": True},
            "expand": EXPANDED,
        }
        if customer:
            asked["customer"] = customer
        if charge.save_method:
            asked["setup_future_usage"] = "off_session"
        if charge.method:
            asked |= {"payment_method": charge.method, "confirm": True}
            asked |= (
                {"off_session": True} if charge.off_session else {"return_url": charge.return_url}
            )
        return await self._intent(
            self._client.v1.payment_intents.create_async,
            charge,
            asked,
            {"idempotency_key": charge.key},
        )

    async def look(self, charge: Charge) -> Answer:
        intent_id = charge.ids.get("stripe_payment_intent_id")
        if intent_id is None:
            found = await self._search(charge)
            return self._answer(found, charge) if found else Answer(ProviderState.UNKNOWN)
        retrieve = self._client.v1.payment_intents.retrieve_async
        return await self._intent(retrieve, charge, intent_id, {"expand": EXPANDED})

    async def complete(self, charge: Charge) -> Answer:
        """An intent takes by itself what was approved; where not, it is taken now."""
        answer = await self.look(charge)
        if answer.reason != "requires_capture":
            return answer
        capture = self._client.v1.payment_intents.capture_async
        intent_id = charge.ids["stripe_payment_intent_id"]
        options = {"idempotency_key": f"{charge.key}-capture"}
        return await self._intent(capture, charge, intent_id, {"expand": EXPANDED}, options)

    async def cancel(self, charge: Charge) -> Answer:
        intent_id = charge.ids.get("stripe_payment_intent_id")
        if intent_id is None:
            return Answer(ProviderState.GONE, reason="given up before it was begun")
        cancel = self._client.v1.payment_intents.cancel_async
        options: Any = {"idempotency_key": f"{charge.key}-cancel"}
        try:
            intent = await called(cancel(intent_id, {"expand": EXPANDED}, options))
        except stripe.InvalidRequestError:  # it is paid, or gone already: it says so itself
            return await self.look(charge)
        return self._answer(intent, charge)

    async def _intent(self, call: Any, charge: Charge, *arguments: Any) -> Answer:
        """One call about an intent; a card that is declined leaves an intent that can be tried."""
        try:
            return self._answer(await called(call(*arguments)), charge)
        except stripe.CardError as error:
            intent = getattr(error.error, "payment_intent", None) if error.error else None
            answer = self._answer(intent, charge) if intent else Answer(ProviderState.GONE)
            state = ProviderState.GONE if charge.off_session else answer.state
            return Answer(
                state,
                answer.facts,
                answer.ids,
                answer.next_action,
                answer.customer_id,
                code=error.code,
                reason=error.user_message,
            )
        except stripe.InvalidRequestError as error:
            return Answer(ProviderState.GONE, code=error.code, reason=error.user_message)

    def _answer(self, intent: Any, charge: Charge) -> Answer:
        about = plain(intent)
        error = about.get("last_payment_error") or {}
        states = {"succeeded": ProviderState.DONE, "canceled": ProviderState.GONE}
        held = about["status"] == "requires_capture"
        return Answer(
            states.get(about["status"], ProviderState.WAITING),
            tuple(facts_of_intent(about)),
            ids_of_intent(about),
            asked_of_customer(about, charge.return_url),
            customer_id=about.get("customer"),
            code=error.get("code"),
            reason="requires_capture" if held else error.get("message"),
        )

    async def _search(self, charge: Charge) -> Any:
        query = f"metadata['payment_id']:'{charge.payment_id}'"
        params: Any = {"query": query, "limit": 1, "expand": [f"data.{each}" for each in EXPANDED]}
        found = await looked_up(self._client.v1.payment_intents.search_async(params))
        return found.data[0] if found.data else None

    async def _new_customer(self, charge: Charge) -> str:
        params: Any = {"metadata": {"payment_id": str(charge.payment_id)}}
        if charge.customer_email:
            params["email"] = charge.customer_email
        options: Any = {"idempotency_key": f"{charge.key}-customer"}
        return str((await called(self._client.v1.customers.create_async(params, options))).id)

    async def refund(self, back: Return) -> Answer:
        if is_old(back) and (found := await self._made_before(back)):
            return refund_answer(found)
        try:
            whole = minor(back.amount, back.currency)
        except BursarError as error:
            return unpayable(error)
        params: Any = {
            "payment_intent": back.ids.get("stripe_payment_intent_id"),
            "amount": whole,
            "metadata": {"payment_id": str(back.payment_id), "refund_id": str(back.refund_id)},
        }
        options: Any = {"idempotency_key": back.key}
        try:
            made = await called(self._client.v1.refunds.create_async(params, options))
        except stripe.InvalidRequestError as error:
            return Answer(ProviderState.GONE, code=error.code, reason=error.user_message)
        return refund_answer(plain(made))

    async def _made_before(self, back: Return) -> dict[str, Any] | None:
        """Its key may be forgotten, so it is looked for by our id."""
        params: Any = {"payment_intent": back.ids.get("stripe_payment_intent_id"), "limit": 100}
        made = await looked_up(self._client.v1.refunds.list_async(params))
        for each in map(plain, made.data):
            if (each.get("metadata") or {}).get("refund_id") == str(back.refund_id):
                return each
        return None

    async def look_at_refund(self, back: Return) -> Answer:
        if back.provider_refund_id is None:
            return await self.refund(back)
        found = await looked_up(self._client.v1.refunds.retrieve_async(back.provider_refund_id))
        return refund_answer(plain(found))

    async def forget(self, token: str) -> None:
        with suppress(stripe.InvalidRequestError):  # it is gone, or was never attached
            await called(self._client.v1.payment_methods.detach_async(token))

    async def read_event(self, body: bytes, headers: Mapping[str, str]) -> Event:
        """Signed by one of our secrets, at most 300 seconds ago or ahead."""
        header = headers.get("stripe-signature", "")
        if not any(self._is_signed(body, header, secret) for secret in self._secrets):
            raise BadSignature("This webhook is not signed by Stripe.")
        moment, _ = WebhookSignature._get_timestamp_and_signatures(header, "v1")  # noqa: SLF001
        if abs(moment - time.time()) > TOLERANCE_SECONDS:
            raise BadClock(f"This webhook's time is more than {TOLERANCE_SECONDS} s from ours.")
        try:
            event = orjson.loads(body)
            happened_at = datetime.fromtimestamp(event["created"], UTC)
            return Event(str(event["id"]), str(event["type"]), happened_at)
        except (ValueError, KeyError, TypeError, OverflowError):
            raise BadEvent("This is not an event of Stripe's.") from None

    def _is_signed(self, body: bytes, header: str, secret: str) -> bool:
        try:
            return bool(WebhookSignature.verify_header(body, header, secret))
        except (stripe.SignatureVerificationError, UnicodeDecodeError):
            return False

    def facts(self, payload: Mapping[str, Any]) -> tuple[Fact, ...]:
        return tuple(facts_of_event(payload))

    async def booked(self, since: datetime, until: datetime) -> AsyncIterator[Booked]:
        """Stripe's balance transactions, a page at a time."""
        params: Any = {
            "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
            "limit": 100,
            "expand": ["data.source"],
        }
        while True:
            try:
                page = await called(self._client.v1.balance_transactions.list_async(params))
            except stripe.StripeError as error:
                said = error.user_message or type(error).__name__
                raise NotShown(f"Stripe refuses its books: {said}") from error
            for entry in page.data:
                yield booked(plain(entry))
            if not page.has_more:
                return
            params = {**params, "starting_after": page.data[-1].id}

    async def close(self) -> None:
        await self._http.close_async()  # type: ignore[no-untyped-call]


async def called(call: Any) -> Any:
    """The answer, what Stripe refuses, or that nobody knows."""
    try:
        return await call
    except NOBODY_KNOWS as error:
        raise Unknown(type(error).__name__) from error
    except stripe.IdempotencyError as error:  # the first call with this key is still at work
        raise Unknown("the same call is under way") from error
    except (stripe.AuthenticationError, stripe.PermissionError) as error:
        raise Unknown("Stripe refuses our key") from error


async def looked_up(call: Any) -> Any:
    """What Stripe does not show us may be there all the same."""
    try:
        return await called(call)
    except stripe.InvalidRequestError as error:
        raise Unknown(f"Stripe does not show it: {error.user_message or error.code}") from error


def is_old(asked: Charge | Return) -> bool:
    return asked.begun_at is not None and datetime.now(UTC) - asked.begun_at > KEYS_KEPT


def minor(amount: Decimal, currency: str) -> int:
    return money.minor(amount, scale_of(currency))


def unpayable(error: BursarError) -> Answer:
    """Stripe keeps fewer digits of this currency than ISO 4217 does."""
    return Answer(ProviderState.GONE, code=error.code, reason=error.detail)


def plain(thing: Any) -> dict[str, Any]:
    found: dict[str, Any] = thing.to_dict() if hasattr(thing, "to_dict") else dict(thing)
    return found


def refund_answer(refund: dict[str, Any]) -> Answer:
    states = {
        "succeeded": ProviderState.DONE,
        "failed": ProviderState.GONE,
        "canceled": ProviderState.GONE,
    }
    return Answer(
        states.get(refund["status"], ProviderState.WAITING),
        tuple(facts_of_refund(refund)),
        {"provider_refund_id": refund["id"]},
        reason=refund.get("failure_reason"),
    )


def booked(entry: dict[str, Any]) -> Booked:
    source = entry.get("source")
    about = source if isinstance(source, dict) else {}
    currency = entry["currency"].upper()
    scale = scale_of(currency)
    kinds = {"charge": "captured", "payment": "captured", "refund": "refunded"}
    kinds |= {"payment_refund": "refunded", "adjustment": "disputed"}
    intent = about.get("payment_intent")
    return Booked(
        object_id=str(about.get("id") or source or entry["id"]),
        what=kinds.get(entry["type"], entry["type"]),
        amount=money.decimal(entry["amount"], scale),
        currency=currency,
        fee=money.decimal(entry["fee"], scale),
        booked_at=datetime.fromtimestamp(entry["created"], UTC),
        payment={"stripe_payment_intent_id": intent} if intent else {},
    )
