"""What settings about OpenID Connect may hold, each refused with a sentence that helps.

Customers and staff have a provider each, or none: three settings that are set together.
"""

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo

from bursar.core.mail_settings import is_loopback

SCOPE = re.compile(r"[!#-\[\]-~]+( [!#-\[\]-~]+)*")
VISIBLE = re.compile(r"[\x21-\x39\x3b-\x7e]{1,255}")  # no colon: it ends the name in HTTP Basic


def issuer(text: str) -> str:
    """Kept letter for letter, for so it stands in ID tokens: with its last slash or without."""
    if not is_safe(text) or re.search(r"[\s?#@]", text):
        raise ValueError(
            "must look like https://accounts.example.com; http:// only on this machine (127.0.0.1)"
        )
    return text


def is_safe(url: str) -> bool:
    """HTTPS, or plain HTTP that does not leave this machine."""
    try:
        parts = urlsplit(url)
        host, sound = parts.hostname or "", parts.port != 0
    except ValueError:
        return False
    near = parts.scheme == "http" and is_loopback(host)
    return sound and bool(host) and url.isprintable() and (parts.scheme == "https" or near)


def client_id(text: str) -> str:
    if not VISIBLE.fullmatch(text):
        raise ValueError("must be what the provider calls this client: no spaces, no colon")
    return text


def whole(secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The secret comes last of the three, so here is known what else was given."""
    field = str(info.field_name)
    others = [field.replace("client_secret", name) for name in ("issuer", "client_id")]
    given = [info.data.get(each) for each in others if each in info.data]
    if len(given) == len(others) and not (all(given) if secret else not any(given)):
        names = " and ".join(f"BURSAR_{each.upper()}" for each in others)
        raise ValueError(f"goes with {names}: set all three or none")
    if secret and not re.fullmatch(r"[\x20-\x7e]+", secret.get_secret_value()):
        raise ValueError("must be the client's secret: one line of ASCII letters and signs")
    return secret


def scopes(text: str) -> str:
    if not SCOPE.fullmatch(text) or "openid" not in text.split():
        raise ValueError("must be scopes with a space between them, and openid among them")
    return text


Issuer = Annotated[str | None, AfterValidator(lambda text: text and issuer(text))]
ClientId = Annotated[str | None, AfterValidator(lambda text: text and client_id(text))]
ClientSecret = Annotated[SecretStr | None, AfterValidator(whole)]
Scopes = Annotated[str, AfterValidator(scopes)]


def issuer_for(people: str) -> Any:
    return Field(
        None,
        description=f"The OpenID provider that {people} may sign in with: its issuer, such as "
        "https://accounts.example.com.",
    )


def client_id_for(people: str) -> Any:
    return Field(None, description=f"What the provider of {people} calls this installation.")


def client_secret_for(people: str) -> Any:
    return Field(
        None, validate_default=True, description=f"The client secret at the provider of {people}."
    )


SCOPES: Any = Field(
    "openid email profile", description="What an OpenID provider is asked for, customers and staff."
)
