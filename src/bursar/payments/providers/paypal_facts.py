"""What PayPal's objects say, in Bursar's words; the same for an answer and for a webhook."""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from bursar.payments.providers import Fact, What

PAYPAL = "paypal"
TAKEN = ("COMPLETED", "PARTIALLY_REFUNDED", "REFUNDED")
NOT_TAKEN = ("DECLINED", "FAILED")
WON_BY_US = ("RESOLVED_SELLER_FAVOUR", "RESOLVED_WITH_PAYOUT", "CANCELED_BY_BUYER", "DENIED")
UP = re.compile(r"/payments/captures/([A-Za-z0-9-]+)$")


def facts_of_event(event: Mapping[str, Any]) -> Iterator[Fact]:
    """Of the types that change something here; of others nothing."""
    about = event.get("resource", {})
    match str(event.get("event_type")).split("."):
        case ["CHECKOUT", "ORDER", "APPROVED"] if about.get("status") == "APPROVED":
            yield Fact(What.APPROVED, PAYPAL, about["id"], references_of_order(about))
        case ["CHECKOUT", "ORDER", _]:
            yield from facts_of_order(about)
        case ["CHECKOUT", "PAYMENT-APPROVAL", "REVERSED"]:
            order = about["order_id"]
            yield Fact(What.CANCELLED, PAYPAL, order, {"paypal_order_id": order}, code="reversed")
        case ["PAYMENT", "CAPTURE", "REFUNDED" | "REVERSED" as how]:
            yield from facts_of_refund(about, is_reversal=how == "REVERSED")
        case ["PAYMENT", "CAPTURE", _]:
            yield from facts_of_capture(about)
        case ["PAYMENT", "REFUND", _]:
            yield from facts_of_refund(about)
        case ["CUSTOMER", "DISPUTE", _]:
            yield from facts_of_dispute(about)


def facts_of_order(order: Mapping[str, Any]) -> Iterator[Fact]:
    """An order moves money by its capture alone."""
    for capture in captures_of(order):
        yield from facts_of_capture(capture, order)
    if order.get("status") == "VOIDED":
        yield Fact(What.CANCELLED, PAYPAL, order["id"], references_of_order(order), code="voided")


def captures_of(order: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    units = order.get("purchase_units") or [{}]
    captures: list[Mapping[str, Any]] = (units[0].get("payments") or {}).get("captures") or []
    return captures


def facts_of_capture(
    capture: Mapping[str, Any], order: Mapping[str, Any] | None = None
) -> Iterator[Fact]:
    status = str(capture.get("status"))
    if status not in TAKEN + NOT_TAKEN:
        return
    references = references_of_order(order or {}) | references_of_capture(capture)
    amount = capture["amount"]
    common: dict[str, Any] = {
        "provider": PAYPAL,
        "object_id": capture["id"],
        "payment": references,
        "happened_at": moment(capture.get("create_time")),
        "data": kept(capture),
    }
    if status in NOT_TAKEN:
        code = (capture.get("status_details") or {}).get("reason") or status
        reason = f"paypal: {code.lower()}"
        yield Fact(What.CANCELLED, code=code.lower(), reason=reason, **common)
        return
    payer = (order or {}).get("payer") or {}
    ids = {name: value for name, value in references.items() if name != "id"}
    if isinstance(payer.get("payer_id"), str):
        ids["paypal_payer_id"] = payer["payer_id"]
    yield Fact(
        What.CAPTURED,
        amount=decimal(amount),
        currency=amount["currency_code"],
        fee=fee_of(capture),
        ids=ids,
        **common,
    )


def facts_of_refund(refund: Mapping[str, Any], *, is_reversal: bool = False) -> Iterator[Fact]:
    """A refund names its capture only by a link; an older answer may leave out its status."""
    kinds = {"FAILED": What.REFUND_FAILED, "CANCELLED": What.REFUND_FAILED}
    status = str(refund.get("status", "COMPLETED"))
    if status not in ("COMPLETED", *kinds):
        return
    said = str(refund.get("custom_id") or "")
    capture = capture_of(refund)
    yield Fact(
        kinds.get(status, What.REFUNDED),
        PAYPAL,
        refund["id"],
        references_of_capture({**refund, "id": capture}) if capture else own(said),
        amount=decimal(refund["amount"]),
        currency=refund["amount"]["currency_code"],
        refund_id=said.removeprefix("refund:") if said.startswith("refund:") else None,
        is_reversal=is_reversal,
        reason=(refund.get("status_details") or {}).get("reason"),
        happened_at=moment(refund.get("create_time")),
        data=kept(refund),
    )


def capture_of(refund: Mapping[str, Any]) -> str | None:
    for link in refund.get("links") or ():
        if link.get("rel") == "up" and (found := UP.search(str(link.get("href")))):
            return found[1]
    return None


def facts_of_dispute(dispute: Mapping[str, Any]) -> Iterator[Fact]:
    """PayPal holds the money from the first question on, and decides in the end."""
    outcome = (dispute.get("dispute_outcome") or {}).get("outcome_code")
    what = What.DISPUTE_OPENED
    if dispute.get("status") == "RESOLVED":
        what = What.DISPUTE_WON if outcome in WON_BY_US else What.DISPUTE_LOST
    amount = dispute["dispute_amount"]
    [about] = (dispute.get("disputed_transactions") or [{}])[:1]
    yield Fact(
        what,
        PAYPAL,
        dispute["dispute_id"],
        references_of_capture(
            {"id": about.get("seller_transaction_id"), "custom_id": about.get("custom")}
        ),
        amount=decimal(amount),
        currency=amount["currency_code"],
        reason=dispute.get("reason"),
        happened_at=moment(dispute.get("create_time")),
        due_at=moment(dispute.get("seller_response_due_date")),
        data={"id": dispute["dispute_id"], "status": dispute.get("status"), "outcome": outcome},
    )


def references_of_order(order: Mapping[str, Any]) -> dict[str, str]:
    units = order.get("purchase_units") or [{}]
    found = own(str(units[0].get("custom_id") or ""))
    return found | {"paypal_order_id": order["id"]} if order.get("id") else found


def references_of_capture(capture: Mapping[str, Any]) -> dict[str, str]:
    related = (capture.get("supplementary_data") or {}).get("related_ids") or {}
    found = {"paypal_payment_id": capture.get("id"), "paypal_order_id": related.get("order_id")}
    known = {name: value for name, value in found.items() if isinstance(value, str)}
    return known | own(str(capture.get("custom_id") or ""))


def own(said: str) -> dict[str, str]:
    """Our own id, which PayPal keeps for us; a refund's says so."""
    return {"id": said.removeprefix("payment:")} if said.startswith("payment:") else {}


def fee_of(capture: Mapping[str, Any]) -> Decimal | None:
    """In the currency of the payment; in another one it is for the reconciliation to find."""
    fee = (capture.get("seller_receivable_breakdown") or {}).get("paypal_fee") or {}
    if fee.get("currency_code") != capture["amount"]["currency_code"]:
        return None
    return decimal(fee)


def kept(about: Mapping[str, Any]) -> dict[str, Any]:
    """For the audit: what matters, without what is somebody's own."""
    names = ("id", "status", "amount", "status_details", "create_time")
    return {name: about[name] for name in names if about.get(name) is not None}


def decimal(amount: Mapping[str, Any]) -> Decimal:
    try:
        value = Decimal(str(amount["value"]))
    except InvalidOperation:
        raise ValueError("this is no amount") from None
    if not value.is_finite():
        raise ValueError("this is no amount")
    return abs(value)


def moment(text: Any) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo else None
