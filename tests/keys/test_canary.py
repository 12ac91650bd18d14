"""Keys are nowhere but with their holders: not in a row, a log, an error, an answer or a metric."""

import logging
from contextlib import suppress

import pytest

from bursar.audit import redaction
from bursar.keys import secret
from tests.accounts.people import rows, run_jobs
from tests.conftest import Live
from tests.keys.keyholders import API, KEYS, USAGE, ask, key_of, service_key
from tests.wallets.purses import move_in
from tests.world import CARL, OLIVIA

EVERY_TEXT = """
  select format('select %L as place from %s as row where row::text like any ($1) limit 1',
    oid::regclass, oid::regclass) as query
  from pg_class where relkind in ('r', 'm') and relnamespace = 'public'::regnamespace
"""


async def test_keys_are_found_nowhere(live_db: Live, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await move_in(live_db)
    shop, carl = await service_key(live_db), await key_of(live_db, scopes=["usage:write"])
    stranger = secret.new()
    said: list[str] = []
    async with live_db.api() as api:
        for key in (carl.key, stranger, carl.key[:-1]):
            for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
                for path in ("usage", "usage/quota", "users/me", "api-keys", "nowhere"):
                    answer = await api.get(f"{API}/{path}", headers=headers)
                    said.append(answer.text + str(answer.headers))
            said.append((await ask(live_db, shop, key, units=-1)).text)
            said.append((await ask(live_db, shop, key, event_id="e")).text)
            posted = await api.post(USAGE, json={"endpoint": "/"}, headers=carl.headers)
            said.append(posted.text)
            leaked = [{"token": key, "type": "x"}]
            said.append((await api.post(f"{KEYS}/leaks", json=leaked)).text)
    async with live_db.api(CARL, **{"Idempotency-Key": "once"}) as api:
        made = (await api.post(KEYS, json={"name": "x"})).json()["key"]
        said.append((await api.get(KEYS)).text)
    async with live_db.api(OLIVIA) as api:
        said.append((await api.get(f"{API}/admin/api-keys")).text)
        said.append((await api.get(f"{API}/admin/audit-logs")).text)
    with suppress(Exception):
        await rows(live_db, "insert into api_keys select * from api_keys")
    await run_jobs(live_db)
    keys = (carl.key, stranger, shop.key, made)
    canaries = [key[secret.SHOWN : -4] for key in keys]  # what is never shown of them
    text = caplog.text + "".join(said)
    assert [canary for canary in canaries if canary in text] == []
    patterns = [f"%{canary}%" for canary in canaries]
    hexed = [f"%{canary.encode().hex()}%" for canary in canaries]
    found = [
        place["place"]
        for row in await rows(live_db, EVERY_TEXT)
        for place in await rows(live_db, row["query"], [*patterns, *hexed])
    ]
    assert found == []


def test_a_key_in_a_row_of_the_audit_trail_is_left_out() -> None:
    key = secret.new()
    assert redaction.redact({"note": f"he wrote {key}"}) == {"note": redaction.REDACTED}
