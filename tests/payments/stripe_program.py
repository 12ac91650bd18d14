"""A Stripe for tests, as a process of its own: stateful, keeps idempotency keys, refuses too much.

    with stripe_server() as stripe:               # a process; stripe.url is its API's base
        stripe.pay("pi_1")                        # as the customer does on Stripe's page
        stripe.fail("POST", "/v1/refunds", "after")   # the next call is done and not answered
        stripe.books()                            # what it has: intents, refunds, disputes, calls
        stripe.events()                           # what it would tell by webhook, oldest first

It answers in the shapes of Stripe's API as far as Bursar uses them; the official library is its
client. `python -m tests.payments.stripe_program` prints its address.
"""

import asyncio
import json
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import httpx2
from aiohttp import web

from tests.oidc_program import process

FEE_PERCENT, FEE_FIXED = 3, 30
NESTED = re.compile(r"\[([^\]]*)\]")


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
        """What a card does: pm_ok pays, pm_declined does not, pm_3ds asks for its owner."""
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
        else:
            self.succeed(intent, method)

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


def nested(flat: dict[str, str]) -> dict[str, Any]:
    """metadata[payment_id]=x as {"metadata": {"payment_id": "x"}}; expand[0]=y as a list."""
    found: dict[str, Any] = {}
    for name, value in flat.items():
        first, *parts = [name.partition("[")[0], *NESTED.findall(name)]
        if not parts:
            found[first] = value
        elif parts[0].isdigit() or not parts[0]:
            found.setdefault(first, []).append(value)
        else:
            found.setdefault(first, {})[parts[0]] = value
    return found


