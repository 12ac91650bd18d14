"""Files of people, line by line: what is right is taken, and of the rest every reason is said."""

import io
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.provisional import domains

from bursar.accounts import emails, import_people
from bursar.accounts.import_files import Format
from bursar.accounts.import_people import Person, Reader, Rejected
from bursar.accounts.importing import BATCH, batches
from bursar.auth.actor import OPERATOR_ID
from tests.accounts.imports import CARL, HASH, line, read
from tests.auth import stored_hashes

OLD_ID = "6f1b0c1e-3f3c-4d6c-9a55-2f6b5f0f9a11"


def person(content: bytes | str, kind: Format = Format.CSV) -> Person:
    [only] = read(content, kind)
    assert isinstance(only, Person), only
    return only


def reasons(content: bytes | str, kind: Format = Format.CSV) -> list[str]:
    [only] = read(content, kind)
    assert isinstance(only, Rejected), only
    return only.reasons


def row(**cells: Any) -> str:
    """A file with one person in it."""
    cells = {"email": CARL, **cells}
    return f"{','.join(cells)}\n{','.join(cells.values())}\n"


# What is taken


def test_everything_that_the_contract_names() -> None:
    content = (
        "id,email,username,name,first_name,last_name,user_type,role,tier,status,is_active,"
        "email_verified,password_hash,created_at,last_login\n"
        f"{OLD_ID}, Carl@Example.COM ,carl.c,Carl C,Carl,Carlson,customer,Partner,PRO,pending,"
        f"true,yes,{HASH},2020-02-03T04:05:06Z,2021-02-03 04:05:06+02\n"
    )
    assert person(content) == Person(
        line=2,
        id=UUID(OLD_ID),
        email=CARL,
        username="carl.c",
        name="Carl C",
        first_name="Carl",
        last_name="Carlson",
        user_type="customer",
        role="partner",
        tier="pro",
        status="pending",
        email_verified=True,
        password_hash=HASH,
        created_at=datetime(2020, 2, 3, 4, 5, 6, tzinfo=UTC),
        last_login=datetime(2021, 2, 3, 4, 5, 6, tzinfo=UTC) - timedelta(hours=2),
    )


def test_an_address_is_enough_in_both_formats() -> None:
    assert person("email\ncarl@example.com") == Person(line=2, email=CARL)
    assert person('{"email": "carl@example.com"}', Format.JSONL) == Person(line=1, email=CARL)


@pytest.mark.parametrize(
    "header",
    ["passwordHash", "hashed_password", "hashedPassword", "Password Hash", "PASSWORD", "password"],
)
def test_a_hash_under_the_names_of_older_systems(header: str) -> None:
    assert person(f"E-Mail,{header}\n{CARL},{HASH}\n").password_hash == HASH
    assert person(line(**{header: HASH}), Format.JSONL).password_hash == HASH


@pytest.mark.parametrize("kind", [*stored_hashes.OLDER, "ours"])
def test_every_hash_that_somebody_can_sign_in_with(kind: str) -> None:
    made = stored_hashes.OLDER.get(kind, stored_hashes.argon2)("a password")
    if "," in made:  # as Argon2 has it
        assert person(f'email,password\n{CARL},"{made}"\n').password_hash == made
    assert person(line(password=made), Format.JSONL).password_hash == made


def test_what_is_not_given_has_its_default() -> None:
    empty = row(name="", password_hash="\\N", created_at=" ", is_active="")
    assert person(empty) == Person(line=2, email=CARL)
    assert person(line(name=None, role=None), Format.JSONL) == Person(line=1, email=CARL)


def test_somebody_whom_django_gave_no_password() -> None:
    assert person(row(password="!" + "a1B2" * 10)).password_hash is None


@pytest.mark.parametrize(
    ("cells", "status"),
    [
        ({"is_active": "false"}, "suspended"),
        ({"is_active": "0", "status": "active"}, "suspended"),
        ({"is_active": "0", "status": "pending"}, "pending"),
        ({"is_active": "1", "status": "suspended"}, "suspended"),
        ({"is_active": "t"}, "active"),
    ],
)
def test_whoever_is_not_active_does_not_come_in(cells: dict[str, str], status: str) -> None:
    assert person(row(**cells)).status == status


