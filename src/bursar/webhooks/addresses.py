"""Where a webhook may go: to a public address by https, however it is written and looked up.

A URL is judged by its letters when somebody gives it and again before each request; the address
behind its name is judged where the socket is made (sending.py), so nothing can change in between.
"""

import re
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from yarl import URL

from bursar.core.errors import BursarError

LONGEST_URL = 2000
FIRST_FREE_PORT = 1024  # below are mail, shells and the like, which webhooks never speak to
LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
NAME = re.compile(rf"(?=.{{1,253}}$)({LABEL}\.)*(?=[a-z]){LABEL}")  # its end is no number
NOT_THE_INTERNETS = [
    ip_network(each)
    for each in (
        "192.0.0.0/24",  # of protocols
        "192.88.99.0/24",  # relays into 6to4
        "2001::/23",  # Teredo and other protocols
        "2001:db8::/32",
        "2002::/16",  # 6to4: holds an IPv4 address
        "3fff::/20",
    )
]
GLOBAL_UNICAST = ip_network("2000::/3")  # without it: NAT64, IPv4 in IPv6, local, multicast


class BadUrl(BursarError, status=422, code="webhooks.bad_url"):
    """A webhook goes to https://host/…, without user, password or fragment, at port 443 or one from
    1024 up; the sentence says what is wrong."""

    @classmethod
    def at_url(cls, detail: str) -> "BursarError":
        code = cls.code.rpartition(".")[2]
        return cls(detail, errors=[{"pointer": "/url", "detail": detail, "code": code}])


class PrivateAddress(BadUrl, status=422, code="webhooks.private_address"):
    """The URL names an address that is not on the public internet, and is never called."""


def checked(text: str, *, allow_private: bool) -> URL:
    """The URL in its plain form, or what is wrong with it."""
    url = parsed(text)
    allowed = ("https", "http") if allow_private else ("https",)
    if url.scheme not in allowed:
        raise BadUrl.at_url(f"The URL begins with {' or '.join(f'{s}://' for s in allowed)}.")
    if url.user is not None or url.password is not None:
        raise BadUrl.at_url("The URL has no user and no password in it.")
    if url.fragment:
        raise BadUrl.at_url("The URL has no fragment: no part behind a #.")
    if url.port not in (443, 80) and not (url.port or 0) >= FIRST_FREE_PORT:
        raise BadUrl.at_url(f"The port is 443 or one from {FIRST_FREE_PORT} up.")
    if url.port == 80 and url.scheme == "https":
        raise BadUrl.at_url("Port 80 does not speak https.")
    check_host(url.raw_host or "", allow_private=allow_private)
    return url


def parsed(text: str) -> URL:
    if len(text) > LONGEST_URL or not text.isascii() or not text.isprintable() or " " in text:
        raise BadUrl.at_url(f"A URL has at most {LONGEST_URL} characters, all of them ASCII.")
    try:
        url = URL(text)
    except ValueError:
        raise BadUrl.at_url("This is not a URL such as https://example.com/webhooks.") from None
    if not url.absolute or len(str(url)) > LONGEST_URL:
        raise BadUrl.at_url("This is not a URL such as https://example.com/webhooks.")
    return url


def check_host(host: str, *, allow_private: bool) -> None:
    """A name, or an address as everybody writes it: not octal, not one long number, no dot at its
    end, all of which some resolver would take for an address."""
    try:
        address = ip_address(host)
    except ValueError:
        if not NAME.fullmatch(host):
            raise BadUrl.at_url("The host is neither a name nor a plain IP address.") from None
        if not allow_private and (host == "localhost" or host.endswith(".localhost")):
            raise PrivateAddress.at_url("The host is this very machine.") from None
        return
    if not allow_private and not is_public(address):
        raise PrivateAddress.at_url("The address is not on the public internet.")


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is somebody's on the internet, and no tunnel to somewhere else."""
    if address.version == 6 and address not in GLOBAL_UNICAST:
        return False
    special = address.is_multicast or address.is_reserved
    inside = any(address in network for network in NOT_THE_INTERNETS)
    return address.is_global and not special and not inside
