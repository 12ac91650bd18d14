"""PayPal's webhooks: believed when signed by its own certificate, which is fetched with care."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from bursar.core.errors import BursarError
from bursar.payments.providers.paypal import PayPal
from bursar.payments.providers.paypal_api import Api
from tests.accounts.people import rows
from tests.payments.paypal_program import CLIENT, SECRET, WEBHOOK_IDS, Account, paypal_server
from tests.payments.paypal_shop import paypal_till
from tests.wallets.purses import refused

EVENT = {"id": "WH-1", "event_type": "X.Y", "create_time": "2026-11-28T10:00:00Z", "resource": {}}
BODY = json.dumps(EVENT)


@pytest.fixture(scope="module")
def process() -> Iterator[Account]:
    with paypal_server() as account:
        yield account


@pytest.fixture
def account(process: Account, monkeypatch: pytest.MonkeyPatch) -> Account:
    monkeypatch.setenv("SSL_CERT_FILE", str(process.roots))
    process.side("start_anew")
    return process


async def said_of(account: Account, body: str = BODY, **headers: str) -> str:
    """The code of the refusal, or the type of the event."""
    provider = PayPal(Api(account.url, CLIENT, SECRET), WEBHOOK_IDS)
    lower = {name.lower(): value for name, value in headers.items()}
    try:
        return (await provider.read_event(body.encode(), lower)).type
    except BursarError as error:
        return error.code
    finally:
        await provider.close()


async def of_signed(account: Account, body: str = BODY, **how: Any) -> str:
    return await said_of(account, body, **account.sign(body, **how))


@pytest.mark.parametrize("webhook_id", WEBHOOK_IDS)
async def test_both_webhook_ids_are_taken_while_one_replaces_the_other(
    account: Account, webhook_id: str
) -> None:
    assert await of_signed(account, webhook_id=webhook_id) == "X.Y"


async def test_a_webhook_of_another_app_is_refused(account: Account) -> None:
    assert await of_signed(account, webhook_id="7OTHER") == "payments.bad_signature"


@pytest.mark.parametrize(("age", "taken"), [(301, False), (-330, False), (270, True), (-295, True)])
async def test_older_or_newer_than_300_seconds_is_refused(
    account: Account, age: int, taken: bool
) -> None:
    said = await of_signed(account, age_seconds=age)
    assert said == ("X.Y" if taken else "payments.bad_clock")


async def test_any_byte_changed_is_refused(account: Account) -> None:
    headers = account.sign(BODY)
    for place in range(0, len(BODY), 9):
        changed = BODY[:place] + chr(ord(BODY[place]) ^ 1) + BODY[place + 1 :]
        assert await said_of(account, changed, **headers) == "payments.bad_signature"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Auth-Algo", "SHA1withRSA"),
        ("Auth-Algo", ""),
        ("Transmission-Sig", "no base64!"),
        ("Transmission-Sig", "AAAA"),
        ("Transmission-Sig", ""),
        ("Transmission-Id", "another"),
        ("Transmission-Id", ""),
        ("Transmission-Time", "2026-11-28T10:00:00Z"),
        ("Cert-Url", ""),
        ("Cert-Url", "https://[/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://api.paypal.com/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://evil.example/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "{url}.evil.example/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "{url}@evil.example/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "https://user@{place}/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "http://{place}/v1/notifications/certs/CERT-good"),
        ("Cert-Url", "{url}/v1/notifications/certs/../../../v2/x"),
        ("Cert-Url", "{url}/v2/checkout/orders"),
        ("Cert-Url", "{url}/v1/notifications/certs/CERT-good?x=1"),
    ],
)
async def test_a_header_that_is_not_paypals_is_refused(
    account: Account, name: str, value: str
) -> None:
    value = value.format(url=account.url, place=account.url.removeprefix("https://"))
    headers = account.sign(BODY) | {f"PayPal-{name}": value}
    assert await said_of(account, **headers) == "payments.bad_signature"
    if name == "Cert-Url":
        assert account.books("calls") == {}


@pytest.mark.parametrize(
    "cert", ["expired", "early", "foreign", "another_root", "no_rsa", "garbage", "unknown"]
)
async def test_a_certificate_that_is_not_paypals_is_refused(account: Account, cert: str) -> None:
    assert await of_signed(account, cert=cert) == "payments.bad_signature"


async def test_a_root_that_this_machine_does_not_trust_is_refused(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    assert await of_signed(account) == "payments.certificate_unavailable"  # by TLS already


@pytest.mark.parametrize("cert", ["moved", "away"])
async def test_a_certificate_that_cannot_be_had_is_asked_for_again_later(
    account: Account, cert: str
) -> None:
    assert await of_signed(account, cert=cert) == "payments.certificate_unavailable"
    assert account.books("calls") == {"certificates": 1}  # no redirect was followed


async def test_a_certificate_is_kept_and_ever_new_ones_are_not_all_fetched(
    account: Account,
) -> None:
    provider = PayPal(Api(account.url, CLIENT, SECRET), WEBHOOK_IDS)

    async def read(cert: str) -> str:
        headers = account.sign(BODY, cert=cert)
        try:
            lower = {name.lower(): value for name, value in headers.items()}
            return (await provider.read_event(BODY.encode(), lower)).type
        except BursarError as error:
            return error.code

    assert [await read("good") for _ in range(3)] == ["X.Y"] * 3
    assert account.books("calls") == {"certificates": 1}
    codes = [await read(f"new{number}") for number in range(22)]
    assert codes[:19] == ["payments.bad_signature"] * 19
    assert codes[19:] == ["payments.certificate_unavailable"] * 3
    assert account.books("calls") == {"certificates": 20}
    assert await read("good") == "X.Y"
    await provider.close()


@pytest.mark.parametrize("body", ["", "no JSON", "[]", "{}", '{"id": "x"}', '"x"'])
async def test_what_is_signed_and_no_event_is_refused(account: Account, body: str) -> None:
    assert await of_signed(account, body) == "payments.bad_event"


async def test_what_is_refused_is_not_written_down(account: Account) -> None:
    async with paypal_till(account) as till:
        refusals = [
            await till.tell(EVENT, webhook_id="7OTHER"),
            await till.tell(EVENT, age_seconds=301),
            await till.tell(EVENT, cert="away"),
        ]
        assert [refused(answer) for answer in refusals] == [
            (400, "payments.bad_signature"),
            (400, "payments.bad_clock"),
            (503, "payments.certificate_unavailable"),
        ]
        assert refusals[2].headers["Retry-After"] == "60"
        assert await rows(till.live, "select id from payment_events") == []