def test_a_number_is_no_id_that_could_be_kept() -> None:
    reader = Reader()
    content = f"id,email\n17,{CARL}\n{OLD_ID},dora@example.com\n".encode()
    [batch] = batches(io.BytesIO(content), Format.CSV, reader)
    assert [each.id for each in batch.people] == [None, UUID(OLD_ID)]
    assert reader.ids_not_kept == 1
    assert person(line(id=17), Format.JSONL).id is None
    assert person(line(id=17, uuid=OLD_ID), Format.JSONL).id == UUID(OLD_ID)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_what_a_spreadsheet_writes(delimiter: str, end: str) -> None:
    text = delimiter.join(["email", "name", "city"]) + end
    text += delimiter.join([CARL, '"Carl ""C"" Carlson"', f'"a{delimiter} b{end}c"']) + end
    text += end + delimiter * 2 + end
    taken = person(b"\xef\xbb\xbf" + text.encode())
    assert (taken.email, taken.name, taken.line) == (CARL, 'Carl "C" Carlson', 2)


def test_lines_are_counted_as_an_editor_counts_them() -> None:
    content = f'email,note\n{CARL},"two\nlines"\n\nnobody,x\n'
    taken, rejected = read(content)
    assert (taken.line, rejected.line) == (2, 5)


def test_columns_that_nobody_knows_are_remembered_once() -> None:
    reader = Reader()
    content = f"email,shoe_size,x\ty\n{CARL},44,1\ndora@example.com,38,2\n".encode()
    assert len(list(batches(io.BytesIO(content), Format.CSV, reader))) == 1
    assert list(reader.ignored) == ["shoe_size", "'x\\ty'"]


def test_only_a_batch_is_in_memory() -> None:
    content = "email\n" + "".join(f"p{n}@example.com\n" for n in range(2 * BATCH + 1))
    found = list(batches(io.BytesIO(content.encode()), Format.CSV, Reader()))
    assert [len(batch) for batch in found] == [BATCH, BATCH, 1]


# What is rejected


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ({"email": "carl"}, "email: An email address must have an @-sign"),
        ({"email": "", "name": "Carl"}, "email: is missing"),
        ({"email": "x" * 65 + "@example.com"}, "email: has at most 64 characters before the @"),
        ({"email": f"{'x' * 300}@example.com"}, "email: An e-mail address has at most 254"),
        ({"email": "c\u0430rl@example.com"}, "email: "),
        ({"email": "a\0b@example.com"}, "email: An e-mail address has no control characters"),
        ({"username": "x"}, "username: has 3 to 50 letters"),
        ({"username": ".carl"}, "username: has 3 to 50 letters"),
        ({"name": "x" * 201}, "name: has at most 200 characters"),
        ({"full_name": "x" * 150}, "name: each part of it has at most 100 characters"),
        ({"name": "a " + "x" * 150}, "name: each part of it has at most 100 characters"),
        ({"first_name": "x" * 101}, "first_name: has at most 100 characters"),
        ({"surname": "\ufb2c" * 60}, "surname: has at most 100 characters"),  # composed, it grows
        ({"name": "Carl\0"}, "name: has a line break or a control character"),
        ({"name": '"Carl\nCarlson"'}, "name: has a line break or a control character"),
        ({"name": "Carl\u202e"}, "name: has a line break or a control character"),
        ({"user_type": "two words"}, "user_type: is one word"),
        ({"role": "king"}, "role: has to be one of: individual_client, business_client, partner"),
        ({"tier": "gold"}, "tier: has to be one of: free, pro, enterprise"),
        ({"status": "gone"}, "status: has to be one of: active, suspended, pending, deleted"),
        ({"is_active": "maybe"}, "is_active: has to be true or false"),
        ({"verified": "2"}, "verified: has to be true or false"),
        ({"created_at": "yesterday"}, "created_at: is no time such as"),
        ({"created_at": "1700000000"}, "created_at: is no time such as"),
        ({"created_at": "2023-02-30"}, "created_at: is no time such as"),
        ({"created_at": "1969-12-31"}, "created_at: is before 1970 or in the future"),
        ({"lastLogin": "9999-12-31T23:59:59-14:00"}, "lastLogin: is before 1970 or in the future"),
        ({"created_at": "0001-01-01T00:00:00+14:00"}, "created_at: is before 1970"),
        ({"id": str(OPERATOR_ID)}, "id: is reserved"),
        ({"id": str(UUID(int=0))}, "id: is reserved"),
        ({"password": "Summer2024!"}, "password: is no hash that is known"),
        ({"password_hash": "$2b$12$tooshort"}, "password_hash: is no hash that is known"),
        ({"password_hash": "5f4dcc3b5aa765d61d8327deb882cf99"}, "password_hash: is no hash"),
        ({"pwd": HASH}, "pwd: holds a password hash; call the column password_hash"),
        ({"name": "Carl", "full_name": "Dora"}, "name and full_name: say different things"),
        ({"password": "hunter2", "password_hash": HASH}, "password and password_hash: say differ"),
    ],
)
def test_the_reason_of_a_rejected_line(cells: dict[str, str], reason: str) -> None:
    [found] = reasons(row(**cells))
    assert found.startswith(reason)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"email": 7}, "email: has to be text"),
        ({"email": ["x"]}, "email: has to be text"),
        ({"email": None}, "email: is missing"),
        ({"name": {"first": "Carl"}}, "name: has to be text"),
        ({"is_active": 1.0}, "is_active: has to be true or false"),
        ({"is_active": []}, "is_active: has to be true or false"),
        ({"email_verified": 7}, "email_verified: has to be true or false"),
        ({"created_at": 1700000000}, "created_at: is no time such as"),
        ({"password": 12345678}, "password: has to be text"),
        ({"role": True}, "role: has to be text"),
        ({"id": str(UUID(int=2**128 - 1))}, "id: is reserved"),
    ],
)
def test_the_reason_of_a_wrong_type(members: dict[str, Any], reason: str) -> None:
    [found] = reasons(line(**members), Format.JSONL)
    assert found.startswith(reason)


