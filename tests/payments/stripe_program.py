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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import httpx2
from aiohttp import web

from tests.oidc_program import process
from tests.payments.stripe_books import Refused, Stripe

NESTED = re.compile(r"\[([^\]]*)\]")


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


class Server:
    """The API, and beside it a side door for the test."""

    def __init__(self, stripe: Stripe) -> None:
        self.stripe = stripe

    def application(self) -> web.Application:
        app = web.Application()
        app.router.add_route("*", "/v1/{rest:.*}", self.api)
        app.router.add_route("*", "/side/{what}", self.side)
        return app

    async def api(self, request: web.Request) -> web.StreamResponse:
        stripe, path = self.stripe, request.path
        stripe.calls[f"{request.method} {re.sub('_[0-9]+', '_N', path)}"] += 1
        planned = stripe.failures[request.method, path]
        how = planned.pop(0) if planned else ""
        if how == "before":
            return broken(request)
        if how.startswith("slow"):
            await asyncio.sleep(float(how.removeprefix("slow")))
        asked = nested({**request.query, **{k: str(v) for k, v in (await request.post()).items()}})
        status, body = self.keyed(request, asked)
        if how == "after":
            return broken(request)
        if how == "500":
            return web.json_response({"error": {"type": "api_error", "message": "oh"}}, status=500)
        return web.json_response(body, status=status)

    def keyed(self, request: web.Request, asked: dict[str, Any]) -> tuple[int, Any]:
        """The same key is the same answer; with other parameters it is refused."""
        keys = self.stripe.keys
        key = request.headers.get("Idempotency-Key") if request.method == "POST" else None
        what = f"{request.path} {json.dumps(asked, sort_keys=True)}"
        if key and key in keys:
            before, status, body = keys[key]
            if before != what:
                error = {"type": "idempotency_error", "message": "Keys for other parameters."}
                return 400, {"error": error}
            return status, body
        try:
            done = self.route(request.method, request.path, asked)
            status, body = 200, self.stripe.shown(done, asked.get("expand", []))
        except Refused as refused:
            status, body = refused.status, refused.body
        body = json.loads(json.dumps(body))
        if key:
            keys[key] = what, status, body
        return status, body

    def route(self, method: str, path: str, asked: dict[str, Any]) -> Any:
        stripe = self.stripe
        match method, path.strip("/").split("/")[1:]:
            case "POST", ["payment_intents"]:
                return stripe.create_intent(asked)
            case "GET", ["payment_intents", "search"]:
                return stripe.search(asked["query"].split("'")[3], asked.get("expand", []))
            case "GET", ["payment_intents", name]:
                return stripe.find(name, "payment_intent")
            case "POST", ["payment_intents", name, "cancel"]:
                return stripe.cancel(stripe.find(name, "payment_intent"))
            case "POST", ["payment_intents", name, "capture"]:
                return stripe.capture(stripe.find(name, "payment_intent"))
            case "POST", ["payment_methods", name, "detach"]:
                return stripe.find(name, "payment_method") | {"customer": None}
            case "POST", ["customers"]:
                return stripe.new("cus", "customer", email=asked.get("email"))
            case "POST", ["refunds"]:
                return stripe.create_refund(asked)
            case "GET", ["refunds"]:
                intent = asked["payment_intent"]
                made = [t for t in stripe.things.values() if t["object"] == "refund"]
                data = [each for each in made if each["payment_intent"] == intent]
                return {"object": "list", "data": data, "has_more": False, "url": path}
            case "GET", ["refunds", name]:
                return stripe.find(name, "refund")
            case "GET", ["balance_transactions"]:
                data = [stripe.shown(each, ["source"]) for each in stripe.entries]
                return {"object": "list", "data": data, "has_more": False, "url": path}
        raise Refused(404, "invalid_request_error", f"Unrecognized request URL ({method} {path})")

    async def side(self, request: web.Request) -> web.Response:
        stripe = self.stripe
        said = await request.json() if request.can_read_body else {}
        found: Any = {}
        match request.match_info["what"]:
            case "pay":
                with suppress(Refused):
                    stripe.attempt(stripe.things[said["intent"]], said["method"])
            case "dispute":
                found = stripe.dispute(stripe.things[said["intent"]])
            case "close":
                found = stripe.close(stripe.things[said["dispute"]], said["as"])
            case "refund":
                found = stripe.create_refund(said)
            case "fail_refund":
                found = stripe.fail_refund(stripe.things[said["refund"]])
            case "fail":
                stripe.failures[said["method"], said["path"]] += [said["how"]] * said["times"]
            case "forget_keys":
                stripe.keys.clear()
            case "start_anew":
                numbers = stripe.numbers  # no id is ever given twice
                self.stripe = Stripe()
                self.stripe.numbers = numbers
            case "books":
                found = {"things": list(stripe.things.values()), "calls": stripe.calls}
            case "events":
                found = stripe.events
        return web.json_response(found)


def broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


class Account:
    """The program from outside: its side door."""

    def __init__(self, url: str) -> None:
        self.url = url

    def _side(self, what: str, **said: Any) -> Any:
        answer = httpx2.post(f"{self.url}/side/{what}", json=said, trust_env=False, timeout=60)
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
    runner = web.AppRunner(Server(Stripe()).application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
