"""How a key is written: a prefix that scanners find, 178 bits of chance, and a checksum.

    bur_live_Zr3…30 letters and digits…9fK + 6 of CRC-32

What was mistyped, cut off or made up is refused by its checksum, without any look elsewhere. The
checksum is no proof: whoever reads this can make one. The proof is that the hash is known.
"""

import hashlib
import re
import secrets
import string
from zlib import crc32

from bursar.core.api_keys import PREFIX

ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
PAIRS = [one + other for one in ALPHABET for other in ALPHABET]
RANDOM, CHECKSUM = 30, 6
LENGTH = len(PREFIX) + RANDOM + CHECKSUM
SHAPE = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{RANDOM + CHECKSUM}}}")
SHOWN = len(PREFIX) + 4


def new() -> str:
    body = PREFIX + "".join(secrets.choice(ALPHABET) for _ in range(RANDOM))
    return body + checksum(body)


def checksum(body: str) -> str:
    """CRC-32 in base 62; 62 to the 6th is more than 2 to the 32nd."""
    rest, last = divmod(crc32(body.encode()), len(PAIRS))
    first, middle = divmod(rest, len(PAIRS))
    return PAIRS[first] + PAIRS[middle] + PAIRS[last]


def is_sound(key: str) -> bool:
    """Whether it may be one of ours; most of what is not one is told apart here."""
    body, check = key[:-CHECKSUM], key[-CHECKSUM:]
    return SHAPE.fullmatch(key) is not None and checksum(body) == check


def digest(key: str) -> bytes:
    """What is kept of it. No salt is needed: nobody guesses 178 bits."""
    return hashlib.sha256(key.encode()).digest()
