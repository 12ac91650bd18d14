"""An OpenID provider, as Bursar talks with it: nothing that it says is believed unchecked.

    address = await provider.address(flow)          # where the browser is sent
    person = await provider.identify(code, flow)    # who came back, or an error

Each call to it has a time-out, a largest answer and no redirects; none is made in a transaction.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
from authlib.oauth2.auth import ClientAuth  # type: ignore[import-untyped]
from authlib.oauth2.client import OAuth2Client  # type: ignore[import-untyped]
from authlib.oauth2.rfc6749.parameters import prepare_token_request  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from authlib.oidc.discovery import get_well_known_url  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import (
    BadSignatureError,
    InvalidKeyIdError,
    JoseError,
    UnsupportedAlgorithmError,
)
from joserfc.jwk import KeySet
from joserfc.jws import JWSRegistry

from bursar.accounts import emails
from bursar.auth.actor import Kind
from bursar.core.errors import BursarError
from bursar.core.oidc_settings import is_safe
from bursar.core.settings import Settings

log = logging.getLogger(__name__)

ROUTES = {Kind.CUSTOMER: "/api/v1/auth/oidc", Kind.STAFF: "/api/v1/admin/auth/oidc"}
ALGORITHMS = ("RS256", "ES256", "PS256", "EdDSA")  # never `none`, never one with a shared secret
LEEWAY_SECONDS = 60
KEPT_SECONDS = 600  # what the provider says of itself, and its keys
ASK_AGAIN_SECONDS = 60  # for keys, where a token names one that is not known
TIMEOUT = aiohttp.ClientTimeout(total=10, connect=5)
LARGEST_ANSWER = 256 * 1024
CALLS_AT_ONCE = 32  # a slow provider must not tie up every request that this process may have
HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "Bursar"}


@dataclass(frozen=True, slots=True)
class Flow:
    """What one sign-in has of its own, made before the browser leaves."""

    state: str
    nonce: str
    verifier: str


@dataclass(frozen=True, slots=True)
class Person:
    """Who somebody is at the provider; the address only if the provider has proved it."""

    issuer: str
    subject: str
    email: str | None
    name: str
    second_factor: bool


class ProviderFailed(BursarError, status=502, code="accounts.oidc_provider_failed"):
    """The provider cannot be reached, or does not answer as OpenID Connect says it should."""


class ProviderBusy(BursarError, status=503, code="accounts.oidc_busy"):
    """Too many sign-ins wait for the provider already; try again after `Retry-After` seconds."""


class CodeRefused(BursarError, status=401, code="accounts.oidc_code_refused"):
    """The provider does not take the code that it gave, or takes it no more; sign in again."""


class BadIdToken(BursarError, status=502, code="accounts.oidc_bad_token"):
    """What the provider says of the person cannot be believed: a check of its ID token failed."""


class Provider:
    """One of them; it remembers for a while what the provider says of itself."""

    def __init__(self, issuer: str, client_id: str, secret: str, redirect: str, scope: str) -> None:
        self.issuer, self.client_id, self.redirect_uri = issuer, client_id, redirect
        self._secret, self._scope = secret, scope
        self._kept: dict[str, tuple[float, Any]] = {}
        self._asked_again_at = float("-inf")
        self._calls = 0
        self.timeout = TIMEOUT

    async def address(self, flow: Flow) -> str:
        """With the challenge that only the cookie's verifier answers (PKCE), and the nonce that
        only an ID token made for this flow repeats."""
        metadata = await self.metadata()
        client = OAuth2Client(
            None,
            client_id=self.client_id,
            redirect_uri=self.redirect_uri,
            scope=self._scope,
            code_challenge_method="S256",
        )
        address, _ = client.create_authorization_url(
            metadata["authorization_endpoint"],
            state=flow.state,
            code_verifier=flow.verifier,
            nonce=flow.nonce,
        )
        return str(address)

    async def identify(self, code: str, flow: Flow) -> Person:
        """Who the provider says has signed in there, for this flow and for nothing else."""
        answer = await self.redeem(code, flow.verifier)
        claims = await self.verified(answer, flow.nonce)
        profile = claims
        if not {"email", "email_verified"} <= claims.keys():
            profile = await self.profile(answer.get("access_token"), claims["sub"])
        methods = claims.get("amr") or []
        return Person(
            self.issuer,
            claims["sub"],
            proved_email(profile),
            name_in(profile),
            isinstance(methods, list) and "mfa" in methods,
        )

    async def redeem(self, code: str, verifier: str) -> dict[str, Any]:
        """The tokens for a code, which is good once."""
        metadata = await self.metadata()
        body = prepare_token_request(
            "authorization_code", redirect_uri=self.redirect_uri, code=code, code_verifier=verifier
        )
        methods = metadata.get("token_endpoint_auth_methods_supported")
        in_body = isinstance(methods, list) and "client_secret_basic" not in methods
        auth = ClientAuth(
            self.client_id, self._secret, "client_secret_post" if in_body else "client_secret_basic"
        )
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        url, headers, body = auth.prepare("POST", metadata["token_endpoint"], headers, body)
        status, answer = await self.call(url, headers=headers, body=body)
        if status == 400 and answer.get("error") == "invalid_grant":
            raise CodeRefused("The provider does not take this code any more: sign in again.")
        if status != 200 or not isinstance(answer.get("id_token"), str):
            said = answer.get("error")
            raise self.failed(f"no ID token for a code (status {status}, {known_error(said)})")
        return answer

    async def verified(self, answer: dict[str, Any], nonce: str) -> CodeIDToken:
        """The claims of the ID token, all checks passed."""
        access_token = answer.get("access_token")
        try:
            token = await self.decoded(answer["id_token"])
            claims = CodeIDToken(
                token.claims,
                token.header,
                {
                    "iss": {"essential": True, "value": self.issuer},
                    "aud": {"essential": True, "value": self.client_id},
                },
                {"nonce": nonce, "client_id": self.client_id, "access_token": access_token},
            )
            claims.validate(leeway=LEEWAY_SECONDS)
        except JoseError as error:
            raise self.not_believed(getattr(error, "claim", None) or error.error) from None
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise self.not_believed(type(error).__name__) from None
        subject = claims["sub"]
        if not 0 < len(subject) <= 255 or not subject.isprintable():
            raise self.not_believed("sub")
        return claims

    async def decoded(self, id_token: str) -> jwt.Token:
        """A key that is not known may be new; whoever names unknown ones cannot make us ask
        the provider more often than once a minute."""
        keys = await self.keys()
        try:
            return jwt.decode(id_token, keys, registry=SIGNATURES)
        except (InvalidKeyIdError, BadSignatureError):
            if time.monotonic() - self._asked_again_at < ASK_AGAIN_SECONDS:
                raise
        self._asked_again_at = time.monotonic()
        self._kept.pop("keys", None)
        return jwt.decode(id_token, await self.keys(), registry=SIGNATURES)

    async def profile(self, access_token: object, subject: str) -> Mapping[str, Any]:
        """Where the ID token is silent about the address: the specification lets a provider say
        it only here. Of anybody else it is not taken."""
        url = (await self.metadata()).get("userinfo_endpoint")
        if not isinstance(url, str) or not isinstance(access_token, str):
            return {}
        if not self.may_call(url) or not access_token.isascii() or not access_token.isprintable():
            raise self.failed("its userinfo cannot be asked")
        status, answer = await self.call(url, headers={"Authorization": f"Bearer {access_token}"})
        if status != 200 or answer.get("sub") != subject:
            raise self.failed(f"its userinfo is of somebody else, or none (status {status})")
        return answer

    async def metadata(self) -> dict[str, Any]:
        if known := self.kept("metadata"):
            return dict(known)
        status, found = await self.call(get_well_known_url(self.issuer, external=True))
        if status != 200:
            raise self.failed(f"its discovery document has the status {status}")
        if found.get("issuer") != self.issuer:
            raise self.failed("its discovery document is of another issuer")
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not self.may_call(found.get(name)):
                raise self.failed(f"its {name} is missing or not https")
        self._kept["metadata"] = time.monotonic(), found
        return found

    def may_call(self, url: object) -> bool:
        """Plain HTTP only for a provider on this machine: no other one may send us there."""
        if not isinstance(url, str) or not is_safe(url):
            return False
        return url.startswith("https:") or self.issuer.startswith("http:")

    async def keys(self) -> KeySet:
        if known := self.kept("keys"):
            return known  # type: ignore[no-any-return]
        status, found = await self.call((await self.metadata())["jwks_uri"])
        try:
            keys = KeySet.import_key_set(found)  # type: ignore[arg-type]
        except (JoseError, ValueError, TypeError, LookupError, AttributeError) as error:
            why = type(error).__name__
            raise self.failed(f"its keys cannot be read (status {status}, {why})") from None
        self._kept["keys"] = time.monotonic(), keys
        return keys

    def kept(self, name: str) -> Any:
        since, value = self._kept.get(name, (float("-inf"), None))
        return value if time.monotonic() - since < KEPT_SECONDS else None

    async def call(
        self, url: str, *, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """The status and the JSON object of an answer; nothing of it is ever logged or shown."""
        method = "GET" if body is None else "POST"
        options: dict[str, Any] = {"timeout": self.timeout, "auto_decompress": False}
        options |= {
            "cookie_jar": aiohttp.DummyCookieJar(),
            "headers": {**HEADERS, **(headers or {})},
        }
        with self.place():
            try:
                async with (
                    aiohttp.ClientSession(**options) as http,
                    http.request(method, url, data=body, allow_redirects=False) as answer,
                ):
                    return answer.status, await read(answer)
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise self.failed(type(error).__name__) from None

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._calls >= CALLS_AT_ONCE:
            raise ProviderBusy(
                "Too many sign-ins wait for the provider; try again in a moment.",
                headers={"Retry-After": "5"},
            )
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def failed(self, what: str) -> ProviderFailed:
        """The reason is for the operator: whoever signs in can do nothing about it."""
        log.warning("OpenID provider %s: %s", self.issuer, what)
        return ProviderFailed("The sign-in provider does not answer as it should; try again later.")

    def not_believed(self, what: str) -> BadIdToken:
        log.warning("OpenID provider %s: an ID token failed its check of %s", self.issuer, what)
        return BadIdToken("The answer of the sign-in provider failed a check; sign in again.")


class Signatures(JWSRegistry):
    """The algorithms that we take, whatever the token or the provider would like."""

    def get_alg(self, name: str) -> Any:
        if name not in ALGORITHMS:
            raise UnsupportedAlgorithmError("an algorithm that is not taken")
        return self.algorithms[name]


SIGNATURES = Signatures(algorithms=ALGORITHMS, strict_check_header=False)


async def read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """Stops at the limit, whatever length the answer claims to have."""
    content = bytearray()
    async for chunk in answer.content.iter_chunked(16_384):
        content += chunk
        if len(content) > LARGEST_ANSWER:
            raise ValueError("too large")
    found = orjson.loads(content)
    if not isinstance(found, dict):
        raise ValueError("not an object")
    return found


def known_error(said: object) -> str:
    """An OAuth error code and nothing else: the rest of an answer may hold anything."""
    fit = isinstance(said, str) and len(said) <= 40 and said.replace("_", "").isalpha()
    return str(said) if fit else "no error code"


def proved_email(profile: Mapping[str, Any]) -> str | None:
    """Some providers write the flag as text."""
    flag, email = profile.get("email_verified"), profile.get("email")
    if (flag is not True and flag != "true") or not isinstance(email, str):
        return None
    try:
        return emails.normal(email)
    except ValueError:
        return None


def name_in(profile: Mapping[str, Any]) -> str:
    name = profile.get("name")
    return " ".join(name.split())[:200] if isinstance(name, str) and name.isprintable() else ""


def providers(settings: Settings) -> dict[Kind, Provider]:
    """Those that the settings name."""
    found = {}
    for kind, prefix in ((Kind.CUSTOMER, "customer_oidc_"), (Kind.STAFF, "staff_oidc_")):
        issuer, client_id, secret = (
            getattr(settings, prefix + name) for name in ("issuer", "client_id", "client_secret")
        )
        if issuer:
            redirect = f"{settings.public_url}{ROUTES[kind]}/callback"
            found[kind] = Provider(
                issuer, client_id, secret.get_secret_value(), redirect, settings.oidc_scopes
            )
    return found
