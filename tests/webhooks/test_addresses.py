"""Nothing leads a webhook to a private address: not a URL, not a name, not a redirect."""

import socket
from typing import Any

import pytest
from aiohttp import web

from bursar.accounts.service import UserSignedUp
from bursar.webhooks import addresses
from bursar.webhooks.addresses import BadUrl, PrivateAddress
from tests.accounts.people import rows
from tests.conftest import Live
from tests.smtp_program import make_certificate
from tests.webhooks.receivers import (
    ENDPOINTS,
    USER_ID,
    Receiver,
    attempts,
    delivery,
    endpoint_for,
    make_due,
    publish,
    receiver,
    work,
)
from tests.world import OLIVIA

SIGNED_UP = UserSignedUp(user_id=USER_ID)

PRIVATE = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "192.0.0.8",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:8.8.8.8",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
]
PUBLIC = ["8.8.8.8", "93.184.216.34", "2606:2800:220:1::1", "2a00:1450:4001::1"]


@pytest.mark.parametrize("address", PRIVATE)
def test_an_address_that_is_not_the_internets_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    with pytest.raises(PrivateAddress):
        addresses.checked(f"https://{host}/", allow_private=False)
    addresses.checked(f"https://{host}/", allow_private=True)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_of_the_internet_is_taken(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert str(addresses.checked(f"https://{host}/x", allow_private=False)).startswith("https://")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "file:///etc/passwd",
        "//example.com/",
        "example.com",
        "https:///path",
        "https:example.com",
        "https://user@example.com/",
        "https://user:secret@example.com/",
        "https://:secret@example.com/",
        "https://example.com/#part",
        "https://example.com:0/",
        "https://example.com:22/",
        "https://example.com:80/",
        "https://example.com:65536/",
        "https://127.0.0.1./",
        "https://127.1/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://0x7f.0.0.1/",
        "https://0177.0.0.1/",
        "https://127.0x1/",
        "https://%31%32%37.0.0.1/",
        "https://[fe80::1%25eth0]/",
        "https://[::1/",
        "https://example.com./",
        "https://.example.com/",
        "https://exam ple.com/",
        "https://example.com\\@127.0.0.1/",
        "https://example.com\n.localhost/",
        "https://１２７.0.0.1/",
        "https://127。0。0。1/",
        "https://ex\u0430mple.com/",
        "https://example.com/" + "x" * 2000,
        "https://" + "x" * 64 + ".com/",
        "https://localhost/",
        "https://LOCALHOST/",
        "https://db.localhost/",
        "",
        "\0",
    ],
)
def test_a_url_that_is_not_plain_is_refused(url: str) -> None:
    with pytest.raises(BadUrl):
        addresses.checked(url, allow_private=False)


@pytest.mark.parametrize(
    ("url", "plain"),
    [
        ("https://example.com", "https://example.com"),
        ("HTTPS://Example.COM:443/A?b=c", "https://example.com/A?b=c"),
        ("https://xn--bcher-kva.example:8443/", "https://xn--bcher-kva.example:8443/"),
        ("https://my_host.example.com/%41", "https://my_host.example.com/A"),
        ("https://1.2.3.example.com/", "https://1.2.3.example.com/"),
    ],
)
def test_a_plain_url_is_kept_in_one_form(url: str, plain: str) -> None:
    assert str(addresses.checked(url, allow_private=False)) == plain


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://127.0.0.1/", "webhooks.private_address"),
        ("http://example.com/", "webhooks.bad_url"),
    ],
)
async def test_a_bad_url_is_told_at_once(strict: Live, url: str, code: str) -> None:
    async with strict.api(OLIVIA) as api:
        answer = await api.post(ENDPOINTS, json={"url": url})
        assert (answer.status_code, answer.json()["code"]) == (422, code)
        assert answer.json()["errors"][0]["pointer"] == "/url"
        made = await api.post(ENDPOINTS, json={"url": "https://example.com/"})
        change = await api.put(f"{ENDPOINTS}/{made.json()['id']}", json={"url": url})
        assert (change.status_code, change.json()["code"]) == (422, code)


async def pointed_at(live: Live, url: str) -> None:
    """As if the letters of the URL had told nothing: a row like any other."""
    made = await endpoint_for(live, "https://example.com/")
    await rows(
        live, "update webhook_endpoints set url = $2 where id = $1::text::uuid", made["id"], url
    )
    await publish(live, SIGNED_UP)
    await work(live)


