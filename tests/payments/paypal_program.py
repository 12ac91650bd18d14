"""A PayPal for tests, as a process of its own, that signs by a certificate of its own.

    with paypal_server() as paypal:               # a process; paypal.url is its API's base
        paypal.approve(order)                     # as the payer does at PayPal; `decline=True`
        paypal.fail("POST", path, "after")        # the next call is done and not answered
        paypal.books()                            # what it has: orders, captures, refunds, calls
        paypal.events()                           # what it would tell by webhook, oldest first
        paypal.sign(body)                         # the headers of a webhook

API and certificates are there over TLS alone: a client trusts it by SSL_CERT_FILE=paypal.roots. The
side door is plain HTTP. `python -m tests.payments.paypal_program` prints where that is.
"""

import asyncio
import base64
import binascii
import json
import re
import ssl
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from tests.oidc_program import process
from tests.payments import certificates
from tests.programs import new_folder

CLIENT, SECRET = "the-app-of-the-tests", "a-secret-of-the-app-alone"
WEBHOOK_IDS = ("1AB23456CD789012E", "9ZY87654XW321098V")
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

    def report(self) -> dict[str, Any]:
        lines = [(c, "T0006", 1) for c in self.captures.values()]
        lines += [(r, "T1107", -1) for r in self.refunds.values()]
        infos = []
        for thing, code, sign in lines:
            amount = {**thing["amount"], "value": str(sign * Decimal(thing["amount"]["value"]))}
            info = {
                "transaction_id": thing["id"],
                "transaction_event_code": code,
                "transaction_initiation_date": thing["create_time"],
                "transaction_amount": amount,
                "custom_field": thing.get("custom_id"),
            }
            if code == "T0006":
                fee = thing["seller_receivable_breakdown"]["paypal_fee"]
                info["fee_amount"] = {**fee, "value": f"-{fee['value']}"}
            else:
                info["paypal_reference_id"] = thing["links"][0]["href"].rpartition("/")[2]
            infos.append({"transaction_info": info})
        return {"transaction_details": infos, "total_pages": 1}

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

    def dispute(self, said: dict[str, Any]) -> dict[str, Any]:
        capture = self.captures[said["capture"]]
        dispute = self.disputes.setdefault(
            f"PP-D-{capture['id']}",
            {
                "dispute_id": f"PP-D-{capture['id']}",
                "status": "OPEN",
                "reason": "MERCHANDISE_OR_SERVICE_NOT_RECEIVED",
                "dispute_amount": capture["amount"],
                "disputed_transactions": [{"seller_transaction_id": capture["id"]}],
                "create_time": self.now(),
            },
        )
        if said.get("outcome"):
            outcome = {"outcome_code": said["outcome"]}
            dispute |= {"status": "RESOLVED", "dispute_outcome": outcome}
        kind = "RESOLVED" if said.get("outcome") else "CREATED"
        self.tell(f"CUSTOMER.DISPUTE.{kind}", dispute)
        return dispute


