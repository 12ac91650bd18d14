"""What the Stripe of the tests has in its books, and what it does: intents, refunds, disputes."""

import json
import time
from collections import defaultdict
from itertools import count
from typing import Any

FEE_PERCENT, FEE_FIXED = 3, 30


class Refused(Exception):
    def __init__(self, status: int, kind: str, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"type": kind, "message": message, **more}}


class Stripe:
    """One account."""

    def __init__(self) -> None:
        self.things: dict[str, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self.entries: list[dict[str, Any]] = []
        self.keys: dict[str, tuple[str, int, Any]] = {}
        self.at_work: set[str] = set()
        self.failures: dict[tuple[str, str], list[str]] = defaultdict(list)
        self.calls: dict[str, int] = defaultdict(int)
        self.numbers = count(1)

    def new(self, prefix: str, kind: str, **facts: Any) -> dict[str, Any]:
        thing = {"id": f"{prefix}_{next(self.numbers)}", "object": kind, **facts}
        thing["created"] = int(time.time())
        thing["livemode"] = False
        self.things[thing["id"]] = thing
        return thing

    def tell(self, kind: str, thing: dict[str, Any]) -> None:
        self.events.append(
            {
                "id": f"evt_{next(self.numbers)}",
                "object": "event",
                "type": kind,
                "created": int(time.time()),
                "livemode": False,
                "data": {"object": json.loads(json.dumps(thing))},
            }
        )

    def find(self, name: str, kind: str) -> dict[str, Any]:
        thing = self.things.get(name)
        if thing is None or thing["object"] != kind:
            raise Refused(404, "invalid_request_error", f"No such {kind}: '{name}'")
        return thing

    # The API.

    def create_intent(self, asked: dict[str, Any]) -> dict[str, Any]:
        if int(asked["amount"]) < 50 and asked["currency"] == "usd":
            raise Refused(
                400, "invalid_request_error", "Amount too small.", code="amount_too_small"
            )
        intent = self.new(
            "pi",
            "payment_intent",
            amount=int(asked["amount"]),
            amount_received=0,
            currency=asked["currency"],
            description=asked.get("description"),
            metadata=asked.get("metadata", {}),
            customer=asked.get("customer"),
            setup_future_usage=asked.get("setup_future_usage"),
            payment_method=asked.get("payment_method"),
            status="requires_payment_method",
            latest_charge=None,
            last_payment_error=None,
            next_action=None,
            cancellation_reason=None,
        )
        intent["client_secret"] = f"{intent['id']}_secret_x"
        self.tell("payment_intent.created", intent)
        if asked.get("confirm") == "true":
            self.attempt(intent, asked["payment_method"], alone="off_session" in asked)
        return intent

    def attempt(self, intent: dict[str, Any], method: str, *, alone: bool = False) -> None:
        """What a card does: pm_ok pays, pm_declined does not, pm_3ds asks for its owner, pm_held
        waits to be taken."""
        if "declined" in method or ("3ds" in method and alone):
            code = "authentication_required" if "3ds" in method else "card_declined"
            intent["last_payment_error"] = {"code": code, "message": "Your card was declined."}
            intent["status"] = "requires_payment_method"
            self.tell("payment_intent.payment_failed", intent)
            if alone or method:
                raise Refused(
                    402, "card_error", "Your card was declined.", code=code, payment_intent=intent
                )
        elif "3ds" in method:
            intent["status"] = "requires_action"
            url = "https://hooks.stripe.example/3ds"
            intent["next_action"] = {"type": "redirect_to_url", "redirect_to_url": {"url": url}}
            self.tell("payment_intent.requires_action", intent)
        elif "held" in method:
            intent["status"] = "requires_capture"
            self.tell("payment_intent.amount_capturable_updated", intent)
        else:
            self.succeed(intent, method)

    def capture(self, intent: dict[str, Any]) -> dict[str, Any]:
        if intent["status"] != "requires_capture":
            raise Refused(400, "invalid_request_error", f"The intent is {intent['status']}.")
        self.succeed(intent, "pm_ok")
        return intent

    def succeed(self, intent: dict[str, Any], method: str) -> None:
        if intent["status"] in ("succeeded", "canceled"):
            raise Refused(400, "invalid_request_error", f"The intent is {intent['status']}.")
        amount, currency = intent["amount"], intent["currency"]
        charge = self.new(
            "ch", "charge", amount=amount, currency=currency, payment_intent=intent["id"],
            amount_refunded=0, disputed=False,
        )  # fmt: skip
        fee = amount * FEE_PERCENT // 100 + FEE_FIXED
        charge["balance_transaction"] = self.enter("charge", amount, fee, currency, charge)["id"]
        card = {"brand": "visa", "last4": "4242", "exp_month": 12, "exp_year": 2031}
        saved = self.things.setdefault(
            method, {"id": method, "object": "payment_method", "type": "card", "card": card}
        )
        intent |= {
            "status": "succeeded", "amount_received": amount, "latest_charge": charge["id"],
            "payment_method": saved["id"], "next_action": None, "last_payment_error": None,
        }  # fmt: skip
        self.tell("payment_intent.succeeded", intent)

    def enter(
        self, kind: str, amount: int, fee: int, currency: str, source: dict[str, Any]
    ) -> dict[str, Any]:
        entry = self.new(
            "txn", "balance_transaction", type=kind, amount=amount, fee=fee, currency=currency,
            source=source["id"], net=amount - fee,
        )  # fmt: skip
        self.entries.append(entry)
        return entry

    def cancel(self, intent: dict[str, Any]) -> dict[str, Any]:
        if intent["status"] in ("succeeded", "canceled"):
            raise Refused(400, "invalid_request_error", f"The intent is {intent['status']}.")
        intent |= {"status": "canceled", "cancellation_reason": "abandoned"}
        self.tell("payment_intent.canceled", intent)
        return intent

    def create_refund(self, asked: dict[str, Any]) -> dict[str, Any]:
        intent = self.find(asked["payment_intent"], "payment_intent")
        if intent["status"] != "succeeded":
            raise Refused(400, "invalid_request_error", "This intent has no charge.")
        charge = self.things[intent["latest_charge"]]
        amount = int(asked.get("amount", charge["amount"] - charge["amount_refunded"]))
        if charge["disputed"]:
            raise Refused(400, "invalid_request_error", "disputed", code="charge_disputed")
        if amount > charge["amount"] - charge["amount_refunded"]:
            message = "Refund amount is greater than unrefunded amount on charge"
            raise Refused(400, "invalid_request_error", message)
        charge["amount_refunded"] += amount
        refund = self.new(
            "re", "refund", amount=amount, currency=charge["currency"], charge=charge["id"],
            payment_intent=intent["id"], metadata=asked.get("metadata", {}), status="succeeded",
            reason=asked.get("reason"), failure_reason=None,
        )  # fmt: skip
        self.enter("refund", -amount, 0, charge["currency"], refund)
        self.tell("refund.created", refund)
        return refund

    def search(self, payment_id: str, expand: list[str]) -> dict[str, Any]:
        paths = [each.removeprefix("data.") for each in expand]
        found = [
            self.shown(thing, paths)
            for thing in self.things.values()
            if thing["object"] == "payment_intent"
            and thing["metadata"].get("payment_id") == payment_id
        ]
        return {"object": "search_result", "data": found, "has_more": False}

    # The side door.

    def dispute(self, intent: dict[str, Any]) -> dict[str, Any]:
        charge = self.things[intent["latest_charge"]]
        charge["disputed"] = True
        dispute = self.new(
            "dp", "dispute", amount=charge["amount"], currency=charge["currency"],
            charge=charge["id"], payment_intent=intent["id"], reason="fraudulent",
            status="needs_response", evidence_details={"due_by": int(time.time()) + 864_000},
        )  # fmt: skip
        self.enter("adjustment", -charge["amount"], 1500, charge["currency"], dispute)
        self.tell("charge.dispute.created", dispute)
        return dispute

    def close(self, dispute: dict[str, Any], status: str) -> dict[str, Any]:
        dispute["status"] = status
        if status == "won":
            charge = self.things[dispute["charge"]]
            charge["disputed"] = False
            self.enter("adjustment", dispute["amount"], 0, dispute["currency"], dispute)
        self.tell("charge.dispute.closed", dispute)
        return dispute

    def fail_refund(self, refund: dict[str, Any]) -> dict[str, Any]:
        refund |= {"status": "failed", "failure_reason": "expired_or_canceled_card"}
        self.things[refund["charge"]]["amount_refunded"] -= refund["amount"]
        self.enter("refund_failure", refund["amount"], 0, refund["currency"], refund)
        self.tell("refund.failed", refund)
        return refund

    def shown(self, thing: Any, expand: list[str]) -> Any:
        """With what the client wants to see in place of its id."""
        if not isinstance(thing, dict):
            return thing
        shown = dict(thing)
        for path in expand:
            first, _, rest = path.partition(".")
            inner = self.things.get(str(shown.get(first)))
            if inner is not None:
                shown[first] = self.shown(inner, [rest] if rest else [])
        return shown