class Listener:
    """Counts whoever connects, before any byte is read."""

    def __init__(self, family: socket.AddressFamily, host: str) -> None:
        self.socket = socket.create_server((host, 0), family=family)
        self.socket.setblocking(False)
        self.port = self.socket.getsockname()[1]

    def connections(self) -> int:
        number = 0
        try:
            while True:
                self.socket.accept()[0].close()
                number += 1
        except BlockingIOError:
            return number


@pytest.fixture
def listener() -> Any:
    made = Listener(socket.AF_INET, "0.0.0.0")
    yield made
    made.socket.close()


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.2", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1", "2130706433", "0x7f.1"],
)
async def test_no_spelling_of_an_address_is_connected_to(
    strict: Live, listener: Listener, host: str
) -> None:
    await pointed_at(strict, f"https://{host}:{listener.port}/")
    assert (await delivery(strict))["reason"] in ("private_address", "bad_url")
    assert listener.connections() == 0


def answering(monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
    """A name server that says what an attacker's would."""
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *rest: Any) -> Any:
        if host != "rebound.example":
            return real(host, port, *rest)
        return [found for each in hosts for found in real(each, port, *rest)]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.mark.parametrize(
    "hosts",
    [("127.0.0.1",), ("127.0.0.1", "0.0.0.0"), ("::ffff:127.0.0.1",), ("::1", "127.0.0.1")],
)
async def test_a_name_that_leads_to_a_private_address_is_not_connected_to(
    strict: Live, listener: Listener, monkeypatch: pytest.MonkeyPatch, hosts: tuple[str, ...]
) -> None:
    answering(monkeypatch, *hosts)
    await pointed_at(strict, f"https://rebound.example:{listener.port}/")
    assert (await delivery(strict))["reason"] == "private_address"
    assert listener.connections() == 0


async def test_the_same_name_arrives_where_private_addresses_are_allowed(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the tests above would see a connection if there were one."""
    answering(monkeypatch, "127.0.0.1")
    async with receiver() as there:
        await endpoint_for(live, there.url.replace("127.0.0.1", "rebound.example"))
        await publish(live, SIGNED_UP)
        await work(live)
        assert len(there.got) == 1


async def test_a_name_without_an_address_is_a_failure(
    strict: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(socket, "getaddrinfo", nothing)
    await pointed_at(strict, "https://nowhere.example/")
    assert (await delivery(strict))["reason"] == "unresolvable"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_a_failure_and_not_followed(live: Live, status: int) -> None:
    async with receiver() as hidden:
        headers = {"Location": hidden.url}
        async with receiver(status=status, headers=headers) as there:
            await endpoint_for(live, there.url)
            await publish(live, SIGNED_UP)
            await work(live)
            assert len(there.got) == 1
        assert hidden.got == []
    [attempt] = await attempts(live)
    assert (attempt["status_code"], attempt["reason"]) == (status, "redirected")


async def test_no_proxy_of_the_environment_is_asked(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as proxy, receiver() as there:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        assert (len(proxy.got), len(there.got)) == (0, 1)


async def test_no_cookie_is_kept(live: Live) -> None:
    async with receiver(status=500, headers={"Set-Cookie": "tracked=yes; Path=/"}) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP, SIGNED_UP)
        await work(live)
        await make_due(live)
        await work(live)
        assert len(there.got) == 4
        assert all("Cookie" not in headers for headers, _ in there.got)


async def test_a_certificate_that_nobody_vouches_for_is_refused(live: Live) -> None:
    import ssl

    from tests.programs import new_folder

    folder = new_folder()
    make_certificate(folder)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "certificate.pem", folder / "key.pem")
    async with receiver(tls=tls) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
        assert there.got == []
    assert (await delivery(live))["reason"] == "tls"


async def test_what_does_not_speak_http_is_a_failure(live: Live) -> None:
    async def rude(request: web.Request) -> web.StreamResponse:
        assert request.transport
        request.transport.write(b"220 mail.example.com ESMTP\r\n")
        request.transport.close()
        return web.Response()

    async with receiver(answer=rude) as there:
        await endpoint_for(live, there.url)
        await publish(live, SIGNED_UP)
        await work(live)
    assert (await delivery(live))["reason"] == "bad_answer"


async def test_nobody_there_is_a_failure(live: Live) -> None:
    async with receiver() as there:
        gone: Receiver = there
    await endpoint_for(live, gone.url)
    await publish(live, SIGNED_UP)
    await work(live)
    assert (await delivery(live))["reason"] == "unreachable"


async def test_what_was_allowed_in_development_is_not_called_afterwards(strict: Live) -> None:
    async with receiver() as there:
        await pointed_at(strict, there.url)
        assert there.got == []
    assert (await delivery(strict))["reason"] == "bad_url"
