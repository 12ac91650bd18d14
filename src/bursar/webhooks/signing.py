"""Secrets of endpoints, sealed at rest, and the signature that a receiver checks with them."""

import base64
import secrets
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession
from standardwebhooks import Webhook

from bursar.core.mail_outbox import settings_of
from bursar.core.seal import Seal, SealBroken, Seals, look_at
from bursar.core.settings import Settings
from bursar.webhooks.models import WebhookEndpoint

SECRET_BYTES = 32
PREFIX = "whsec_"  # of Standard Webhooks: what follows is base64


def new_secret() -> str:
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def seal(settings: Settings) -> Seal:
    return Seal(settings.secret_keys, "webhooks")


def sealed(db: AsyncSession, secret: str) -> bytes:
    return seal(settings_of(db)).close(secret.encode())


def opened(db: AsyncSession, endpoint: WebhookEndpoint) -> list[str]:
    """The secret, and the one before it as long as both sign; none where no key opens them."""
    kept = [endpoint.secret]
    until = endpoint.old_secret_until
    if endpoint.old_secret and until and until > datetime.now(UTC):
        kept.append(endpoint.old_secret)
    found = []
    for each in kept:
        with suppress(SealBroken):
            found.append(seal(settings_of(db)).open(each).decode())
    return found


def headers(secrets: Sequence[str], message_id: str, body: str) -> dict[str, str]:
    """Those of Standard Webhooks: a signature for each secret, any of which the receiver takes."""
    now = datetime.now(UTC)
    signatures = [Webhook(secret).sign(message_id, now, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


SEALED = ("secret", "old_secret")


async def renew_all(db: AsyncSession, settings: Settings) -> int:
    """Seals with the newest key what an older one has sealed; how many. As the worker."""
    newest, renewed = seal(settings), 0
    query = select(WebhookEndpoint).order_by(WebhookEndpoint.id)
    for endpoint in await db.scalars(query.with_for_update(key_share=True)):
        for name in SEALED:
            with suppress(SealBroken):
                if again := newest.renewed(getattr(endpoint, name) or b""):
                    setattr(endpoint, name, again)
                    renewed += 1
    return renewed


async def seals(db: AsyncSession, settings: Settings) -> Seals:
    """What would be lost with an older secret key, and what is already; as the worker."""
    endpoints = (await db.scalars(select(WebhookEndpoint))).all()
    kept = [value for each in endpoints for name in SEALED if (value := getattr(each, name))]
    return look_at(seal(settings), kept)
