"""Every kind of password hash that may be stored: told apart strictly, bounded in what it costs.

New passwords are Argon2id only. The other kinds come with people from older systems, and each of
them is replaced at the first sign-in. A stored hash says itself how much memory and time it wants,
so one that asks for more than the ceilings here is no hash to us.
"""

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from pwdlib.hashers.argon2 import Argon2Hasher
from pwdlib.hashers.bcrypt import BcryptHasher

MEMORY_KIB, PASSES, LANES = 19 * 1024, 2, 1  # OWASP's Argon2id with the least memory it advises
SALT_BYTES, DIGEST_BYTES = 16, 32

LONGEST_HASH = 512
MOST_MEMORY_KIB, MOST_PASSES, MOST_LANES = 128 * 1024, 10, 16  # Django's Argon2 asks for 100 MiB
MOST_BCRYPT_COST = 15
MOST_ITERATIONS = 10_000_000
HEAVY_BCRYPT_COST, HEAVY_ITERATIONS = 13, 2_000_000  # above: half a second and more

ARGON2 = Argon2Hasher(
    time_cost=PASSES,
    memory_cost=MEMORY_KIB,
    parallelism=LANES,
    hash_len=DIGEST_BYTES,
    salt_len=SALT_BYTES,
)
BCRYPT = BcryptHasher()


@dataclass(frozen=True, slots=True)
class Known:
    """A stored hash that was understood."""

    matches: Callable[[bytes], bool]
    ours: bool = False  # as a new one would be made: nothing to replace
    raw: bool = True  # made over the text as it was typed, by a system that did not normalise it
    heavy: bool = False  # wants more memory or time than one of ours: not many of these at once


def known(text: str) -> Known | None:
    """What a stored hash is, or None where it is no hash or asks for too much."""
    if len(text) > LONGEST_HASH:
        return None
    found = (kind(text) for kind in (argon2id, bcrypt, django, passlib, werkzeug))
    return next((each for each in found if each), None)


def new(password: bytes) -> str:
    return ARGON2.hash(password)


def decoy() -> Known:
    """A hash like ours whose password nobody has: checking it is the same work, making it none."""
    text = f"$argon2id$v=19$m={MEMORY_KIB},t={PASSES},p={LANES}${noise(SALT_BYTES)}${noise(32)}"
    return Known(partial(ARGON2.verify, hash=text), ours=True, raw=False)


def like(text: str) -> str | None:
    """A hash of the same kind and cost whose password nobody has; None for what is no hash."""
    if match := ARGON2_HASH.fullmatch(text):
        memory, passes, lanes = match.groups()[:3]
        return f"$argon2id$v=19$m={memory},t={passes},p={lanes}${noise(16)}${noise(32)}"
    if BCRYPT_HASH.fullmatch(text):
        letters = noise(64).translate(str.maketrans("+", "."))
        return f"{text[:7]}{letters[:21]}.{letters[21:51]}."
    if match := DJANGO_HASH.fullmatch(text):
        return f"pbkdf2_sha256${match[1]}${os.urandom(8).hex()}${noise(32)}="
    if match := PASSLIB_HASH.fullmatch(text):
        salt, digest = noise(16).replace("+", "."), noise(32).replace("+", ".")
        return f"$pbkdf2-sha256${match[1]}${salt}${digest}"
    if match := WERKZEUG_HASH.fullmatch(text):
        return f"pbkdf2:sha256:{match[1]}${os.urandom(8).hex()}${os.urandom(32).hex()}"
    return None


def noise(size: int) -> str:
    """So many random bytes in base64, without its padding."""
    return base64.b64encode(os.urandom(size)).decode().rstrip("=")


ARGON2_HASH = re.compile(
    r"\$argon2id\$v=19\$m=([1-9][0-9]{0,9}),t=([1-9][0-9]{0,4}),p=([1-9][0-9]{0,4})"
    r"\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)


def argon2id(text: str) -> Known | None:
    match = ARGON2_HASH.fullmatch(text)
    if not match:
        return None
    memory, passes, lanes = (int(part) for part in match.groups()[:3])
    salt, digest = decoded(match[4]), decoded(match[5])
    if not (8 * lanes <= memory <= MOST_MEMORY_KIB and passes <= MOST_PASSES):
        return None
    if lanes > MOST_LANES or not (8 <= len(salt) <= 64 and 16 <= len(digest) <= 64):
        return None
    return Known(
        partial(ARGON2.verify, hash=text),
        ours=not ARGON2.check_needs_rehash(text),
        raw=False,
        heavy=memory > MEMORY_KIB or passes > 2 * PASSES,
    )


BCRYPT_HASH = re.compile(  # the last characters of salt and digest carry two and four bits
    r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{30}[.CGKOSWaeimquy26]"
)
BCRYPT_READS_BYTES = 72


def bcrypt(text: str) -> Known | None:
    match = BCRYPT_HASH.fullmatch(text)
    if not match or not 4 <= int(match[1]) <= MOST_BCRYPT_COST:
        return None
    return Known(partial(bcrypt_matches, text), heavy=int(match[1]) > HEAVY_BCRYPT_COST)


def bcrypt_matches(text: str, password: bytes) -> bool:
    """bcrypt reads 72 bytes and every older system let it; the library of today raises instead.

    So whoever has a longer password there signed in with its first 72 bytes. They still can, once:
    what replaces the hash is made of the whole password.
    """
    return BCRYPT.verify(password[:BCRYPT_READS_BYTES], text)


DJANGO_HASH = re.compile(
    r"pbkdf2_sha256\$([1-9][0-9]{0,7})\$([!-#%-~]{1,128})\$([A-Za-z0-9+/]{43})="
)
PASSLIB_HASH = re.compile(
    r"\$pbkdf2-sha256\$([1-9][0-9]{0,7})\$([A-Za-z0-9./]{1,128})\$([A-Za-z0-9./]{43})"
)
WERKZEUG_HASH = re.compile(
    r"pbkdf2:sha256:([1-9][0-9]{0,7})\$([!-#%-~]{1,128})\$([0-9a-f]{64})"
)  # fmt: skip


def django(text: str) -> Known | None:
    match = DJANGO_HASH.fullmatch(text)
    return pbkdf2(match[1], match[2].encode(), decoded(match[3])) if match else None


def passlib(text: str) -> Known | None:
    """Its base64 has a dot for the plus and no padding."""
    match = PASSLIB_HASH.fullmatch(text)
    if not match:
        return None
    salt, digest = (decoded(part.replace(".", "+")) for part in match.groups()[1:])
    return pbkdf2(match[1], salt, digest)


def werkzeug(text: str) -> Known | None:
    match = WERKZEUG_HASH.fullmatch(text)
    return pbkdf2(match[1], match[2].encode(), bytes.fromhex(match[3])) if match else None


def pbkdf2(iterations: str, salt: bytes, digest: bytes) -> Known | None:
    count = int(iterations)
    if count > MOST_ITERATIONS or not salt or len(digest) != hashlib.sha256().digest_size:
        return None
    return Known(
        partial(pbkdf2_matches, count, salt, digest),
        heavy=count > HEAVY_ITERATIONS,
    )


def pbkdf2_matches(iterations: int, salt: bytes, digest: bytes, password: bytes) -> bool:
    made = hashlib.pbkdf2_hmac("sha256", password, salt, iterations)
    return hmac.compare_digest(made, digest)


def decoded(text: str) -> bytes:
    """Base64 without padding; nothing where it is not written as an encoder writes it."""
    try:
        content = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return b""
    return content if base64.b64encode(content).decode().rstrip("=") == text else b""
