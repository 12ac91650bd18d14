"""Hashes as older systems stored them: one maker for each kind that is understood."""

import base64
import hashlib
from collections.abc import Callable

import bcrypt
from pwdlib.hashers.argon2 import Argon2Hasher

PASSWORD = "correct horse, battery"
SALT = b"0123456789abcdef"


def b64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def argon2(password: str = PASSWORD, memory: int = 19_456, passes: int = 2, lanes: int = 1) -> str:
    hasher = Argon2Hasher(time_cost=passes, memory_cost=memory, parallelism=lanes)
    return hasher.hash(password)


def bcrypted(password: str = PASSWORD, prefix: str = "2b") -> str:
    made = bcrypt.hashpw(password.encode()[:72], bcrypt.gensalt(4)).decode()
    return f"${prefix}{made[3:]}"


def digest(password: str, iterations: int) -> bytes:
    return hashlib.pbkdf2_hmac("sha256", password.encode(), SALT, iterations)


def django(password: str = PASSWORD, iterations: int = 1000) -> str:
    return f"pbkdf2_sha256${iterations}${SALT.decode()}${b64(digest(password, iterations))}"


def passlib(password: str = PASSWORD, iterations: int = 1000) -> str:
    salt, made = (
        b64(part).rstrip("=").replace("+", ".") for part in (SALT, digest(password, iterations))
    )
    return f"$pbkdf2-sha256${iterations}${salt}${made}"


def werkzeug(password: str = PASSWORD, iterations: int = 1000) -> str:
    return f"pbkdf2:sha256:{iterations}${SALT.decode()}${digest(password, iterations).hex()}"


OLDER: dict[str, Callable[[str], str]] = {
    "argon2 of other parameters": lambda password: argon2(password, memory=8192, passes=3, lanes=2),
    "2a": lambda password: bcrypted(password, "2a"),
    "2b": lambda password: bcrypted(password, "2b"),
    "2y": lambda password: bcrypted(password, "2y"),
    "django": django,
    "passlib": passlib,
    "werkzeug": werkzeug,
}
FOREIGN = {  # made by other programs, not by this test
    "password": "$pbkdf2-sha256$6400$.6UI/S.nXIk8jcbdHx3Fhg"
    "$98jZicV16ODfEsEZeYPGHU3kbrUrvUEXOPimVSQDD44",
    "U*U": "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
    "lètmein": "pbkdf2_sha256$1000$seasalt$"
    + b64(hashlib.pbkdf2_hmac("sha256", "lètmein".encode(), b"seasalt", 1000)),
}
