"""What settings about payments may hold: the keys of providers, and when the demo may be used."""

import re
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, FilePath, SecretStr, ValidationInfo
from pydantic_settings import BaseSettings

from bursar.core.mail_settings import is_loopback
from bursar.core.oidc_settings import is_safe


def api_base(text: str) -> str:
    """Paths are written behind it, so it ends without a slash."""
    if not is_safe(text) or re.search(r"[\s?#@]", text):
        raise ValueError("must look like https://api.example.com; http:// only on this machine")
    return text.rstrip("/")


def key(secret: SecretStr | None) -> SecretStr | None:
    if secret and not re.fullmatch(r"[!-~]+", secret.get_secret_value()):
        raise ValueError("must be one line of ASCII letters and signs without spaces")
    return secret


def whole(secret: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
    """The client's id comes before its secret, so here is known whether it was given."""
    if "paypal_client_id" in info.data and bool(info.data["paypal_client_id"]) != bool(secret):
        raise ValueError("goes with BURSAR_PAYPAL_CLIENT_ID: set both or none")
    return secret


ApiBase = Annotated[str, AfterValidator(api_base)]
Key = Annotated[SecretStr | None, AfterValidator(key)]


class PaymentSettings(BaseSettings):
    """Those of the providers; without its key a provider is not there."""

    stripe_secret_key: Key = Field(None, description="Stripe's secret key, sk_live_… or sk_test_….")
    stripe_webhook_secret: Key = Field(
        None,
        description="What Stripe signs webhooks with, whsec_…; several, separated by commas, "
        "while one replaces another.",
    )
    stripe_api_base: ApiBase = Field(
        "https://api.stripe.com", description="Where Stripe's API is; another for tests."
    )
    paypal_client_id: str | None = Field(None, description="The client id of the PayPal app.")
    paypal_client_secret: Annotated[Key, AfterValidator(whole)] = Field(
        None, validate_default=True, description="The secret of that app."
    )
    paypal_webhook_id: str | None = Field(
        None,
        description="The id of the webhook at PayPal, which its signatures are made with; several, "
        "separated by commas.",
    )
    paypal_api_base: ApiBase = Field(
        "https://api-m.paypal.com",
        description="Where PayPal's API is; https://api-m.sandbox.paypal.com for its sandbox.",
    )
    receipt_font: FilePath | None = Field(
        None,
        description="A TrueType font for receipts as PDF; without it names are in Latin letters.",
    )


DEMO: Any = Field(
    False,
    validate_default=True,
    description="A provider for show, whose page approves or declines: no money moves. Only where "
    "BURSAR_PUBLIC_URL is on this machine and no provider's key is set.",
)
KEYS = ("stripe_secret_key", "paypal_client_secret")


def check_demo(wanted: bool, others: Mapping[str, Any]) -> bool:
    """Whoever could reach the demo's page in production could pay with nothing."""
    if wanted and not may_show(others):
        raise ValueError(
            "is for trying things out: BURSAR_PUBLIC_URL must be on this machine (127.0.0.1), and"
            " no provider's key may be set"
        )
    return wanted


def may_show(settings: Mapping[str, Any]) -> bool:
    host = urlsplit(str(settings.get("public_url", ""))).hostname or ""
    return is_loopback(host) and not any(settings.get(name) for name in KEYS)


def split(secret: SecretStr | str | None) -> tuple[str, ...]:
    """Several of one kind, while one replaces another."""
    text = secret.get_secret_value() if isinstance(secret, SecretStr) else secret or ""
    return tuple(part.strip() for part in text.split(",") if part.strip())
