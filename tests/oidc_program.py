"""OpenID providers as processes of their own: a real one, and one that does what a test says.

    python -m tests.oidc_program     prints its port; POST /mode says what it does from then on

What the second may be told: `claims` of the ID token (null leaves one out), `sign` (how), `hide`
and `userinfo` (what only userinfo says), `discovery` (other metadata), `reuse` (codes are good for
ever), `deny`, and by path: `status`, `redirect`, `huge`, `garbage`, `slow`.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from secrets import token_urlsafe
from typing import Any
from urllib.parse import urlencode

import httpx2
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from tests.programs import new_folder, until

CLIENT, SECRET = "bursar-tests", "what only Bursar and the provider know"
CARL = {
    "sub": "carl-7",
    "email": "carl@example.com",
    "email_verified": True,
    "name": "Carl Carlson",
}
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Misled(JWSRegistry):
    """Signs with any algorithm, and warns of none."""

    def get_alg(self, name: str) -> Any:
        return self.algorithms[name]


class Program:
    """The provider that obeys."""

    def __init__(self) -> None:
        self.mode: dict[str, Any] = {}
        self.seen: Counter[str] = Counter()
        self.codes: dict[str, dict[str, str]] = {}
        self.generation = 0
        self.make_keys()

    def make_keys(self) -> None:
        self.generation += 1
        makers: dict[str, Any] = {
            "RS256": lambda kid: RSAKey.generate_key(2048, kid),
            "PS256": lambda kid: RSAKey.generate_key(2048, kid),
            "ES256": lambda kid: ECKey.generate_key("P-256", kid),
            "EdDSA": lambda kid: OKPKey.generate_key("Ed25519", kid),
        }
        self.keys = {
            name: make({"kid": f"{name}-{self.generation}", "use": "sig"})
            for name, make in makers.items()
        }

    @web.middleware
    async def misbehave(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        self.seen[path] += 1
        if path in self.mode.get("slow", ()):
            await asyncio.Event().wait()
        if to := self.mode.get("redirect", {}).get(path):
            return web.Response(status=307, headers={"Location": to})
        if status := self.mode.get("status", {}).get(path):
            return web.json_response({"error": "server_error"}, status=status)
        if path in self.mode.get("huge", ()):
            return await endless(request)
        if path in self.mode.get("garbage", ()):
            return web.Response(text="<html>[" * 1000)
        return await handler(request)

    async def discovery(self, request: web.Request) -> web.Response:
        base = f"http://{request.host}"
        found = {
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize?tenant=1",
            "token_endpoint": f"{base}/token",
            "jwks_uri": f"{base}/jwks",
            "userinfo_endpoint": f"{base}/userinfo",
        }
        return web.json_response({**found, **self.mode.get("discovery", {})})

    async def authorize(self, request: web.Request) -> web.Response:
        asked = dict(request.query)
        assert asked["tenant"] == "1"
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        assert {"openid", "email"} <= set(asked["scope"].split())
        if self.mode.get("deny"):
            back = {"error": self.mode["deny"], "state": asked["state"]}
        else:
            code = token_urlsafe(24)
            self.codes[code] = asked
            back = {"code": code, "state": asked["state"], "iss": f"http://{request.host}"}
        return web.Response(
            status=302, headers={"Location": f"{asked['redirect_uri']}?{urlencode(back)}"}
        )

    async def token(self, request: web.Request) -> web.Response:
        form = await request.post()
        by_header = "Basic " + base64.b64encode(f"{CLIENT}:{SECRET}".encode()).decode()
        by_body = (form.get("client_id"), form.get("client_secret")) == (CLIENT, SECRET)
        if request.headers.get("Authorization") != by_header and not by_body:
            return web.json_response({"error": "invalid_client"}, status=401)
        keep = self.mode.get("reuse")
        code = str(form.get("code"))
        asked = self.codes.get(code) if keep else self.codes.pop(code, None)
        digest = hashlib.sha256(str(form.get("code_verifier")).encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        if (
            asked is None
            or asked["code_challenge"] != challenge
            or asked["redirect_uri"] != form.get("redirect_uri")
        ):
            return web.json_response({"error": "invalid_grant"}, status=400)
        access = token_urlsafe(16)
        claims = self.claims(f"http://{request.host}", asked, access)
        answer = {"id_token": self.signed(claims), "access_token": access, "token_type": "Bearer"}
        return web.json_response({**answer, **self.mode.get("answer", {})})

    def claims(self, issuer: str, asked: dict[str, str], access: str) -> dict[str, Any]:
        now = int(time.time())
        half = hashlib.sha256(access.encode()).digest()[:16]
        claims = {
            **CARL,
            "iss": issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            "at_hash": base64.urlsafe_b64encode(half).decode().rstrip("="),
        }
        if self.mode.get("sign") == "EdDSA":
            del claims["at_hash"]  # of another length there
        claims |= self.mode.get("claims", {})
        hidden = self.mode.get("hide", ())
        return {k: v for k, v in claims.items() if v is not None and k not in hidden}

    def signed(self, claims: dict[str, Any]) -> str:
        how = self.mode.get("sign", "RS256")
        rsa = self.keys["RS256"]
        if how == "none":
            return unsigned({"alg": "none"}, claims) + "."
        if how == "HS256":  # the classic: a secret that everybody knows, the public key
            content = unsigned({"alg": "HS256", "kid": rsa.kid}, claims)
            mark = hmac.digest(rsa.as_pem(private=False), content.encode(), "sha256")
            return f"{content}.{base64.urlsafe_b64encode(mark).decode().rstrip('=')}"
        if how in ("stranger", "unknown_kid"):
            kid = rsa.kid if how == "stranger" else token_urlsafe(4)
            key, how = RSAKey.generate_key(2048, {"kid": kid}), "RS256"
        elif how == "RS512":
            key = rsa
        else:
            key = self.keys[how]
        registry = Misled(algorithms=list(JWSRegistry.algorithms))
        return jwt.encode({"alg": how, "kid": key.kid}, claims, key, registry=registry)

    async def jwks(self, _: web.Request) -> web.Response:
        return web.json_response(KeySet(list(self.keys.values())).as_dict(private=False))

    async def userinfo(self, _: web.Request) -> web.Response:
        return web.json_response(self.mode.get("userinfo", CARL))

    async def set_mode(self, request: web.Request) -> web.Response:
        self.mode = await request.json()
        self.seen.clear()
        return web.json_response({})

    async def rotate(self, _: web.Request) -> web.Response:
        self.make_keys()
        return web.json_response({})

    async def tell(self, _: web.Request) -> web.Response:
        return web.json_response(self.seen)


def unsigned(header: dict[str, Any], claims: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()) for part in (header, claims))
    return ".".join(part.decode().rstrip("=") for part in parts)


async def endless(request: web.Request) -> web.StreamResponse:
    """Until whoever reads it has had enough."""
    response = web.StreamResponse()
    await response.prepare(request)
    await response.write(b'{"issuer": "')
    while True:
        await response.write(b"x" * 65_536)


async def main() -> None:
    program = Program()
    app = web.Application(middlewares=[program.misbehave])
    for place in ("", "/moved"):  # where it can redirect to, and would answer well
        app.add_routes(
            [
                web.get(f"{place}/.well-known/openid-configuration", program.discovery),
                web.post(f"{place}/token", program.token),
                web.get(f"{place}/jwks", program.jwks),
            ]
        )
    app.add_routes(
        [
            web.get("/authorize", program.authorize),
            web.get("/userinfo", program.userinfo),
            web.post("/mode", program.set_mode),
            web.post("/rotate", program.rotate),
            web.get("/seen", program.tell),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"http://127.0.0.1:{runner.addresses[0][1]}", flush=True)  # noqa: T201
    await asyncio.Event().wait()


class Obedient:
    """The second kind of provider, as a test sees it."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer

    def mode(self, **mode: Any) -> None:
        httpx2.post(f"{self.issuer}/mode", json=mode, timeout=60).raise_for_status()

    def rotate(self) -> None:
        httpx2.post(f"{self.issuer}/rotate", timeout=60).raise_for_status()

    def seen(self, path: str) -> int:
        """How often a path was asked for since the mode was set."""
        return int(httpx2.get(f"{self.issuer}/seen", timeout=60).json().get(path, 0))


@contextmanager
def process(*arguments: str) -> Iterator[str]:
    """A provider, from when it says where it listens until the block ends; answers its issuer."""
    folder = new_folder()
    said = folder / "said"
    with said.open("wb") as output:
        child = subprocess.Popen(
            [sys.executable, *arguments], stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )
    try:

        def address() -> str | None:
            assert child.poll() is None, said.read_text()
            found = re.search(r"http://127\.0\.0\.1:\d+", said.read_text())
            return found[0] if found else None

        yield until(address, "a provider")
    finally:
        child.kill()
        child.wait()


@contextmanager
def obedient() -> Iterator[Obedient]:
    with process("-m", "tests.oidc_program") as issuer:
        yield Obedient(issuer)


@contextmanager
def real() -> Iterator[str]:
    """oidc-provider-mock: somebody else's idea of a provider, on Authlib's server side."""
    with process("-m", "oidc_provider_mock", "--port", "0", "--require-nonce", "true") as issuer:
        yield issuer


if __name__ == "__main__":
    asyncio.run(main())
