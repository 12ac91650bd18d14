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
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
from aiohttp import BasicAuth, web
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.hashes import SHA256

from tests.oidc_program import process
from tests.payments import certificates
from tests.payments import paypal_reports as reports
from tests.payments.paypal_books import PayPal, Refused
from tests.payments.paypal_reports import NotReported
from tests.programs import new_folder

CLIENT, SECRET = "the-app-of-the-tests", "a-secret-of-the-app-alone"
WEBHOOK_IDS = ("1AB23456CD789012E", "9ZY87654XW321098V")


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
            return token(paypal, request)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in paypal.tokens:
            return 401, {"name": "AUTHENTICATION_FAILURE"}
        asked = await request.json() if request.can_read_body else dict(request.query)
        key = request.headers.get("PayPal-Request-Id")
        what = f"{request.method} {request.path} {json.dumps(asked, sort_keys=True)}"
        if key in paypal.keys:
            before, status, body = paypal.keys[key]
            return (status, body) if before == what else (422, Refused(422, "KEY_REUSED").body)
        try:
            status, body = 201, route(paypal, request.method, request.path, asked)
        except (Refused, NotReported) as refused:
            status, body = refused.status, refused.body
        body = json.loads(json.dumps(body))
        if key:
            paypal.keys[key] = what, status, body
        return status, body

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


def token(paypal: PayPal, request: web.Request) -> tuple[int, Any]:
    if request.headers.get("Authorization") != BasicAuth(CLIENT, SECRET).encode():
        return 401, {"error": "invalid_client"}
    new = f"A21.{next(paypal.numbers)}"
    paypal.tokens.add(new)
    return 200, {"access_token": new, "token_type": "Bearer", "expires_in": 32_400}


def route(paypal: PayPal, method: str, path: str, asked: dict[str, Any]) -> Any:
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
            return reports.report(paypal, asked)
    raise Refused(404, "INVALID_RESOURCE_ID", "The resource does not exist.")


def broken(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


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
        answer = httpx2.post(f"{self.door}/side/{what}", json=said, trust_env=False, timeout=60)
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
