"""The first owner: by the link that the first start prints, or by the operator's command."""

import asyncio
import os
import pty
import re
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import timedelta
from html.parser import HTMLParser
from typing import Any

import httpx2
import pytest

from bursar.accounts import joining
from tests import databases
from tests.accounts.colleagues import (
    DOOR,
    OWNER,
    STAFF,
    door,
    everything_audited,
    hire,
    log_in,
    try_login,
)
from tests.accounts.people import OTHER_PASSWORD, PASSWORD, actions, rows
from tests.conftest import Live
from tests.databases import SECRET
from tests.programs import Run, Serving, bursar, serving
from tests.world import OLIVIA

PAGE = "/first-run"
LINK = re.compile(r"http://\S+/first-run\?token=([A-Za-z0-9_-]{43})\n")
HTML = "text/html; charset=utf-8"
# Of those who were let in one after the other, by the clock and not by when they came to the door.
IN_ORDER = """
  select email from admin_users join audit_logs on target_id = admin_users.id::text
  where event_type = 'staff.created' order by occurred_at
"""


async def link(live: Live) -> str:
    token = await joining.first_link(door(live))
    assert token
    return token


def form(token: str, **given: str) -> dict[str, str]:
    whole = {"token": token, "email": "olivia@example.com", "name": "Olivia Owens"}
    return {**whole, "password": PASSWORD, "again": PASSWORD, **given}


class Page(HTMLParser):
    """What a browser and a screen reader make of a page."""

    def __init__(self, answer: httpx2.Response) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(answer.text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


# The page


async def test_whoever_has_the_link_becomes_the_first_owner(live_db: Live) -> None:
    token = await link(live_db)
    async with live_db.api() as api:
        shown = await api.get(PAGE, params={"token": token})
        assert (shown.status_code, shown.headers["content-type"]) == (200, HTML)
        sent = await api.post(PAGE, data=form(token))
        assert (sent.status_code, sent.headers["location"]) == (303, f"{PAGE}/done")
        assert (await api.get(f"{PAGE}/done")).status_code == 200
        olivia = await log_in(api, "olivia")
        me = (await api.get(f"{DOOR}/me", headers=olivia.signed)).json()
        assert (me["role"], me["name"], me["scope"]) == ("owner", "Olivia Owens", "full")
        assert (await api.get(STAFF, headers=olivia.signed)).json()["total"] == 1
    assert (await actions(live_db, olivia.id))[0] == "staff.created"
    trail = await everything_audited(live_db)
    assert token not in trail
    assert PASSWORD not in trail


async def test_the_link_is_good_once_and_only_while_nobody_works_here(live_db: Live) -> None:
    token = await link(live_db)
    async with live_db.api() as api:
        await api.post(PAGE, data=form(token))
        second = await api.post(PAGE, data=form(token, email="eve@example.com"))
        look = await api.get(PAGE, params={"token": token})
    assert (second.status_code, look.status_code) == (404, 404)
    assert "used or too old" in second.text
    assert await joining.first_link(door(live_db)) is None
    assert len(await rows(live_db, "select 1 from admin_users")) == 1


async def test_somebody_who_came_in_between_voids_it(live_db: Live) -> None:
    """Also who was only invited, and who has left again: this is no new installation any more."""
    token = await link(live_db)
    async with live_db.api(OLIVIA) as boss, live_db.api() as api:
        ivan = (await boss.post(STAFF, json={"email": "i@example.com", "role": "analyst"})).json()
        for _ in range(2):
            assert (await api.get(PAGE, params={"token": token})).status_code == 404
            assert (await api.post(PAGE, data=form(token))).status_code == 404
            await boss.delete(f"{STAFF}/{ivan['id']}")
    assert await rows(live_db, "select 1 from admin_users where role = 'owner'") == []


async def test_a_newer_link_voids_the_older_and_time_voids_all(live_db: Live) -> None:
    old, new = await link(live_db), await link(live_db)
    async with live_db.api() as api:
        assert (await api.post(PAGE, data=form(old))).status_code == 404
        assert (await api.get(PAGE, params={"token": new})).status_code == 200
        [row] = await rows(live_db, "select expires_at - now() as left from one_time_tokens")
        assert timedelta(hours=1) < row["left"] <= timedelta(hours=24)
        await rows(live_db, "update one_time_tokens set expires_at = now()")
        assert (await api.get(PAGE, params={"token": new})).status_code == 404
        assert (await api.post(PAGE, data=form(new))).status_code == 404


async def test_of_many_at_once_with_the_link_and_the_command_one_is_first(live_db: Live) -> None:
    token = await link(live_db)
    async with live_db.api() as api:
        sent = [api.post(PAGE, data=form(token, email=f"o{n}@example.com")) for n in range(4)]
        answers = await asyncio.gather(*sent, hire(live_db, "olivia", OWNER))
    let_in = [a for a in answers if isinstance(a, httpx2.Response) and a.status_code == 303]
    made = await rows(live_db, "select email from admin_users where role = 'owner'")
    assert len(let_in) <= 1
    assert len(made) == 1 + len(let_in)  # the command always may; the link only if it was first
    if let_in:
        [first, *_] = await rows(live_db, IN_ORDER)
        assert first["email"] != "olivia@example.com"


@pytest.mark.parametrize("token", ["", "x", "x" * 43, "x" * 1000, "é" * 43, "\0" * 43])
async def test_a_token_that_is_none(live_db: Live, token: str) -> None:
    await link(live_db)
    async with live_db.api() as api:
        assert (await api.get(PAGE, params={"token": token})).status_code in (404, 422)
        assert (await api.post(PAGE, data=form(token))).status_code in (404, 422)
    assert await rows(live_db, "select 1 from admin_users") == []


async def test_guessing_tokens_ends_early(live_db: Live) -> None:
    async with live_db.api() as api:
        for _ in range(20):
            assert (await api.get(PAGE, params={"token": "x" * 43})).status_code == 404
        answer = await api.get(PAGE, params={"token": "x" * 43})
    assert (answer.status_code, answer.headers["content-type"]) == (429, HTML)
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", ""),
        ("email", "no address"),
        ("email", "<script>alert(1)</script>@example.com"),
        ("email", "о@example.com"),
        ("name", "two\nlines"),
        ("name", "x" * 201),
        ("name", "\0"),
        ("password", "short"),
        ("password", "long enough, but \0"),
        ("password", "p" * 1500),
        ("password", "password"),
        ("password", "olivia@example.com"),
        ("again", OTHER_PASSWORD),
    ],
)
async def test_a_mistake_is_said_beside_its_field_and_costs_nothing(
    live_db: Live, field: str, value: str
) -> None:
    token = await link(live_db)
    given = {field: value, **({"again": value} if field == "password" else {})}
    async with live_db.api() as api:
        answer = await api.post(PAGE, data=form(token, **given))
        assert (answer.status_code, answer.headers["content-type"]) == (422, HTML)
        marked = [each for each in Page(answer).all("input") if "aria-invalid" in each]
        assert [each["name"] for each in marked] == [field]
        assert f"{field}-error" in (marked[0]["aria-describedby"] or "")
        assert "<script>" not in answer.text
        hidden = [one for one in Page(answer).all("input") if one["type"] == "password"]
        assert {one["value"] for one in hidden} == {""}
        assert (await api.post(PAGE, data=form(token))).status_code == 303


