"""An access token of an ended session is refused by every process, as soon as the end commits."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx2
import pytest
from sqlalchemy import text
from sqlalchemy.engine import make_url

from bursar.app import create_app
from bursar.auth import endings as rooms
from bursar.auth import sessions
from bursar.auth.actor import Actor, operator
from bursar.auth.endings import CHANNEL, Endings
from bursar.auth.permissions import StaffRole
from bursar.auth.sessions import Opened
from bursar.auth.tokens import Tokens
from bursar.core.database import DOOR, Database
from bursar.core.notices import Pace
from bursar.core.settings import Settings
from tests import databases
from tests.conftest import Live, as_actor
from tests.listeners import TOLD, announce, count, listeners, until
from tests.programs import SECRET, Serving, serving
from tests.world import OLIVIA

PATH = "/api/v1/admin/settings"


async def opened(database: Database, actor: Actor = OLIVIA, **given: Any) -> Opened:
    assert actor.id
    async with database.transaction(DOOR) as db:
        return await sessions.open(db, actor.kind, actor.id, method="password", **given)


async def end(database: Database, session_id: UUID) -> None:
    async with database.transaction(DOOR) as db:
        assert await sessions.end(db, session_id, "signed_out")


def header(live: Live, session: Opened) -> dict[str, str]:
    token = Tokens(live.settings.secret_keys).sign(session.actor(OLIVIA.role))
    return {"Authorization": f"Bearer {token}"}


def process(live: Live, pace: Pace = TOLD) -> Live:
    """One of several that share a database."""
    app = create_app(live.settings, live.url)
    app.state.notices.pace = pace
    return Live(live.url, live.settings, app)


@asynccontextmanager
async def client(live: Live) -> AsyncIterator[httpx2.AsyncClient]:
    async with live.serving() as base, httpx2.AsyncClient(base_url=base, timeout=30) as api:
        yield api


async def status(api: httpx2.AsyncClient, headers: dict[str, str]) -> int:
    return (await api.get(PATH, headers=headers)).status_code


async def test_an_end_is_felt_in_every_process(live_db: Live) -> None:
    async with client(process(live_db)) as one, client(process(live_db)) as two:
        mine, other = await opened(live_db.database), await opened(live_db.database)
        token, kept = header(live_db, mine), header(live_db, other)
        assert [await status(api, token) for api in (one, two)] == [200, 200]
        await end(live_db.database, mine.session_id)
        for api in (one, two):
            await until(partial(is_out, api, token), "the end in every process")
            answer = await api.get(PATH, headers=token)
            assert answer.json()["code"] == "auth.bad_token"
            assert answer.json()["detail"] == "The session of this token has ended; sign in again."
            assert 'error="invalid_token"' in answer.headers["www-authenticate"]
            assert await status(api, kept) == 200
            assert (await api.get("/health", headers=token)).status_code == 200


async def is_out(api: httpx2.AsyncClient, token: dict[str, str]) -> bool:
    return await status(api, token) == 401


async def test_an_end_is_felt_in_real_processes(live_db: Live) -> None:
    """Two of them behind one port; each answers some of the requests, for none is kept alive."""
    here = {"DATABASE_URL": live_db.url, "BURSAR_SECRET_KEY": SECRET}
    mine = await opened(live_db.database)
    token = {**header(live_db, mine), "Connection": "close"}

    def answers(server: Serving) -> set[int]:
        return {server.get(PATH, **token).status_code for _ in range(30)}

    with serving("--workers", 2, **here) as server:
        assert answers(server) == {200}
        await end(live_db.database, mine.session_id)
        await until(lambda: answers(server) == {401}, "the end in both processes")
        for each in server.children:
            each.kill()  # those that come in their place were not there to hear of it
        await until(lambda: server.status("/health") == 200, "the processes in their place")
        assert answers(server) == {401}


async def test_ending_takes_effect_when_it_commits_and_not_before(live_db: Live) -> None:
    async with client(process(live_db)) as api:
        mine, marker = await opened(live_db.database), await opened(live_db.database)
        token = header(live_db, mine)
        async with as_actor(live_db.database, OLIVIA) as db:  # never committed
            assert await sessions.end(db, mine.session_id, "signed_out")
        await end(live_db.database, marker.session_id)  # heard: then all before it was heard too
        await until(lambda: is_out(api, header(live_db, marker)), "the end of the other one")
        assert await status(api, token) == 200


async def test_a_replayed_refresh_token_is_felt_in_every_process(live_db: Live) -> None:
    async with client(process(live_db)) as one, client(process(live_db)) as two:
        mine = await opened(live_db.database)
        renewed = await sessions.rotate(live_db.database, mine.refresh_token, OLIVIA.kind)
        token = header(live_db, renewed)
        assert await status(one, token) == 200
        with pytest.raises(sessions.BadRefreshToken):
            await sessions.rotate(live_db.database, mine.refresh_token, OLIVIA.kind)
        for api in (one, two):
            await until(partial(is_out, api, token), "the end in every process")


async def test_many_ends_at_once_are_all_heard(live_db: Live) -> None:
    there = process(live_db)
    assert OLIVIA.id
    async with client(there):
        mine = [await opened(live_db.database) for _ in range(45)]
        async with live_db.database.transaction(DOOR) as db:
            await sessions.end_all(db, OLIVIA.kind, OLIVIA.id, "password_changed")
        heard = there.app.state.endings
        await until(lambda: all(each.session_id in heard for each in mine), "all the ends")


async def test_a_process_that_starts_knows_what_has_ended_before(live_db: Live) -> None:
    """From its first request on: it looks before it serves."""
    mine = await opened(live_db.database)
    await end(live_db.database, mine.session_id)
    async with client(process(live_db)) as api:
        assert await status(api, header(live_db, mine)) == 401


async def test_a_token_of_no_session_is_not_concerned(live_db: Live) -> None:
    script = Tokens(live_db.settings.secret_keys).sign(operator(StaffRole.OWNER))
    async with client(process(live_db)) as api:
        mine = await opened(live_db.database)
        await end(live_db.database, mine.session_id)
        await until(lambda: is_out(api, header(live_db, mine)), "the end of a session")
        assert await status(api, {"Authorization": f"Bearer {script}"}) == 200


# Broken connections


async def test_a_killed_listener_listens_again_and_has_missed_nothing(live_db: Live) -> None:
    async with client(process(live_db)) as api:
        for _ in range(3):
            mine = await opened(live_db.database)
            token = header(live_db, mine)
            assert await status(api, token) == 200
            await until(lambda: count(listeners(live_db)), "a listener")
            await databases.administer(f"select pg_terminate_backend(pid) {listeners(live_db)}")
            await end(live_db.database, mine.session_id)
            await until(partial(is_out, api, token), "the end, after the connection was lost")


async def test_without_listening_it_looks(live_db: Live) -> None:
    """The way past the pooler is broken, the one through it is not."""
    nowhere = "postgresql://nobody@127.0.0.1:1/nothing"
    settings = Settings(
        **{
            **live_db.settings.model_dump(exclude_unset=True),
            "database_url": live_db.url,
            "database_direct_url": nowhere,
        }
    )
    deaf = Live(live_db.url, live_db.settings, create_app(settings, live_db.url))
    deaf.app.state.notices.pace = TOLD
    async with client(deaf) as api:
        mine = await opened(live_db.database)
        token = header(live_db, mine)
        assert await status(api, token) == 200
        await end(live_db.database, mine.session_id)
        await until(lambda: is_out(api, token), "the end, without listening")


async def test_a_lost_notice_is_found_by_the_net(live_db: Live) -> None:
    async with client(process(live_db, Pace(look_seconds=0.1))) as api:
        mine = await opened(live_db.database)
        token = header(live_db, mine)
        assert await status(api, token) == 200
        owner = await asyncpg.connect(databases.raw(live_db.url))
        await owner.execute("alter table sessions disable trigger announce_end")
        await owner.close()
        await end(live_db.database, mine.session_id)
        await until(lambda: is_out(api, token), "the end that nobody told")


async def test_while_the_database_is_away_tokens_stay_good(live_db: Live) -> None:
    """The documented price; what ended meanwhile is known when the database is back."""
    name = make_url(live_db.url).database
    there = process(live_db)
    async with client(there) as api:
        mine, ended = await opened(live_db.database), await opened(live_db.database)
        tokens = header(live_db, mine), header(live_db, ended)
        assert [await status(api, each) for each in tokens] == [200, 200]
        heard = there.app.state.endings
        async with live_db.database.transaction(DOOR) as db:  # begun before the doors close
            await sessions.end(db, ended.session_id, "signed_out")
            await databases.administer(
                f"alter database {name} with allow_connections false",
                f"select pg_terminate_backend(pid) {listeners(live_db)}",
            )
            await until(lambda: there.app.state.notices._failed >= 2, "listening that fails")
        # The pool of the staff role is connected still, so the route works.
        assert await status(api, tokens[0]) == 200
        await databases.administer(f"alter database {name} with allow_connections true")
        await until(lambda: ended.session_id in heard, "what ended meanwhile")
        assert [await status(api, each) for each in tokens] == [200, 401]


async def test_a_server_starts_and_stops_without_a_database(
    live_db: Live, caplog: pytest.LogCaptureFixture
) -> None:
    app = create_app(live_db.settings, "postgresql://nobody@127.0.0.1:1/nothing")
    app.state.notices.pace = Pace(first_seconds=0.2, retry_seconds=0.01, rest_seconds=0.02)
    async with Live(live_db.url, live_db.settings, app).serving() as base:
        async with httpx2.AsyncClient(base_url=base, timeout=60) as api:
            assert (await api.get("/health")).status_code == 200
        await until(lambda: app.state.notices._failed > 40, "many attempts")
    lines = [record for record in caplog.records if record.name == "bursar.core.notices"]
    assert 3 <= len(lines) <= 20  # an outage fills no log
    assert all(record.levelname == "WARNING" for record in lines)


async def test_listening_stops_with_the_server(live_db: Live) -> None:
    async with client(process(live_db)):
        await until(lambda: count(listeners(live_db)), "the listener")
    await until(lambda: none_listens(live_db), "the end of the listener")


async def none_listens(live: Live) -> bool:
    return await count(listeners(live)) == 0


# What a process remembers


async def test_junk_on_the_channel_changes_nothing(live_db: Live) -> None:
    there = process(live_db)
    async with client(there):
        await until(lambda: count(listeners(live_db)), "the listener")
        known, marker = uuid4(), uuid4()
        for payload in ("", "junk", "x" * 7000, f"{known}", "ключ", "0" * 32 + "1"):
            await announce(live_db, CHANNEL, payload)
        await until(lambda: known in there.app.state.endings, "the only one that is an id")
        await announce(live_db, CHANNEL, str(marker))
        await until(lambda: marker in there.app.state.endings, "one after all the junk")
        assert len(there.app.state.endings) == 2


async def test_a_flood_of_notices_is_not_remembered_but_the_table_is(
    live_db: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rooms, "MOST_HEARD", 10)
    endings = Endings(live_db.database)
    for _ in range(50):
        endings.heard(str(uuid4()))
    assert len(endings) == 10
    mine = await opened(live_db.database)
    await end(live_db.database, mine.session_id)
    await endings.look()
    assert mine.session_id in endings


async def test_the_past_is_forgotten(live_db: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    endings = Endings(live_db.database)
    old, new = uuid4(), await opened(live_db.database)
    monkeypatch.setattr(rooms, "KEPT_SECONDS", -1)
    endings.heard(str(old))
    assert old in endings
    monkeypatch.setattr(rooms, "KEPT_SECONDS", 3600)
    await end(live_db.database, new.session_id)
    await endings.look()
    assert old not in endings
    assert new.session_id in endings


async def test_a_look_goes_back_as_far_as_it_must(live_db: Live) -> None:
    """The first one for the life of a token, the next ones to the last and a little further."""
    database = live_db.database
    ages = {"now": 0, "a minute": 1, "ten minutes": 10, "an hour": 60, "two hours": 120}
    ended = {age: (await opened(database)).session_id for age in ages}
    for session_id in ended.values():
        await end(database, session_id)
    owner = await asyncpg.connect(databases.raw(live_db.url))
    await owner.execute("alter table sessions disable trigger user")
    for age, minutes in ages.items():
        sql = "update sessions set ended_at = now() - $1::interval where id = $2"
        await owner.execute(sql, timedelta(minutes=minutes), ended[age])
    await owner.close()
    first = Endings(database)
    await first.look()
    assert {age for age in ages if ended[age] in first} == set(ages) - {"two hours"}
    later = Endings(database)
    later._looked_at = first._looked_at
    await later.look()
    assert {age for age in ages if ended[age] in later} == {"now", "a minute"}


async def test_an_end_that_commits_after_the_look_is_found_by_the_next(live_db: Live) -> None:
    endings = Endings(live_db.database)
    mine = await opened(live_db.database)
    async with live_db.database.transaction(DOOR) as db:
        await sessions.end(db, mine.session_id, "signed_out")
        await endings.look()
        assert mine.session_id not in endings
    await endings.look()
    assert mine.session_id in endings


async def test_the_look_goes_by_the_index(live_db: Live) -> None:
    async with live_db.database.transaction(DOOR) as db:
        await db.execute(text("set local enable_seqscan = off"))
        plan = await db.scalars(
            text("explain select id from sessions where ended_at > now() - interval '1 hour'")
        )
        assert "ix_sessions_ended_at" in "\n".join(plan)
