"""What is kept but must not be readable in a dump: sealed by a key made from the secret key."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from bursar.core.errors import BursarError


class SealBroken(BursarError, status=500, code="seal.broken"):
    """Something was sealed with a secret key that this installation does not have any more."""


class Seal:
    """Closes with the newest key, opens with all of them; one kind of content, one derived key."""

    def __init__(self, secret_keys: Sequence[str], purpose: str) -> None:
        keys = [derive(key, purpose) for key in secret_keys]
        self._newest = Fernet(keys[0])
        self._fernet = MultiFernet([Fernet(key) for key in keys])
        self._marks = [derive(key, f"{purpose} mark") for key in secret_keys]

    def close(self, content: bytes) -> bytes:
        return self._fernet.encrypt(content)

    def open(self, sealed: bytes) -> bytes:
        try:
            return self._fernet.decrypt(sealed)
        except InvalidToken:
            raise broken() from None

    def renewed(self, sealed: bytes) -> bytes | None:
        """The same, closed with the newest key; None where that has closed it already."""
        with suppress(InvalidToken):
            self._newest.decrypt(sealed)
            return None
        try:
            return self._fernet.rotate(sealed)
        except InvalidToken:
            raise broken() from None

    def mark(self, content: bytes) -> bytes:
        """To know the content again, without keeping anything that can be guessed at."""
        return self.marks(content)[0]

    def marks(self, content: bytes) -> list[bytes]:
        """By the newest key, and by those that it may have been marked with before."""
        return [hmac.digest(key, content, "sha256") for key in self._marks]

    def knows(self, content: bytes, mark: bytes) -> bool:
        return any(hmac.compare_digest(mark, each) for each in self.marks(content))


@dataclass(frozen=True, slots=True)
class Seals:
    """How many sealed things there are, and how many of them the newest key does not open."""

    all: int
    older: int  # an older key does
    lost: int  # none does


def look_at(seal: Seal, kept: Sequence[bytes]) -> Seals:
    """What would be lost with an older secret key, and what is already."""
    older = lost = 0
    for each in kept:
        try:
            older += seal.renewed(each) is not None
        except SealBroken:
            lost += 1
    return Seals(len(kept), older, lost)


def broken() -> SealBroken:
    return SealBroken(
        "This was sealed with a secret key that is not in BURSAR_SECRET_KEY any more."
    )


def derive(secret: str, purpose: str) -> bytes:
    digest = hmac.new(secret.encode(), f"seal {purpose}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest)
