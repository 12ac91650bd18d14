"""A key that may come from some addresses alone is no good from another, and not used by trying."""

from datetime import datetime

import httpx2
import pytest

from tests.accounts.people import rows
from tests.conftest import Live
from tests.keys.keyholders import KEYS, USAGE, Held, key_of
from tests.wallets.purses import move_in
from tests.world import CARL

HERE, ELSEWHERE = "127.0.0.1/32", "9.9.9.9"


async def last_used(live: Live, key: Held) -> datetime | None:
    [row] = await rows(live, "select last_used_at from api_keys where id = $1::uuid", key.id)
    moment: datetime | None = row["last_used_at"]
    return moment


@pytest.mark.parametrize(
    ("addresses", "status"),
    [([ELSEWHERE], 401), ([HERE], 200), ([ELSEWHERE, "127.0.0.0/8"], 200), ([], 200)],
    ids=str,
)
async def test_a_call_from_elsewhere_is_no_use_of_a_key(
    live_db: Live, addresses: list[str], status: int
) -> None:
    await move_in(live_db)
    carl = await key_of(live_db, scopes=["usage:read"], allowed_addresses=addresses)
    async with live_db.api() as api:
        for _ in range(2):
            assert (await api.get(USAGE, headers=carl.headers)).status_code == status
    assert (await last_used(live_db, carl) is not None) == (status == 200)
    if status == 200:
        return
    async with live_db.api(CARL) as api:
        assert (await api.get(f"{KEYS}/{carl.id}")).json()["last_used_at"] is None
        await api.put(f"{KEYS}/{carl.id}", json={"allowed_addresses": [HERE]})
    async with live_db.serving() as url, httpx2.AsyncClient(base_url=url, timeout=60) as api:
        assert (await api.get(USAGE, headers=carl.headers)).status_code == 200
    assert await last_used(live_db, carl) is not None


@pytest.mark.parametrize(
    ("trusted", "forwarded", "status"),
    [
        (("127.0.0.1",), "203.0.113.7", 200),
        (("127.0.0.1",), "::ffff:203.0.113.7", 200),
        (("127.0.0.1",), "198.51.100.1, 203.0.113.7", 200),
        (("127.0.0.1",), "203.0.113.7, 198.51.100.1", 401),  # the first is made up
        (("127.0.0.1",), "198.51.100.1", 401),
        (("127.0.0.1",), "<script>", 401),
        (("10.0.0.1",), "203.0.113.7", 401),
        ((), "203.0.113.7", 401),
    ],
    ids=str,
)
async def test_a_key_is_held_to_its_addresses_behind_a_proxy(
    live_db: Live, trusted: tuple[str, ...], forwarded: str, status: int
) -> None:
    """Also once the process knows the key by heart."""
    await move_in(live_db)
    facts = {"scopes": ["usage:read"], "allowed_addresses": ["203.0.113.0/24"]}
    carl = await key_of(live_db, **facts)
    async with (
        live_db.serving(trusted_proxies=(*trusted,)) as url,
        httpx2.AsyncClient(base_url=url, headers=carl.headers, timeout=30) as api,
    ):
        for _ in range(3):
            answer = await api.get(USAGE, headers={"X-Forwarded-For": forwarded})
            assert answer.status_code == status, answer.text
