"""The second factor: codes of an authenticator that work once, and recovery codes on paper."""

import hashlib
import hmac
import secrets
import unicodedata
from datetime import datetime

import pyotp

STEP_SECONDS = 30
DIGITS = 6
LONGEST_INPUT = 20
STEPS_OFF = 1  # clocks differ, and people type while the step ends

RECOVERY_CODES = 10
GROUPS, GROUP_LENGTH = 4, 4
ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # 32 signs, 5 bits each: no i, l, o or u
MISREAD = str.maketrans("ilo", "110")
LONGEST_RECOVERY_INPUT = 100


def new_secret() -> str:
    """160 bits in base32, as RFC 4226 advises; seal it before it is kept."""
    return pyotp.random_base32(32)


def uri(secret: str, *, account: str, issuer: str) -> str:
    """What the QR code says; a colon would end the issuer's name, so there is none in it."""
    authenticator = pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
    name, issuer = account.replace(":", " "), issuer.replace(":", " ")
    return authenticator.provisioning_uri(name=name, issuer_name=issuer)


def matching_step(secret: str, code: str, last_step: int | None, now: datetime) -> int | None:
    """The step whose code this is, to be stored as the last one used; None where it is wrong.

    A step that is not after the last one used is wrong: a code that somebody saw works once. Where
    two steps happen to share a code it is the later one, so that it does not work again after that.
    The caller stores the step under a condition (`where last_step is null or last_step < :step`),
    or two requests at the same moment could both use it.
    """
    if now.tzinfo is None:
        raise ValueError("the time has a zone")
    typed = "".join(code.split()) if len(code) <= LONGEST_INPUT else ""  # some show `123 456`
    authenticator = pyotp.TOTP(secret, digits=DIGITS, interval=STEP_SECONDS)
    current = int(now.timestamp()) // STEP_SECONDS
    found = None
    for step in range(current - STEPS_OFF, current + STEPS_OFF + 1):
        expected = authenticator.generate_otp(step)
        # Every step is compared, in whole, before the answer: its time says nothing of which.
        same = hmac.compare_digest(expected.encode(), typed.encode("utf-8", "surrogatepass"))
        if same and (last_step is None or step > last_step):
            found = step
    return found


def new_recovery_codes() -> list[str]:
    """Ten such as `k3v9-0tqe-7m2d-xh5c`, shown once.

    80 bits of chance each: too many to try out against a plain SHA-256, even with the dump in hand.
    """
    return [new_recovery_code() for _ in range(RECOVERY_CODES)]


def new_recovery_code() -> str:
    groups = ("".join(secrets.choice(ALPHABET) for _ in range(GROUP_LENGTH)) for _ in range(GROUPS))
    return "-".join(groups)


def recovery_hash(code: str) -> bytes | None:
    """What is kept and looked up; None where it cannot be a code, however it was typed."""
    if len(code) > LONGEST_RECOVERY_INPUT:
        return None
    folded = unicodedata.normalize("NFKC", code).casefold().translate(MISREAD)
    signs = "".join(sign for sign in folded if not is_between(sign))
    if len(signs) != GROUPS * GROUP_LENGTH or not set(signs) <= set(ALPHABET):
        return None
    return hashlib.sha256(signs.encode()).digest()


def is_between(sign: str) -> bool:
    """Spaces and every kind of dash, which word processors make of a hyphen."""
    return sign.isspace() or unicodedata.category(sign) == "Pd"