async def test_the_page_is_for_everybody_and_needs_no_script(live_db: Live) -> None:
    token = await link(live_db)
    async with live_db.api() as api:
        answers = [
            await api.get(PAGE, params={"token": token}),
            await api.post(PAGE, data=form(token, again="")),
            await api.get(PAGE),
            await api.get(f"{PAGE}/done"),
        ]
        style = await api.get(f"{PAGE}/page.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    for answer in answers:
        page = Page(answer)
        assert page.all("html") == [{"lang": "en"}]
        assert len(page.all("title")) == len(page.all("h1")) == len(page.all("main")) == 1
        assert page.all("script") == []
        assert not [one for _, one in page.found if "style" in one or "onclick" in one]
        labelled = {one["for"] for one in page.all("label")}
        visible = [one for one in page.all("input") if one["type"] != "hidden"]
        assert {one["id"] for one in visible} == labelled
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "form-action 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
    fields = {one["name"]: one["autocomplete"] for one in Page(answers[0]).all("input")[1:]}
    assert fields["password"] == fields["again"] == "new-password"
    assert fields["email"] == "username"


# `bursar serve` and `bursar staff`, as processes


@pytest.fixture
async def elsewhere() -> AsyncIterator[dict[str, str]]:
    """An external database, migrated."""
    url = await databases.clone()
    yield {"DATABASE_URL": url, "BURSAR_SECRET_KEY": SECRET}
    await databases.discard(url)


def printed(server: Serving) -> str:
    found = LINK.search(server.until_said("/first-run"))
    assert found, server.said
    assert found[0].startswith(server.base)
    return found[1]


def post(server: Serving, path: str, **given: Any) -> httpx2.Response:
    return server.client.post(server.base + path, **given)


def create(email: str, *more: object, password: str = PASSWORD, **how: Any) -> Any:
    reading, writing = os.pipe()
    os.write(writing, f"{password}\n".encode())
    os.close(writing)
    with os.fdopen(reading) as stdin:
        command = ("staff", "create", email, "--role", "owner", "--password-stdin", *more)
        return bursar(*command, stdin=stdin, **how)


async def test_the_command_on_an_external_database(
    elsewhere: dict[str, str], live_db: Live
) -> None:
    made = create("olivia@example.com", DATABASE_URL=live_db.url, BURSAR_SECRET_KEY=SECRET)
    assert made.code == 0, made.stderr
    async with live_db.api() as api:
        olivia = await log_in(api, "olivia")
    [row] = await rows(live_db, "select * from audit_logs where event_type = 'staff.created'")
    assert (row["actor_kind"], row["target_id"]) == ("staff", olivia.id)
    with serving(**elsewhere) as server:
        assert server.get(f"{PAGE}?token={printed(server)}").status_code == 200


def test_the_link_is_where_people_reach_bursar(elsewhere: dict[str, str]) -> None:
    with serving(**elsewhere, BURSAR_PUBLIC_URL="https://bursar.example.com") as server:
        assert "https://bursar.example.com/first-run?token=" in server.until_said("first-run")


@pytest.mark.parametrize(
    ("email", "password", "code", "hint"),
    [
        ("olivia@example.com", "short", 1, "fewer than 8 characters"),
        ("olivia@example.com", "password", 1, "one of the first that anybody would try"),
        ("olivia@example.com", "olivia@example.com", 1, "e-mail address or name"),
        ("olivia@example.com", "", 2, "Standard input has to be the password, on one line."),
        ("olivia@example.com", "one\ntwo", 2, "Standard input has to be the password"),
        ("olivia@example.com", "x" * 5000, 2, "Standard input has to be the password"),
        ("olivia", PASSWORD, 2, "Invalid value for EMAIL"),
        ("olivia@example.com\n", PASSWORD, 2, "no control characters"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_done(
    email: str, password: str, code: int, hint: str, elsewhere: dict[str, str]
) -> None:
    ended = create(email, password=password, **elsewhere)
    assert ended.code == code
    assert hint in ended.line
    assert password not in ended.line or password in ("", "password")
    assert bursar("staff", "list", **elsewhere).stdout == ""


def test_wrong_use_of_the_command(elsewhere: dict[str, str]) -> None:
    for arguments, hint in (
        (["olivia@example.com"], "Missing option '--role'"),
        (["olivia@example.com", "--role", "king"], "there are: owner, administrator"),
        (["--role", "owner"], "Missing argument 'EMAIL'"),
        (["olivia@example.com", "--role", "owner"], "nobody to ask for a password here; add"),
        (["o@example.com", "--role", "owner", "--name", "a\nb"], "text on one line"),
        (["o@example.com", "--role", "owner", "--name", "x" * 201], "at most 200 characters"),
    ):
        ended = bursar("staff", "create", *arguments, **elsewhere)
        assert ended.code == 2
        assert hint in ended.line


@pytest.mark.parametrize(
    ("typed", "code"),
    [([PASSWORD, PASSWORD], 0), ([PASSWORD, OTHER_PASSWORD], 1), ([PASSWORD, "\x04"], 1)],
    ids=["twice", "differently", "given up"],
)
async def test_a_person_is_asked_twice_and_nobody_sees_what_they_type(
    typed: list[str], code: int, live_db: Live
) -> None:
    given = {"DATABASE_URL": live_db.url, "BURSAR_SECRET_KEY": SECRET}
    person, terminal = pty.openpty()
    run = Run("staff", "create", "o@example.com", "--role", "owner", stdin=terminal, **given)
    for question, answer in zip(("Password: ", "Once more: "), typed, strict=True):
        await asyncio.to_thread(run.until_said, question)
        os.write(person, answer.encode() if answer == "\x04" else f"{answer}\n".encode())
    ended = await asyncio.to_thread(run.end)
    os.set_blocking(person, False)
    with suppress(BlockingIOError):  # it may be that nothing was echoed at all
        assert PASSWORD.encode() not in os.read(person, 1000)
    run.discard()
    os.close(person)
    os.close(terminal)
    assert ended.code == code
    assert PASSWORD not in ended.stderr
    async with live_db.api() as api:
        answer_of_door = await try_login(api, "o")
    assert answer_of_door.status_code == (200 if code == 0 else 401)
