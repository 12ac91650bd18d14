"""What the PayPal of the tests has and does: orders, captures, refunds, disputes, what it tells."""

import json
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

CENT = Decimal("0.01")


class Refused(Exception):
    def __init__(self, status: int, issue: str, description: str = "No.") -> None:
        super().__init__(issue)
        self.status = status
        details = [{"issue": issue, "description": description}]
        self.body = {"name": "UNPROCESSABLE_ENTITY", "message": "Refused.", "details": details}


class PayPal:
    """One app."""

    def __init__(self) -> None:
        self.orders: dict[str, dict[str, Any]] = {}
        self.captures: dict[str, dict[str, Any]] = {}
        self.refunds: dict[str, dict[str, Any]] = {}
        self.disputes: dict[str, dict[str, Any]] = {}
        self.declining: set[str] = set()
        self.pending: set[str] = set()
        self.events: list[dict[str, Any]] = []
        self.keys: dict[str, tuple[str, int, Any]] = {}
        self.failures: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.calls: Counter[str] = Counter()
        self.tokens: set[str] = set()
        self.numbers = count(1)
        self.shows_transactions = True
        self.most_reported = 10_000
        self.other_lines: list[dict[str, Any]] = []

    def now(self) -> str:
        """No two moments are the same."""
        moment = datetime.now(UTC) + timedelta(microseconds=next(self.numbers))
        return moment.isoformat().replace("+00:00", "Z")

    def tell(self, kind: str, resource: dict[str, Any]) -> None:
        self.events.append(
            {
                "id": f"WH-{next(self.numbers)}",
                "event_type": kind,
                "create_time": self.now(),
                "resource": json.loads(json.dumps(resource)),
            }
        )

    # The API.

    def create_order(self, asked: dict[str, Any]) -> dict[str, Any]:
        [unit] = asked["purchase_units"]
        value, currency = unit["amount"]["value"], unit["amount"]["currency_code"]
        if "." in value and currency in ("JPY", "HUF", "TWD"):
            raise Refused(422, "DECIMALS_NOT_SUPPORTED")
        if currency == "KWD":
            raise Refused(422, "CURRENCY_NOT_SUPPORTED", "This currency is not supported.")
        name = f"ORDER{next(self.numbers)}"
        url = f"https://www.paypal.example/checkoutnow?token={name}"
        self.orders[name] = {
            "id": name,
            "status": "PAYER_ACTION_REQUIRED",
            "intent": asked["intent"],
            "purchase_units": [unit],
            "payment_source": {"paypal": {}},
            "links": [{"rel": "self", "href": "x"}, {"rel": "payer-action", "href": url}],
            "create_time": self.now(),
        }
        return self.orders[name]

    def capture(self, order: dict[str, Any]) -> dict[str, Any]:
        if order["status"] == "COMPLETED":
            raise Refused(422, "ORDER_ALREADY_CAPTURED")
        if order["status"] != "APPROVED":
            raise Refused(422, "ORDER_NOT_APPROVED")
        if order["id"] in self.declining:
            order |= {"status": "PAYER_ACTION_REQUIRED", "update_time": self.now()}
            raise Refused(422, "INSTRUMENT_DECLINED", "The instrument was declined.")
        [unit] = order["purchase_units"]
        amount, name = unit["amount"], f"CAP{next(self.numbers)}"
        fee = (Decimal(amount["value"]) * 3 / 100 + Decimal("0.30")).quantize(CENT)
        self.captures[name] = {
            "id": name,
            "status": "PENDING" if order["id"] in self.pending else "COMPLETED",
            "amount": amount,
            "custom_id": unit["custom_id"],
            "supplementary_data": {"related_ids": {"order_id": order["id"]}},
            "seller_receivable_breakdown": {
                "gross_amount": amount,
                "paypal_fee": {"currency_code": amount["currency_code"], "value": str(fee)},
            },
            "create_time": self.now(),
        }
        unit["payments"] = {"captures": [self.captures[name]]}
        order |= {"status": "COMPLETED", "update_time": self.now()}
        self.tell(f"PAYMENT.CAPTURE.{self.captures[name]['status']}", self.captures[name])
        return order

    def refund(self, capture: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
        back = [Decimal(r["amount"]["value"]) for r in self.refunds_of(capture)]
        left = Decimal(capture["amount"]["value"]) - sum(back)
        amount = asked.get("amount") or {**capture["amount"], "value": str(left)}
        if not left:
            raise Refused(422, "CAPTURE_FULLY_REFUNDED")
        if Decimal(amount["value"]) > left:
            raise Refused(422, "REFUND_AMOUNT_EXCEEDED", "More than is left.")
        name = f"REF{next(self.numbers)}"
        up = f"https://api.paypal.example/v2/payments/captures/{capture['id']}"
        self.refunds[name] = {
            "id": name,
            "status": "COMPLETED",
            "amount": amount,
            "links": [{"rel": "up", "href": up}],
            "create_time": self.now(),
        }
        if "custom_id" in asked:
            self.refunds[name]["custom_id"] = asked["custom_id"]
        self.tell("PAYMENT.CAPTURE.REFUNDED", self.refunds[name])
        return self.refunds[name]

    def refunds_of(self, capture: dict[str, Any]) -> list[dict[str, Any]]:
        return [r for r in self.refunds.values() if r["links"][0]["href"].endswith(capture["id"])]

    # The side door.

    def side(self, what: str, said: dict[str, Any]) -> Any:
        match what:
            case "approve":
                order = self.orders[said["order"]]
                order |= {"status": "APPROVED", "payer": {"payer_id": "PAYER7"}}
                order["update_time"] = self.now()
                for name, group in (("decline", self.declining), ("pending", self.pending)):
                    (group.add if said.get(name) else group.discard)(order["id"])
                self.tell("CHECKOUT.ORDER.APPROVED", order)
            case "expire":
                del self.orders[said["order"]]
            case "refund":
                return self.refund(self.captures[said["capture"]], {"amount": said["amount"]})
            case "settle":
                capture = self.captures[said["capture"]]
                capture["status"] = said["status"]
                self.tell(f"PAYMENT.CAPTURE.{said['status']}", capture)
            case "dispute":
                return self.dispute(said)
            case "fail":
                self.failures[said["method"], said["path"]] += [said["how"]] * said["times"]
            case "reports":
                for name in ("shows_transactions", "most_reported", "other_lines"):
                    setattr(self, name, said.get(name, getattr(self, name)))
            case "change":
                self.captures[said["capture"]].update(said["to"])
            case "lose":
                del getattr(self, said["kind"])[said["name"]]
            case "forget_tokens":
                self.tokens.clear()
            case "start_anew":
                fresh = PayPal()
                fresh.numbers = self.numbers  # no id is ever given twice
                self.__dict__.update(fresh.__dict__)
            case "books":
                names = ("orders", "captures", "refunds", "calls")
                return {name: getattr(self, name) for name in names}
            case "events":
                return self.events
        return {}

    def taken_back(self, capture: dict[str, Any], dispute: dict[str, Any]) -> dict[str, Any]:
        up = f"https://api.paypal.example/v2/payments/captures/{capture['id']}"
        return {
            "id": f"BACK{capture['id']}",
            "status": "COMPLETED",
            "amount": dispute["dispute_amount"],
            "links": [{"rel": "up", "href": up}],
            "create_time": self.now(),
        }

    def dispute(self, said: dict[str, Any]) -> dict[str, Any]:
        capture = self.captures[said["capture"]]
        dispute = self.disputes.setdefault(
            f"PP-D-{capture['id']}",
            {
                "dispute_id": f"PP-D-{capture['id']}",
                "status": "OPEN",
                "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
                "dispute_amount": {
                    **capture["amount"],
                    "value": said.get("amount", capture["amount"]["value"]),
                },
                "disputed_transactions": [{"seller_transaction_id": capture["id"]}],
                "create_time": self.now(),
            },
        )
        if said.get("outcome"):
            outcome = {"outcome_code": said["outcome"]}
            dispute |= {"status": "RESOLVED", "dispute_outcome": outcome}
        if said.get("outcome") == "RESOLVED_BUYER_FAVOUR":
            self.tell("PAYMENT.CAPTURE.REVERSED", self.taken_back(capture, dispute))
        kind = "RESOLVED" if said.get("outcome") else "CREATED"
        self.tell(f"CUSTOMER.DISPUTE.{kind}", dispute)
        return dispute
