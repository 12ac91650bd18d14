"""A key that is found in public is revoked by whoever shows it, and its owner is told."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bursar.keys import secret
from tests.accounts.people import actions, mails, rows, run_jobs
from tests.conftest import Live
from tests.keys.keyholders import API, KEYS, code, key_of, service_key, set_terms
from tests.wallets.purses import move_in, refused
from tests.world import CARL

LEAKS = f"{KEYS}/leaks"


def report(*tokens: str) -> bytes:
    about = {"type": "bursar_api_key", "url": "https://example.com/x.py", "source": "content"}
    return json.dumps([{"token": token, **about} for token in tokens]).encode()


async def send(live: Live, body: bytes, **headers: str) -> Any:
    async with live.api(**{"Content-Type": "application/json", **headers}) as api:
        return await api.post(LEAKS, content=body)


async def test_whoever_shows_a_key_may_end_it(live_db: Live) -> None:
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db)
    stranger = secret.new()
    answer = await send(live_db, report(carl.key, stranger, "not one", carl.key))
    labels = [each["label"] for each in answer.json()]
    assert labels == ["true_positive", "false_positive", "false_positive", "true_positive"]
    assert carl.key not in answer.text
    assert await code(live_db, shop, carl) == "REVOKED"
    assert await actions(live_db, carl.id) == ["keys.created", "keys.revoked"]
    await run_jobs(live_db)
    [mail] = await mails(live_db, "carl@example.com")
    assert mail.words
    assert "found in public" in mail.words.subject
    assert carl.key not in mail.words.text
    assert (await send(live_db, report(carl.key))).status_code == 200
    assert len(await actions(live_db, carl.id)) == 2


async def test_who_is_suspended_is_told_of_a_leak_too(live_db: Live) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    await rows(live_db, "update users set status = 'suspended' where id = $1", CARL.id)
    await send(live_db, report(carl.key))
    assert [each.template for each in await mails(live_db, "carl@example.com")] == ["key_leaked"]


@pytest.mark.parametrize("around", [" {}", "{}\n", "\t{}\r\n"])
async def test_a_key_with_a_blank_around_it_is_one(live_db: Live, around: str) -> None:
    await move_in(live_db)
    carl = await key_of(live_db)
    token = around.format(carl.key)
    [answer] = (await send(live_db, report(token))).json()
    assert answer["label"] == "true_positive"
    assert answer["token_hash"] == base64.b64encode(secret.digest(token)).decode()


UNREADABLE = [
    {"token": "bur_live_" + "x" * 10_000},
    {"token": None},
    {"token": "\0"},
    {"token": "\ud800"},
    {"token": 7},
    {"token": ["bur_live_"]},
    {"type": "bursar_api_key"},
    {},
    [],
    "bur_live_",
    7.5,
    None,
]
AROUND: list[dict[str, Any]] = [
    {"url": 7},
    {"url": "\0", "\udc00": 1},
    {"url": "x" * 5_000, "source": []},
    {"type": None, "url": None},
    {"type": "x" * 200, "more": "ENDLESS"},
]


async def test_a_bad_item_keeps_no_other_key_alive(live_db: Live) -> None:
    await move_in(live_db)
    held = [await key_of(live_db) for _ in AROUND]
    sound = [{"token": key.key, **around} for key, around in zip(held, AROUND, strict=True)]
    items = [*UNREADABLE, {"token": "ENDLESS"}, *sound, "ENDLESS", *UNREADABLE]
    answer = await send(live_db, json.dumps(items).replace('"ENDLESS"', "1e999").encode())
    assert answer.status_code == 200, answer.text
    false, true = ["false_positive"] * (len(UNREADABLE) + 1), ["true_positive"] * len(held)
    assert [each["label"] for each in answer.json()] == [*false, *true, *false]
    hashes = [base64.b64encode(secret.digest(key.key)).decode() for key in held]
    ours = answer.json()[len(false) : -len(false)]
    assert [each["token_hash"] for each in ours] == hashes
    types = [each["token_type"] for each in ours]
    assert types == [*["bursar_api_key"] * 4, "x" * 200]
    reasons = await rows(live_db, "select distinct status, revoke_reason from api_keys")
    assert [tuple(row.values()) for row in reasons] == [("revoked", "leaked")]


async def test_of_a_services_key_the_owners_are_told(live_db: Live) -> None:
    await move_in(live_db)
    staff = """insert into admin_users (email, name, role, status)
      values ($1, 'Somebody', $2, $3)"""
    for name, role, status in (
        ("olivia", "owner", "active"),
        ("oscar", "owner", "suspended"),
        ("sue", "support", "active"),
    ):
        await rows(live_db, staff, f"{name}@example.com", role, status)
    shop = await service_key(live_db)
    answer = await send(live_db, report(shop.key))
    assert [each["label"] for each in answer.json()] == ["true_positive"]
    async with live_db.api(**shop.headers) as api:
        verifying = await api.post(f"{API}/keys/verify", json={"key": "x", "endpoint": "/"})
    assert verifying.status_code == 401
    await run_jobs(live_db)
    [mail] = await mails(live_db, "olivia@example.com")
    assert mail.words
    assert shop.key not in mail.words.text
    for other in ("oscar", "sue", "carl"):
        assert await mails(live_db, f"{other}@example.com") == []


async def test_a_signature_is_demanded_where_a_public_key_is_set(live_db: Live) -> None:
    await move_in(live_db)
    scanner, stranger = (
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP256R1()),
    )
    pem = scanner.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    await set_terms(live_db, leaks_public_key=pem.decode())
    carl = await key_of(live_db)
    body = report(carl.key)

    def signed(by: ec.EllipticCurvePrivateKey, what: bytes) -> dict[str, str]:
        signature = by.sign(what, ec.ECDSA(hashes.SHA256()))
        return {"Github-Public-Key-Signature": base64.b64encode(signature).decode()}

    for headers in ({}, signed(stranger, body), signed(scanner, body + b" "),
                    {"Github-Public-Key-Signature": "no base64!"}):  # fmt: skip
        assert refused(await send(live_db, body, **headers)) == (403, "keys.bad_signature")
    assert [row[0] for row in await rows(live_db, "select status from api_keys")] == ["active"]
    assert (await send(live_db, body, **signed(scanner, body))).status_code == 200
    assert [row[0] for row in await rows(live_db, "select status from api_keys")] == ["revoked"]


async def test_a_report_that_is_too_long_says_so(live_db: Live) -> None:
    answer = await send(live_db, report(*["x"] * 101))
    assert answer.status_code == 422
    [error] = answer.json()["errors"]
    assert error["detail"].startswith("A report has at most 100 keys")
    assert (await send(live_db, report(*["x"] * 100))).status_code == 200


@pytest.mark.parametrize("body", [b"[]", b"{}", b"7", b"[7"])
async def test_what_is_no_report(live_db: Live, body: bytes) -> None:
    assert (await send(live_db, body)).status_code == 422