def application(stripe: Stripe) -> web.Application:
    async def api(request: web.Request) -> web.StreamResponse:
        path = request.path
        stripe.calls[f"{request.method} {re.sub('_[0-9]+', '_N', path)}"] += 1
        how = next(iter(stripe.failures.get((request.method, path), [])), None)
        if how:
            stripe.failures[request.method, path].pop(0)
        if how == "before":
            return broken(request)
        if how and how.startswith("slow"):
            await asyncio.sleep(float(how.removeprefix("slow")))
        asked = nested({**request.query, **{k: str(v) for k, v in (await request.post()).items()}})
        status, body = keyed(request, asked)
        if how == "after":
            return broken(request)
        if how == "500":
            return web.json_response({"error": {"type": "api_error", "message": "oh"}}, status=500)
        return web.json_response(body, status=status)

    def keyed(request: web.Request, asked: dict[str, Any]) -> tuple[int, Any]:
        key = request.headers.get("Idempotency-Key")
        what = f"{request.method} {request.path} {json.dumps(asked, sort_keys=True)}"
        if key and key in stripe.keys and request.method == "POST":
            before, status, body = stripe.keys[key]
            if before != what:
                error = {"type": "idempotency_error", "message": "Keys for other parameters."}
                return 400, {"error": error}
            return status, body
        try:
            done = route(request.method, request.path, asked)
            status, body = 200, stripe.shown(done, asked.get("expand", []))
        except Refused as refused:
            status, body = refused.status, refused.body
        body = json.loads(json.dumps(body))
        if key and request.method == "POST":
            stripe.keys[key] = what, status, body
        return status, body

    def route(method: str, path: str, asked: dict[str, Any]) -> Any:
        match method, path.strip("/").split("/")[1:]:
            case "POST", ["payment_intents"]:
                return stripe.create_intent(asked)
            case "GET", ["payment_intents", "search"]:
                wanted = asked["query"].split("'")[3]
                found = [
                    stripe.shown(t, [e.removeprefix("data.") for e in asked.get("expand", [])])
                    for t in stripe.things.values()
                    if t["object"] == "payment_intent" and t["metadata"].get("payment_id") == wanted
                ]
                return {"object": "search_result", "data": found, "has_more": False}
            case "GET", ["payment_intents", name]:
                return stripe.find(name, "payment_intent")
            case "POST", ["payment_intents", name, "cancel"]:
                return stripe.cancel(stripe.find(name, "payment_intent"))
            case "POST", ["payment_methods", name, "detach"]:
                return stripe.find(name, "payment_method") | {"customer": None}
            case "POST", ["customers"]:
                return stripe.new("cus", "customer", email=asked.get("email"))
            case "POST", ["refunds"]:
                return stripe.create_refund(asked)
            case "GET", ["refunds", name]:
                return stripe.find(name, "refund")
            case "GET", ["balance_transactions"]:
                data = [stripe.shown(each, ["source"]) for each in stripe.entries]
                return {"object": "list", "data": data, "has_more": False, "url": path}
        raise Refused(404, "invalid_request_error", f"Unrecognized request URL ({method} {path})")

    def broken(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def side(request: web.Request) -> web.Response:
        said = await request.json() if request.can_read_body else {}
        match request.match_info["what"]:
            case "pay":
                with_card(stripe.things[said["intent"]], said["method"])
            case "dispute":
                return web.json_response(stripe.dispute(stripe.things[said["intent"]]))
            case "close":
                return web.json_response(stripe.close(stripe.things[said["dispute"]], said["as"]))
            case "refund":
                return web.json_response(stripe.create_refund(said))
            case "fail_refund":
                return web.json_response(stripe.fail_refund(stripe.things[said["refund"]]))
            case "fail":
                stripe.failures[said["method"], said["path"]] += [said["how"]] * said["times"]
            case "forget_keys":
                stripe.keys.clear()
            case "start_anew":
                fresh = Stripe()
                fresh.numbers = stripe.numbers  # no id is ever given twice
                stripe.__dict__.update(fresh.__dict__)
            case "books":
                things = list(stripe.things.values())
                return web.json_response({"things": things, "calls": stripe.calls})
            case "events":
                return web.json_response(stripe.events)
        return web.json_response({})

    def with_card(intent: dict[str, Any], method: str) -> None:
        try:
            stripe.attempt(intent, method)
        except Refused as refused:
            if refused.status != 402:
                raise

    app = web.Application()
    app.router.add_route("*", "/v1/{rest:.*}", api)
    app.router.add_route("*", "/side/{what}", side)
    return app


class Account:
    """The program from outside: its side door."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _side(self, what: str, **said: Any) -> Any:
        answer = httpx2.post(f"{self.url}/side/{what}", json=said, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def pay(self, intent: str, method: str = "pm_ok") -> None:
        self._side("pay", intent=intent, method=method)

    def dispute(self, intent: str) -> str:
        return str(self._side("dispute", intent=intent)["id"])

    def close(self, dispute: str, how: str) -> None:
        self._side("close", dispute=dispute, **{"as": how})

    def refund(self, intent: str, amount: int) -> str:
        """At Stripe's own page."""
        return str(self._side("refund", payment_intent=intent, amount=amount)["id"])

    def fail_refund(self, refund: str) -> None:
        self._side("fail_refund", refund=refund)

    def fail(self, method: str, path: str, how: str, times: int = 1) -> None:
        """`before` and `after` it was done the connection breaks; `500`; `slow2` seconds."""
        self._side("fail", method=method, path=path, how=how, times=times)

    def start_anew(self) -> None:
        """For the next test."""
        self._side("start_anew")

    def forget_keys(self) -> None:
        self._side("forget_keys")

    def books(self, kind: str | None = None) -> list[dict[str, Any]]:
        things: list[dict[str, Any]] = self._side("books")["things"]
        return [each for each in things if kind is None or each["object"] == kind]

    def calls(self) -> dict[str, int]:
        calls: dict[str, int] = self._side("books")["calls"]
        return calls

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self._side("events")
        return [each for each in told if each["type"].startswith(kind)]


@contextmanager
def stripe_server() -> Iterator[Account]:
    with process("-m", "tests.payments.stripe_program") as url:
        yield Account(url)


async def main() -> None:
    runner = web.AppRunner(application(Stripe()), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