def test_all_reasons_of_a_line_are_named() -> None:
    found = reasons(row(role="king", tier="gold", is_active="perhaps"))
    assert [reason.partition(":")[0] for reason in found] == ["role", "tier", "is_active"]


def test_a_reason_never_repeats_what_stands_in_the_file() -> None:
    names = ["role", "tier", "status", "username", "user_type", "created_at", "password", "email"]
    for secret in ("hunter2 hunter2!", "p@ss@word", "päss@wörd.x\u0080", HASH + "x", "a:b@c(d"):
        for name in names:
            found = f"{reasons(line(**{name: secret}), Format.JSONL)}"
            assert secret not in found
            assert not any(part in found for part in ("hunter2", "ss@", "w\u00f6rd", "rd.x", "a:b"))


def test_hashes_stand_in_no_text_of_a_person() -> None:
    assert HASH not in repr(person(row(password=HASH)))


def test_the_second_of_two_is_rejected_and_names_the_first() -> None:
    first, email, username, id_, again = read(
        "email,username,id\n"
        f"carl@example.com,carl,{OLD_ID}\n"
        "CARL@example.com,dora,\n"
        "dora@example.com,CARL,\n"
        f"emil@example.com,,{OLD_ID}\n"
        "dora@example.com,dora,\n"
    )
    assert isinstance(first, Person)
    found = [each.reasons for each in (email, username, id_) if isinstance(each, Rejected)]
    assert found == [[f"{name}: is on line 2 already"] for name in ("email", "username", "id")]
    assert isinstance(again, Person)  # a line that was not taken is in nobody's way


# Properties

PARTS = st.one_of(
    st.emails().map(lambda address: address.partition("@")[0]),
    st.text("aZ0._+-@\"'<> é\0", max_size=70),
    st.text(max_size=5),
)
DOMAINS = st.one_of(
    domains(),
    st.text("aZ0.-@_ éßＡ。", max_size=260),
    st.sampled_from(["localhost", "xn--x-9fa.com", "EXAMPLE.com", "a..b", "-a.com", "[1.2.3.4]"]),
)


def verdict(of: Any, address: str) -> str:
    try:
        return str(of(address))
    except ValueError:
        return "refused"


@given(PARTS, DOMAINS)
def test_the_fast_way_to_an_address_gives_the_verdict_of_the_slow_one(
    local: str, domain: str
) -> None:
    address = f"{local}@{domain}"
    assert verdict(import_people.normal_email, address) == verdict(emails.normal, address)


@given(st.binary(max_size=300), st.sampled_from(list(Format)))
def test_whatever_is_in_a_file_every_line_of_it_is_accounted_for(
    content: bytes, kind: Format
) -> None:
    prefix = b"email,name\n" if kind is Format.CSV else b'{"email": 1}\n'
    for each in read(prefix + content, kind):
        assert isinstance(each, Rejected) or each.email


def test_the_guide_names_every_field() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guide" / "importing.md").read_text()
    for name in (*import_people.CHECKS, "--dry-run", "--rejects", "--format"):
        assert f"`{name}`" in guide, name
