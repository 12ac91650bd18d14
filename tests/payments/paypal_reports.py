"""PayPal's report of transactions as documented: who may ask, for how much, page by page."""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.payments.paypal_books import PayPal

MOST_DAYS = timedelta(days=31)
MOST_PER_PAGE = 500


class NotReported(Exception):
    def __init__(self, status: int, name: str, message: str, **more: Any) -> None:
        super().__init__(name)
        self.status = status
        self.body = {"name": name, "message": message, "debug_id": "x", "details": [], **more}


def report(paypal: "PayPal", asked: Mapping[str, str]) -> dict[str, Any]:
    """Both ends are part of it, in whole seconds."""
    if not paypal.shows_transactions:
        raise NotReported(403, "NOT_AUTHORIZED", "Authorization failed: insufficient permissions.")
    try:
        begin, end = (datetime.fromisoformat(asked[n]) for n in ("start_date", "end_date"))
        page, size = int(asked.get("page", 1)), int(asked.get("page_size", 100))
    except (KeyError, ValueError):
        raise invalid("start_date and end_date are needed") from None
    if not begin.tzinfo or not begin <= end or end - begin > MOST_DAYS + timedelta(seconds=1):
        raise invalid("Date range is greater than 31 days")
    if not 1 <= size <= MOST_PER_PAGE or page < 1:
        raise invalid("page_size is 1 to 500")
    found = [line for line in lines(paypal) if begin <= booked_at(line) <= end]
    if len(found) > paypal.most_reported:
        raise NotReported(
            400,
            "RESULTSET_TOO_LARGE",
            "Result set size is greater than the maximum limit. Change the filter criteria.",
            total_items=len(found),
            maximum_items=paypal.most_reported,
        )
    shown = found[(page - 1) * size : page * size]
    return {
        "transaction_details": [{"transaction_info": line} for line in shown],
        "account_number": "ACCOUNT7",
        "start_date": asked["start_date"],
        "end_date": asked["end_date"],
        "last_refreshed_datetime": paypal.now(),
        "page": page,
        "total_items": len(found),
        "total_pages": -(-len(found) // size),
    }


def invalid(message: str) -> NotReported:
    return NotReported(400, "INVALID_REQUEST", message)


def booked_at(line: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(line["transaction_initiation_date"]).replace(microsecond=0)


def lines(paypal: "PayPal") -> Iterator[dict[str, Any]]:
    for capture in paypal.captures.values():
        fee = capture["seller_receivable_breakdown"]["paypal_fee"]
        status = {"PENDING": "P", "DECLINED": "D"}.get(capture["status"], "S")
        more = {"fee_amount": {**fee, "value": f"-{fee['value']}"}, "transaction_status": status}
        yield line("T0006", capture["id"], capture, 1, **more)
    for refund in paypal.refunds.values():
        capture = refund["links"][0]["href"].rpartition("/")[2]
        yield line("T1107", refund["id"], refund, -1, paypal_reference_id=capture)
    for dispute in paypal.disputes.values():
        yield from of_dispute(dispute)
    yield from paypal.other_lines


def of_dispute(dispute: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Held at once; let go at its end, and taken back where it is lost."""
    [about] = dispute["disputed_transactions"]
    capture = about["seller_transaction_id"]
    thing = {**dispute, "amount": dispute["dispute_amount"]}
    yield line("T1110", f"HOLD{capture}", thing, -1, paypal_reference_id=capture)
    if dispute["status"] == "RESOLVED":
        yield line("T1111", f"FREE{capture}", thing, 1, paypal_reference_id=capture)
        if dispute["dispute_outcome"]["outcome_code"] == "RESOLVED_BUYER_FAVOUR":
            yield line("T1106", f"BACK{capture}", thing, -1, paypal_reference_id=capture)


def line(code: str, name: str, thing: Mapping[str, Any], sign: int, **more: Any) -> dict[str, Any]:
    """As PayPal writes it: without fractions of a second, and with an offset without a colon."""
    moment = datetime.fromisoformat(thing["create_time"]).strftime("%Y-%m-%dT%H:%M:%S%z")
    reference = {"paypal_reference_id_type": "TXN"} if "paypal_reference_id" in more else {}
    custom = {"custom_field": thing["custom_id"]} if thing.get("custom_id") else {}
    return {
        "transaction_id": name,
        "transaction_event_code": code,
        "transaction_initiation_date": moment,
        "transaction_updated_date": moment,
        "transaction_amount": {
            "currency_code": thing["amount"]["currency_code"],
            "value": f"{sign * Decimal(thing['amount']['value'])}",
        },
        "transaction_status": "S",
        **reference,
        **custom,
        **more,
    }
