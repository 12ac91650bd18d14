"""A setting about keys that could only do harm is refused when it is made."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bursar.auth.scopes import KeyScope
from tests.conftest import Live
from tests.keys.keyholders import API, key_of, set_terms
from tests.wallets.purses import move_in
from tests.world import OLIVIA

SETTINGS = f"{API}/admin/settings"


async def refused(live: Live, key: str, value: object) -> str:
    async with live.api(OLIVIA) as api:
        answer = await api.put(SETTINGS, json={key: value})
        kept = (await api.get(f"{SETTINGS}/{key}")).json()
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert kept["value"] == kept["default"]
    return str(answer.json()["errors"][0]["detail"])


@pytest.mark.parametrize("scope", list(KeyScope))
async def test_no_scope_of_bursars_own_is_one_of_the_business(
    live_db: Live, scope: KeyScope
) -> None:
    said = await refused(live_db, "api_scopes", ["reports:read", scope])
    assert said == f"api_scopes may not name {scope}, which is a scope of Bursar itself."
    await move_in(live_db)
    await set_terms(live_db, api_scopes=["reports:read"])
    await key_of(live_db, scopes=["reports:read"])


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form).decode()


GOOD = pem(ec.generate_private_key(ec.SECP256R1()))
BAD = {
    "no PEM": "garbage",
    "cut off": GOOD[:90],
    "another curve": pem(ec.generate_private_key(ec.SECP384R1())),
    "RSA": pem(rsa.generate_private_key(65537, 2048)),
}


@pytest.mark.parametrize("kind", BAD)
async def test_what_cannot_check_a_signature_is_no_key_of_a_scanner(
    live_db: Live, kind: str
) -> None:
    said = await refused(live_db, "leaks_public_key", BAD[kind])
    assert said == "leaks_public_key is no public key in PEM of a pair on the curve P-256."
    await set_terms(live_db, leaks_public_key=GOOD)
    await set_terms(live_db, leaks_public_key="")
