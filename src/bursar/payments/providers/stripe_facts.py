"""What Stripe's objects say, in Bursar's words; the same for an answer and for a webhook."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bursar.core import money
from bursar.payments.currencies import digits
from bursar.payments.providers import Fact, SavedMethod, What

STRIPE = "stripe"
WAITS_FOR_CUSTOMER = ("requires_payment_method", "requires_confirmation", "requires_action")
DIGITS = {"ISK": 2, "MGA": 0, "UGX": 2}
DISPUTES_OVER = {
    "won": What.DISPUTE_WON,
    "warning_closed": What.DISPUTE_WON,
    "prevented": What.DISPUTE_WON,
    "lost": What.DISPUTE_LOST,
}


def facts_of_event(event: Mapping[str, Any]) -> Iterator[Fact]:
    """Of the types that change something here; of others nothing."""
    about = event.get("data", {}).get("object", {})
    match str(event.get("type")).split("."):
        case ["payment_intent", *_]:
            yield from facts_of_intent(about)
        case ["refund", *_]:
            yield from facts_of_refund(about)
        case ["charge", "refund", *_]:
            yield from facts_of_refund(about)
        case ["charge", "dispute", *_]:
            yield from facts_of_dispute(about)


def facts_of_intent(intent: Mapping[str, Any]) -> Iterator[Fact]:
    charge = intent.get("latest_charge")
    charge = charge if isinstance(charge, Mapping) else {}
    common: dict[str, Any] = {
        "provider": STRIPE,
        "object_id": intent["id"],
        "payment": references(intent),
        "ids": ids_of_intent(intent),
        "customer_id": intent.get("customer"),
        "happened_at": moment(intent.get("created")),
    }
    if intent["status"] == "succeeded":
        yield Fact(
            What.CAPTURED,
            amount=whole(intent.get("amount_received", intent["amount"]), intent["currency"]),
            currency=intent["currency"].upper(),
            fee=fee_of(charge),
            data=kept(intent),
            **{**common, "happened_at": moment(charge.get("created") or intent.get("created"))},
        )
        if saved := saved_method(intent):
            yield Fact(What.METHOD_SAVED, method=saved, **common)
    elif intent["status"] == "canceled":
        reason = intent.get("cancellation_reason") or "cancelled"
        yield Fact(What.CANCELLED, code=reason, reason=f"stripe: {reason}", **common)
    elif error := intent.get("last_payment_error"):
        yield Fact(What.DECLINED, code=error.get("code"), reason=error.get("message"), **common)


def facts_of_refund(refund: Mapping[str, Any]) -> Iterator[Fact]:
    kinds = {
        "succeeded": What.REFUNDED,
        "failed": What.REFUND_FAILED,
        "canceled": What.REFUND_FAILED,
    }
    what = kinds.get(str(refund.get("status")))
    if what is None:
        return
    yield Fact(
        what,
        STRIPE,
        refund["id"],
        references(refund),
        amount=whole(refund["amount"], refund["currency"]),
        currency=refund["currency"].upper(),
        refund_id=(refund.get("metadata") or {}).get("refund_id"),
        reason=refund.get("failure_reason") or refund.get("reason"),
        happened_at=moment(refund.get("created")),
        data=kept(refund),
    )


def facts_of_dispute(dispute: Mapping[str, Any]) -> Iterator[Fact]:
    """A mere question of the bank's takes no money; it is a dispute when it has become one."""
    status = str(dispute.get("status"))
    if status.startswith("warning_") and status != "warning_closed":
        return
    details = dispute.get("evidence_details") or {}
    yield Fact(
        DISPUTES_OVER.get(status, What.DISPUTE_OPENED),
        STRIPE,
        dispute["id"],
        references(dispute),
        amount=whole(dispute["amount"], dispute["currency"]),
        currency=dispute["currency"].upper(),
        reason=dispute.get("reason"),
        happened_at=moment(dispute.get("created")),
        due_at=moment(details.get("due_by")),
        data=kept(dispute),
    )


def references(about: Mapping[str, Any]) -> dict[str, str]:
    """How the payment is found: by the intent, the charge, or our own id that Stripe keeps."""
    intent = about["id"] if about.get("object") == "payment_intent" else about.get("payment_intent")
    own = (about.get("metadata") or {}).get("payment_id")
    found = {
        "stripe_payment_intent_id": name_of(intent),
        "stripe_charge_id": name_of(about.get("charge")),
        "id": own,
    }
    return {name: value for name, value in found.items() if value}


def name_of(thing: Any) -> str | None:
    return thing.get("id") if isinstance(thing, Mapping) else thing


def ids_of_intent(intent: Mapping[str, Any]) -> dict[str, str]:
    found = {
        "stripe_payment_intent_id": intent["id"],
        "stripe_customer_id": name_of(intent.get("customer")),
        "stripe_charge_id": name_of(intent.get("latest_charge")),
    }
    return {name: value for name, value in found.items() if value}


def fee_of(charge: Mapping[str, Any]) -> Decimal | None:
    """Known once the charge stands in Stripe's own books; in the currency of those."""
    entry = charge.get("balance_transaction")
    if not isinstance(entry, Mapping) or entry["currency"] != charge.get("currency"):
        return None
    return whole(entry["fee"], entry["currency"])


def saved_method(intent: Mapping[str, Any]) -> SavedMethod | None:
    method = intent.get("payment_method")
    if not intent.get("setup_future_usage") or not isinstance(method, Mapping):
        return None
    card = method.get("card") or {}
    return SavedMethod(
        token=method["id"],
        kind="card" if card else "bank_account",
        brand=card.get("brand"),
        last_four=card.get("last4"),
        exp_month=card.get("exp_month"),
        exp_year=card.get("exp_year"),
    )


def asked_of_customer(intent: Mapping[str, Any], return_url: str) -> dict[str, Any] | None:
    """What the customer's page does now: Stripe's elements with the secret of this intent."""
    if intent["status"] not in (
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
    ):
        return None
    asked = {"type": "stripe", "client_secret": intent.get("client_secret")}
    redirect = (intent.get("next_action") or {}).get("redirect_to_url") or {}
    return {**asked, "url": redirect.get("url"), "return_url": return_url}


def kept(about: Mapping[str, Any]) -> dict[str, Any]:
    """For the audit: what matters, without secrets and without what is somebody's own."""
    names = ("id", "object", "status", "amount", "amount_received", "currency", "reason", "created")
    return {name: about[name] for name in names if about.get(name) is not None}


def scale_of(currency: str) -> int:
    """Stripe's digits, which are those of ISO 4217 but for three currencies."""
    return DIGITS.get(currency.upper(), digits(currency.upper()))


def whole(amount: int, currency: str) -> Decimal:
    return money.decimal(amount, scale_of(currency))


def moment(seconds: Any) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if isinstance(seconds, int) else None
