"""What settings about mail may hold, each refused with a sentence that says what is right."""

import ipaddress
import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

# Nothing that ends an address, a header or an SMTP command; names in other scripts come as xn--.
ADDRESS = re.compile(r"[!#-'*+\-./0-9=?A-Z^-~]{1,64}@([0-9A-Za-z-]{1,63}\.)*[0-9A-Za-z-]{1,63}")
LONGEST_ADDRESS = 254
HOST = re.compile(r"[0-9A-Za-z._:-]{1,253}")


class Security(StrEnum):
    """How the way to the mail server is closed to others."""

    STARTTLS = "starttls"
    TLS = "tls"
    NONE = "none"


def is_address(text: str) -> bool:
    return len(text) <= LONGEST_ADDRESS and bool(ADDRESS.fullmatch(text))


def address(text: str) -> str:
    if not is_address(text):
        raise ValueError("must be a plain address such as billing@example.com, without a name")
    return text


def host(text: str) -> str:
    if not HOST.fullmatch(text):
        raise ValueError("must be the name or the address of a mail server, without a port")
    return text


def public_url(text: str) -> str:
    """Links are made by writing a path behind it, so it ends without a slash."""
    try:
        parts = urlsplit(text)
        sound = parts.port != 0
    except ValueError:
        sound = False
    if not sound or not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", text):
        raise ValueError("must look like https://bursar.example.com")
    return text.rstrip("/")


MailAddress = Annotated[str, AfterValidator(address)]
MailHost = Annotated[str, AfterValidator(host)]
PublicUrl = Annotated[str, AfterValidator(public_url)]


def check_password(password: SecretStr | None, others: Mapping[str, Any]) -> None:
    """A password needs a name, and a way on which nobody listens."""
    if bool(password) != bool(others.get("smtp_username")):
        raise ValueError("goes with BURSAR_SMTP_USERNAME: set both or neither")
    server = others.get("smtp_host")
    open_to_all = others.get("smtp_security") is Security.NONE
    if password and server and open_to_all and not is_loopback(server):
        raise ValueError(
            f"would go to {server} in plain text: set BURSAR_SMTP_SECURITY to starttls or tls"
        )


def check_sender(sender: str | None, others: Mapping[str, Any]) -> None:
    if others.get("smtp_host") and not sender:
        raise ValueError("is needed where BURSAR_SMTP_HOST is set: the address that mails are from")


def is_loopback(server: str) -> bool:
    try:
        return ipaddress.ip_address(server).is_loopback
    except ValueError:
        return server.lower() == "localhost"
