"""Whether PayPal signed a webhook: by a certificate of PayPal's own, from a host of PayPal's own.

The header names where the certificate is, so whoever sends a webhook chooses that: it is fetched
over https alone, from the exact host that belongs to the API in use, without redirects, not often;
and believed if it is PayPal's, valid now and signed down from a root that this machine trusts.
"""

import base64
import binascii
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import certifi
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from bursar.core.errors import BursarError
from bursar.payments.providers import BadSignature

Fetch = Callable[[str], Awaitable[tuple[int, bytes]]]

HOSTS = {
    "api-m.paypal.com": ("api.paypal.com", "api-m.paypal.com"),
    "api.paypal.com": ("api.paypal.com", "api-m.paypal.com"),
    "api-m.sandbox.paypal.com": ("api.sandbox.paypal.com", "api-m.sandbox.paypal.com"),
    "api.sandbox.paypal.com": ("api.sandbox.paypal.com", "api-m.sandbox.paypal.com"),
}
PATH = re.compile(r"/v1/notifications/certs/CERT-[A-Za-z0-9_-]{1,100}")
OWNER = re.compile(r"([a-z0-9-]+\.)*paypal\.com")
KEPT_SECONDS = 3600
MOST_KEPT = 20
FETCHES, FETCHES_SECONDS = 20, 60  # so many in so long: others must wait


class CertificateUnavailable(BursarError, status=503, code="payments.certificate_unavailable"):
    """The certificate that a webhook names cannot be fetched now; PayPal sends it again."""

    @classmethod
    def now(cls, why: str) -> "CertificateUnavailable":
        return cls(why, headers={"Retry-After": "60"})


class Signatures:
    """The certificates of one API, and the ids of our webhooks there."""

    def __init__(self, api_base: str, webhook_ids: tuple[str, ...], fetch: Fetch) -> None:
        place = urlsplit(api_base).netloc
        self._hosts = HOSTS.get(place, (place,))
        self._webhook_ids, self._fetch = webhook_ids, fetch
        self._keys: dict[str, tuple[float, RSAPublicKey]] = {}
        self._fetched: deque[float] = deque(maxlen=FETCHES)

    async def demand(self, body: bytes, headers: Mapping[str, str]) -> None:
        """Or a BadSignature."""
        names = ("transmission-id", "transmission-time", "transmission-sig", "cert-url")
        sent_id, sent_at, signature, url = (headers.get(f"paypal-{n}", "")[:2000] for n in names)
        if headers.get("paypal-auth-algo") != "SHA256withRSA" or not (sent_id and signature):
            raise not_signed()
        key = await self._key(url)
        said = f"{sent_id}|{sent_at}|%s|{binascii.crc32(body)}"
        if not any(is_signed(key, signature, said % each) for each in self._webhook_ids):
            raise not_signed()

    async def _key(self, url: str) -> RSAPublicKey:
        if not self._is_allowed(url):
            raise not_signed()
        until, key = self._keys.get(url, (0.0, None))
        if key is None or time.monotonic() > until:
            key = trusted_key(await self._certificates(url))
            while len(self._keys) >= MOST_KEPT:
                del self._keys[next(iter(self._keys))]
            self._keys[url] = time.monotonic() + KEPT_SECONDS, key
        return key

    def _is_allowed(self, url: str) -> bool:
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        sound = parts.scheme == "https" and parts.netloc in self._hosts
        return sound and PATH.fullmatch(parts.path) is not None and not parts.query

    async def _certificates(self, url: str) -> bytes:
        """Whoever sends webhooks with ever new addresses does not make us ask for all of them."""
        now = time.monotonic()
        if len(self._fetched) == FETCHES and now - self._fetched[0] < FETCHES_SECONDS:
            raise CertificateUnavailable.now("Too many new certificates; try again in a minute.")
        self._fetched.append(now)
        try:
            status, content = await self._fetch(url)
        except (aiohttp.ClientError, OSError, ValueError):
            raise unavailable() from None
        if status in (400, 404, 410):
            raise not_signed()
        if status != 200:
            raise unavailable()
        return content


def not_signed() -> BadSignature:
    return BadSignature("This webhook is not signed by PayPal.")


def unavailable() -> CertificateUnavailable:
    return CertificateUnavailable.now("PayPal's certificate cannot be fetched; try again later.")


def trusted_key(content: bytes) -> RSAPublicKey:
    """The key of the first certificate, if PayPal's and signed, by the others, down from a root."""
    try:
        leaf, *others = x509.load_pem_x509_certificates(content)
        [name] = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        owner = str(name.value).lower()
        if not OWNER.fullmatch(owner):
            raise not_signed()
        roots = x509.load_pem_x509_certificates(trusted_roots())
        verifier = PolicyBuilder().store(Store(roots)).build_server_verifier(x509.DNSName(owner))
        verifier.verify(leaf, others)
        key = leaf.public_key()
    except (ValueError, VerificationError):
        raise not_signed() from None
    if not isinstance(key, RSAPublicKey):
        raise not_signed()
    return key


def trusted_roots() -> bytes:
    """Those of this machine (SSL_CERT_FILE names others), or of the package certifi."""
    return Path(ssl.get_default_verify_paths().cafile or certifi.where()).read_bytes()


def is_signed(key: RSAPublicKey, signature: str, said: str) -> bool:
    try:
        key.verify(base64.b64decode(signature, validate=True), said.encode(), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True
