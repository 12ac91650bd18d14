"""Stored hashes: those of other programs are understood, those that ask for too much are not."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bursar.auth import hashes, passwords
from bursar.auth.passwords import Verdict
from tests.auth.stored_hashes import (
    FOREIGN,
    OLDER,
    PASSWORD,
    argon2,
    b64,
    bcrypted,
    django,
    passlib,
    werkzeug,
)


@pytest.mark.parametrize("password", FOREIGN)
async def test_hashes_that_other_programs_made(password: str) -> None:
    assert passwords.is_known_hash(FOREIGN[password])
    assert (await passwords.verify(password, FOREIGN[password])).right


DIGEST, LONG = b64(bytes(32)), "A" * 43
NO_HASHES = [
    "",
    "x",
    PASSWORD,
    "!",
    hashlib.sha256(b"x").hexdigest(),
    argon2() + "\n",
    " " + argon2(),
    argon2().replace("argon2id", "argon2i"),
    argon2().replace("v=19", "v=16"),
    argon2().replace("p=1", "p=0"),
    argon2().replace("m=19456", "m=4294967295"),
    argon2().replace("m=19456", "m=131073"),
    argon2().replace("m=19456", "m=7"),
    argon2().replace("m=19456", "m=019456"),
    argon2().replace("t=2", "t=4294967295"),
    argon2().replace("t=2", "t=11"),
    argon2().replace("p=1", "p=17"),
    argon2()[:-1] + "*",
    argon2().rsplit("$", 1)[0],
    "$argon2id$v=19$m=19456,t=2,p=1$AAAA$" + LONG,
    "$argon2id$v=19$m=19456,t=2,p=1$" + "A" * 22 + "$" + "A" * 42 + "B",
    "$argon2id$v=19$m=19456,t=2,p=1$" + "A" * 600 + "$" + LONG,
    bcrypted()[:-1],
    bcrypted() + "x",
    bcrypted().replace("$04$", "$16$"),
    bcrypted().replace("$04$", "$31$"),
    bcrypted().replace("$04$", "$03$"),
    bcrypted().replace("$2b$", "$2x$"),
    bcrypted()[:28] + "/" + bcrypted()[29:],
    bcrypted()[:-1] + "/",
    django(iterations=1).replace("$1$", "$0$"),
    django(iterations=1).replace("$1$", "$10000001$"),
    django(iterations=1).replace("$1$", "$99999999999999999999$"),
    django(iterations=1).replace("$1$", "$\N{ARABIC-INDIC DIGIT ONE}$"),
    django(iterations=1).replace("$1$", "$-1$"),
    f"pbkdf2_sha256$1000$${DIGEST}",
    "pbkdf2_sha256$1000$salt$AAAA",
    f"pbkdf2_sha256$1000$salt${'A' * 42}B=",
    f"pbkdf2_sha1$1000$salt${DIGEST}",
    passlib().replace("$1000$", "$10000001$"),
    f"$pbkdf2-sha256$1000$A${LONG}",
    f"$pbkdf2-sha256$1000$AAAA${'A' * 42}B",
    f"$pbkdf2-sha512$1000$AAAA${LONG}",
    werkzeug().replace(":1000$", ":10000001$"),
    werkzeug()[:-2],
    werkzeug().replace("sha256", "sha512"),
    "pbkdf2:sha256$salt$" + "0" * 64,
    "scrypt:32768:8:1$salt$" + "0" * 128,
]


@pytest.mark.parametrize("text", NO_HASHES, ids=range(len(NO_HASHES)))
async def test_what_is_no_hash_or_asks_for_too_much_is_refused(text: str) -> None:
    """It matches nothing and fails nobody, at the cost of one of ours."""
    assert not passwords.is_known_hash(text)
    assert await passwords.verify(PASSWORD, text) == Verdict(False)


@given(st.sampled_from([f(PASSWORD) for f in OLDER.values()]), st.data())
@settings(max_examples=200)
def test_a_hash_with_one_sign_changed_never_fails(stored: str, data: st.DataObject) -> None:
    """Understood or not, it neither raises nor matches another password."""
    place = data.draw(st.integers(0, len(stored) - 1))
    changed = stored[:place] + data.draw(st.characters()) + stored[place + 1 :]
    known = hashes.known(changed)
    if known and not known.heavy and "$m=" not in changed:
        assert known.matches(b"another password") is False
