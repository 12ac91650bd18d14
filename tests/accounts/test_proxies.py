"""Where somebody is: what the connection says, and X-Forwarded-For only from a proxy of ours."""

import httpx2
import pytest

from bursar.auth.throttle import LOGIN
from tests.accounts.people import AUTH, rows, sign_up
from tests.conftest import Live


@pytest.mark.parametrize(
    ("trusted", "forwarded", "seen"),
    [
        ((), "203.0.113.7", "127.0.0.1"),
        (("10.0.0.1",), "203.0.113.7", "127.0.0.1"),
        (("127.0.0.1",), "203.0.113.7", "203.0.113.7"),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.7", "203.0.113.7"),  # the first is made up
        (("127.0.0.1",), "2001:db8::7", "2001:db8::7"),
        (("127.0.0.1",), "<script>", None),
        (("127.0.0.1",), "9" * 5000, None),
    ],
    ids=lambda value: str(value)[:20],
)
async def test_an_address_is_believed_from_a_trusted_proxy_alone(
    live_db: Live, trusted: tuple[str, ...], forwarded: str, seen: str | None
) -> None:
    headers = {"X-Forwarded-For": forwarded}
    async with (
        live_db.serving(trusted_proxies=trusted) as url,
        httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as api,
    ):
        await sign_up(api)
    [session] = await rows(live_db, "select address from sessions")
    [audited] = await rows(live_db, "select distinct address from audit_logs")
    assert (session["address"], audited["address"]) == (seen, seen)


async def test_whoever_makes_up_addresses_gets_no_more_attempts(live_db: Live) -> None:
    body = {"email": "carl@example.com", "password": "guess guess guess"}
    async with live_db.serving() as url, httpx2.AsyncClient(base_url=url, timeout=30) as api:
        answers = [
            await api.post(f"{AUTH}/login", json=body, headers={"X-Forwarded-For": f"10.0.0.{n}"})
            for n in range(LOGIN.times + 1)
        ]
    assert [each.status_code for each in answers] == [401] * LOGIN.times + [429]