def api(paypal: PayPal, signers: dict[str, bytes]) -> web.Application:
    async def answer(request: web.Request) -> web.StreamResponse:
        path = request.path
        paypal.calls[f"{request.method} {re.sub('[A-Z]+[0-9]+', 'N', path)}"] += 1
        hows = paypal.failures.get((request.method, path))
        how = hows.pop(0) if hows else ""
        if how == "before":
            return broken(request)
        if how.startswith("slow"):
            await asyncio.sleep(float(how.removeprefix("slow")))
        if how.isdigit() and int(how) < 500:
            return web.json_response({"name": "REFUSED"}, status=int(how))
        status, body = await keyed(request)
        if how == "after":
            return broken(request)
        return web.json_response(body, status=int(how) if how.isdigit() else status)

    async def keyed(request: web.Request) -> tuple[int, Any]:
        if request.path == "/v1/oauth2/token":
            return token(request)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in paypal.tokens:
            return 401, {"name": "AUTHENTICATION_FAILURE"}
        asked = await request.json() if request.can_read_body else {}
        key = request.headers.get("PayPal-Request-Id")
        what = f"{request.method} {request.path} {json.dumps(asked, sort_keys=True)}"
        if key in paypal.keys:
            before, status, body = paypal.keys[key]
            return (status, body) if before == what else (422, Refused(422, "KEY_REUSED").body)
        try:
            status, body = 201, route(request.method, request.path, asked)
        except Refused as refused:
            status, body = refused.status, refused.body
        body = json.loads(json.dumps(body))
        if key:
            paypal.keys[key] = what, status, body
        return status, body

    def token(request: web.Request) -> tuple[int, Any]:
        if request.headers.get("Authorization") != BasicAuth(CLIENT, SECRET).encode():
            return 401, {"error": "invalid_client"}
        new = f"A21.{next(paypal.numbers)}"
        paypal.tokens.add(new)
        return 200, {"access_token": new, "token_type": "Bearer", "expires_in": 32_400}

    def route(method: str, path: str, asked: dict[str, Any]) -> Any:
        match method, path.strip("/").split("/")[1:]:
            case "POST", ["checkout", "orders"]:
                return paypal.create_order(asked)
            case "GET", ["checkout", "orders", name] if name in paypal.orders:
                return paypal.orders[name]
            case "POST", ["checkout", "orders", name, "capture"] if name in paypal.orders:
                return paypal.capture(paypal.orders[name])
            case "POST", ["payments", "captures", name, "refund"] if name in paypal.captures:
                return paypal.refund(paypal.captures[name], asked)
            case "GET", ["payments", "refunds", name] if name in paypal.refunds:
                return paypal.refunds[name]
            case "GET", ["reporting", "transactions"]:
                return paypal.report()
        raise Refused(404, "INVALID_RESOURCE_ID", "The resource does not exist.")

    def broken(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async def certificate(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"].removeprefix("CERT-")
        paypal.calls["certificates"] += 1
        if name == "moved":
            raise web.HTTPFound("/v1/notifications/certs/CERT-good")
        if name == "away":
            raise web.HTTPServiceUnavailable
        if name not in signers:
            raise web.HTTPNotFound
        return web.Response(body=signers[name])

    app = web.Application()
    app.router.add_get("/v1/notifications/certs/{name}", certificate)
    app.router.add_route("*", "/{rest:.*}", answer)
    return app


def side_door(paypal: PayPal, url: str, house: certificates.House) -> web.Application:
    def sign(said: dict[str, Any]) -> dict[str, str]:
        body = said["body"].encode()
        sent_at = datetime.now(UTC) - timedelta(seconds=said.get("age_seconds", 0))
        time, name = sent_at.isoformat(timespec="seconds"), f"t-{next(paypal.numbers)}"
        text = f"{name}|{time}|{said['webhook_id']}|{binascii.crc32(body)}"
        signature = house.signer.sign(text.encode(), PKCS1v15(), SHA256())
        return {
            "PayPal-Auth-Algo": "SHA256withRSA",
            "PayPal-Cert-Url": f"{url}/v1/notifications/certs/CERT-{said.get('cert', 'good')}",
            "PayPal-Transmission-Id": name,
            "PayPal-Transmission-Time": time,
            "PayPal-Transmission-Sig": base64.b64encode(signature).decode(),
            "Content-Type": "application/json",
        }

    async def answer(request: web.Request) -> web.Response:
        said = await request.json() if request.can_read_body else {}
        match request.match_info["what"]:
            case "where":
                return web.json_response({"url": url, "roots": house.roots.decode()})
            case "sign":
                return web.json_response(sign(said))
            case what:
                return web.json_response(paypal.side(what, said))

    app = web.Application()
    app.router.add_post("/side/{what}", answer)
    return app


class Account:
    """The program from outside: its side door."""

    def __init__(self, door: str) -> None:
        self.door = door
        found = self.side("where")
        self.url: str = found["url"]
        self.roots: Path = new_folder() / "roots.pem"
        self.roots.write_text(found["roots"])

    def side(self, what: str, **said: Any) -> Any:
        answer = httpx2.post(f"{self.door}/side/{what}", json=said, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def approve(self, order: str, **how: bool) -> None:
        self.side("approve", order=order, **how)

    def fail(self, method: str, path: str, how: str, times: int = 1) -> None:
        """`before` and `after` it was done the connection breaks; a status; `slow2` seconds."""
        self.side("fail", method=method, path=path, how=how, times=times)

    def sign(self, body: str, **how: Any) -> dict[str, str]:
        headers: dict[str, str] = self.side(
            "sign", body=body, **{"webhook_id": WEBHOOK_IDS[0]} | how
        )
        return headers

    def books(self, kind: str) -> Any:
        return self.side("books")[kind]

    def events(self, kind: str = "") -> list[dict[str, Any]]:
        told: list[dict[str, Any]] = self.side("events")
        return [each for each in told if each["event_type"].startswith(kind)]


@contextmanager
def paypal_server() -> Iterator[Account]:
    with process("-m", "tests.payments.paypal_program") as door:
        yield Account(door)


async def listen(app: web.Application, tls: ssl.SSLContext | None = None) -> int:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    return int(runner.addresses[0][1])


async def main() -> None:
    paypal, house = PayPal(), certificates.house()
    url = f"https://127.0.0.1:{await listen(api(paypal, house.certificates), house.tls())}"
    port = await listen(side_door(paypal, url, house))
    print(f"http://127.0.0.1:{port}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
