"""An unknown address costs what a known one costs, also while people have hashes of older kinds."""

import pytest

from bursar.accounts import strangers
from bursar.auth import hashes, passwords
from bursar.auth.actor import Kind
from tests.accounts.people import rows
from tests.auth.stored_hashes import OLDER, PASSWORD, argon2
from tests.conftest import Live


@pytest.mark.parametrize("kind", [*OLDER, "ours"])
async def test_a_decoy_is_of_the_same_kind_and_nobodys(kind: str) -> None:
    stored = OLDER.get(kind, argon2)(PASSWORD)
    made = hashes.like(stored)
    assert made is not None
    there, decoy = hashes.known(stored), hashes.known(made)
    assert there is not None
    assert decoy is not None
    assert (decoy.ours, decoy.raw, decoy.heavy) == (there.ours, there.raw, there.heavy)
    assert made != hashes.like(stored)
    assert not (await passwords.verify(PASSWORD, made)).right
    assert len(made) == len(stored) or kind in ("django", "passlib", "werkzeug")


def test_what_is_no_hash_has_no_decoy() -> None:
    assert [hashes.like(text) for text in ("", "x", "$2b$12$short", "plain")] == [None] * 4


async def test_strangers_are_of_the_kinds_that_people_have(live_db: Live) -> None:
    none = await strangers.decoys(live_db.database, Kind.CUSTOMER)
    assert none.of("carl@example.com") is None  # of our own kind
    insert = "insert into users (email, password_hash) values ($1, $2)"
    old, new = OLDER["2b"](PASSWORD), argon2(PASSWORD)
    for n in range(40):
        await rows(live_db, insert, f"user{n}@example.com", old if n % 4 == 0 else new)
    first, second = await anew(live_db), await anew(live_db)
    addresses = [f"stranger{n}@example.com" for n in range(400)]
    kinds = [(first.of(each) or "")[:4] for each in addresses]
    assert set(kinds) == {"$2b$", "$arg"}
    assert 60 <= kinds.count("$2b$") <= 145  # a quarter, as among people
    assert [(second.of(each) or "")[:4] for each in addresses] == kinds  # and it stays


async def anew(live: Live) -> strangers.Decoys:
    strangers._known.clear()
    return await strangers.decoys(live.database, Kind.CUSTOMER)
