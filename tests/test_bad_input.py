"""Whatever is sent in whatever field: a clear problem document, never a 5xx, nothing half-written.

The fields are those of the OpenAPI document, so a new one is tried by itself.
"""

import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from bursar.app import create_app
from tests import databases
from tests.matrix import CALLERS, EVERYBODY, OF_CUSTOMERS, SERVICES, STATED, Caller
from tests.scene import BODIES, Scene, opened

APP = create_app(databases.test_settings(), "postgresql://nowhere/nothing")
DOCUMENT = APP.openapi()
OPERATIONS = {
    f"{method.upper()} {path}": operation
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
OTHER_BODIES = {"POST /api/v1/api-keys/leaks"}  # a list: tests/keys/test_leaks.py
WITH_BODY = sorted(  # of JSON; what a file may hold its own tests try
    route
    for route in OPERATIONS.keys() - OTHER_BODIES
    if "application/json" in OPERATIONS[route].get("requestBody", {}).get("content", {})
)
READ = sorted(route for route in OPERATIONS if route.startswith("GET"))

# Each as it stands in the JSON text, with the JSON type that it is of.
UNSTORABLE = {
    "NUL": '"a\\u0000b"',
    "NUL alone": '"\\u0000"',
    "half a character": '"a\\ud800b"',
    "halves in the wrong order": '"\\udc00\\ud800"',
}
STRANGE = {
    "10,000 letters": json.dumps("x" * 10_000),
    "150 letters": json.dumps("x" * 150),
    "200 letters in words": json.dumps("x " * 99 + "x"),
    "254 letters": json.dumps("a" * 64 + "@" + "b" * 60 + "." + "c" * 63 + "." + "d" * 60 + ".com"),
    "empty": '""',
    "blank": '" \\t "',
    "bell": '"a\\u0007b@example.com"',
    "line break": '"carl@example.com\\nBcc: dora@example.com"',
    "C1 control": '"a\\u0085b"',
    "writing turned": '"a\\u202egpj.exe"',
    "nothing to be seen": '"\\u200b\\u200d"',
    "full width": '"\\uff43\\uff41\\uff52\\uff4c\\uff20example.com"',
    "Cyrillic before the @": '"c\\u0430rl@example.com"',
    "Cyrillic after the @": '"carl@ex\\u0430mple.com"',
    "a heap of accents": json.dumps("e" + "\u0301" * 90),
    "outside of the plane": '"\\ud83e\\udda6\\ud83e\\udda6\\ud83e\\udda6\\ud83e\\udda6"',
    "SQL": '"\'; drop table users; --"',
    "template": '"{{7*7}}${7*7}<script>alert(1)</script>"',
}
TYPES = {
    "null": "null",
    "boolean": "true",
    "as good as true": "1",
    "as good as false": '"no"',
    "digits": '"7"',
    "integer": "7",
    "number": "1.5",
    "huge": "1" + "0" * 400,
    "hugest": "1e400",
    "minus nothing": "-0.0",
    "array": '["carl@example.com"]',
    "object": '{"email": "carl@example.com"}',
    "deep array": "[" * 200 + "]" * 200,
    "deep object": '{"a":' * 200 + "1" + "}" * 200,
}
NOT_JSON = {
    "NaN": "NaN",
    "infinity": "Infinity",
    "without end": "1e999999999",
    "without any end": "1e99999999999999999999",
    "no value": "",
}
BODIES_THAT_ARE_NONE = {
    "nothing": b"",
    "blank": b"  ",
    "half of one": b'{"email": "carl@exam',
    "text": b"email=carl@example.com&password=x",
    "null": b"null",
    "array": b"[]",
    "number": b"7",
    "number with a fraction": b"1.5",
    "not UTF-8": b'{"email": "\xff\xfe"}',
    "UTF-16": '{"email": "carl@example.com"}'.encode("utf-16"),
    "very deep arrays": b"[" * 100_000,
    "very deep objects": b'{"a":' * 100_000,
    "a digit for long": b"9" * 100_000,
}


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    async with opened() as scene:
        yield scene


def caller_for(route: str) -> Caller:
    words = STATED[route]
    name = "carl, customer" if words in OF_CUSTOMERS else "olivia, owner"
    name = "another service" if words == SERVICES else name
    return next(c for c in CALLERS if c.name == ("nobody" if words == EVERYBODY else name))


def fields(route: str) -> dict[str, dict[str, Any]]:
    """The schema of each field of the body by the name that it is sent under."""
    body = OPERATIONS[route]["requestBody"]["content"]["application/json"]["schema"]
    return {**{key: {} for key in BODIES[route]}, **resolved(body).get("properties", {})}


def resolved(schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" in schema:
        return DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def types_of(schema: dict[str, Any]) -> set[str]:
    """The JSON types that a field takes; none are stated where it takes any."""
    schema = resolved(schema)
    options = schema.get("anyOf") or schema.get("oneOf") or []
    types = {schema["type"]} if "type" in schema else set().union(*map(types_of, options))
    return types | {"integer"} if "number" in types else types


def with_value(route: str, name: str, text: str) -> bytes:
    """The plausible body with the one field as this text."""
    rest = {key: value for key, value in BODIES[route].items() if key != name}
    parts = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rest.items()]
    return ("{" + ", ".join([*parts, f"{json.dumps(name)}: {text}"]) + "}").encode()


class Attempt:
    """Sends bad bodies to one route, and looks at what is written after each."""

    def __init__(self, scene: Scene, route: str) -> None:
        self.scene, self.route, self.caller = scene, route, caller_for(route)

    async def begin(self) -> "Attempt":
        await self.scene.begin()
        self.before = await self.written()
        return self

    async def written(self) -> dict[str, Any]:
        found = await self.scene.fingerprint()
        del found["attempts"]  # what is counted stays counted
        return found

    async def send(self, what: str, body: bytes, **headers: str) -> httpx2.Response:
        await self.scene.database.execute("delete from attempts; delete from meters")
        method, path = self.route.split()[0], self.scene.path(self.route, self.caller)
        token, _ = self.scene.signed_in[self.caller.name]
        headers = {"Content-Type": "application/json", **headers}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        answer = await self.scene.api.request(method, path, content=body, headers=headers)
        assert answer.status_code < 500, f"{what}: {answer.text}"
        await self.look(what, answer)
        return answer

    async def look(self, what: str, answer: httpx2.Response) -> None:
        """A wrong password may be counted and audited; nothing else that failed may write.

        What was taken may have changed the scene, which then is set again.
        """
        before, self.before = self.before, await self.written()
        if answer.status_code < 400:
            changed = {table for table in before if self.before[table] != before[table]}
            if changed & self.scene.tables:
                await self.begin()
            return
        assert_clear(what, answer)
        if answer.status_code != 401:
            assert self.before == before, f"{what}: refused, and wrote: {answer.text}"


def assert_clear(what: str, answer: httpx2.Response) -> None:
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json", what
    assert document["status"] == answer.status_code, what
    assert document["detail"], what
    assert document["code"], what
    assert len(answer.content) < 20_000, f"{what}: the answer repeats what was sent"


def test_the_document_and_the_scene_know_the_same_bodies() -> None:
    assert set(WITH_BODY) == set(BODIES) - OTHER_BODIES


@pytest.mark.parametrize("route", WITH_BODY)
async def test_every_text_in_every_field(scene: Scene, route: str) -> None:
    attempt = await Attempt(scene, route).begin()
    for name in fields(route):
        for what, text in UNSTORABLE.items():
            answer = await attempt.send(f"{name}: {what}", with_value(route, name, text))
            assert answer.status_code == 422, f"{name}: {what}: {answer.text}"
        for what, text in STRANGE.items():
            await attempt.send(f"{name}: {what}", with_value(route, name, text))


@pytest.mark.parametrize("route", WITH_BODY)
async def test_every_type_in_every_field(scene: Scene, route: str) -> None:
    """A type that the document does not name is refused; one that it names may be fine."""
    attempt = await Attempt(scene, route).begin()
    for name, schema in fields(route).items():
        taken = types_of(schema)
        for what, text in TYPES.items():
            answer = await attempt.send(f"{name}: {what}", with_value(route, name, text))
            if taken and json_type(text) not in taken:
                assert answer.status_code == 422, f"{name}: {what}: {answer.text}"
        for what, text in NOT_JSON.items():
            answer = await attempt.send(f"{name}: {what}", with_value(route, name, text))
            assert answer.status_code == 422, f"{name}: {what}: {answer.text}"


def json_type(text: str) -> str:
    first = {"n": "null", "t": "boolean", "[": "array", "{": "object", '"': "string"}
    return first.get(text[0], "number" if text == "1.5" else "integer")  # 1e400 has no fraction


@pytest.mark.parametrize("route", WITH_BODY)
async def test_every_body_that_is_none(scene: Scene, route: str) -> None:
    attempt = await Attempt(scene, route).begin()
    may_be_left_out = not OPERATIONS[route]["requestBody"].get("required", False)
    for what, body in BODIES_THAT_ARE_NONE.items():
        answer = await attempt.send(what, body)
        if may_be_left_out and what in ("nothing", "null"):
            continue
        assert answer.status_code == 422, f"{what}: {answer.text}"
    whole = json.dumps(BODIES[route]).encode()
    as_form = await attempt.send("as a form", whole, **{"Content-Type": "multipart/form-data"})
    assert as_form.status_code in (415, 422)
    settings, is_batch = attempt.scene.live.settings, route.split()[1] in APP.state.ways.batch_paths
    most = settings.max_batch_bytes if is_batch else settings.max_body_bytes
    too_large = await attempt.send("too large", whole[:-1] + b" " * most + b"}")
    assert (too_large.status_code, too_large.json()["code"]) == (413, "body.too_large")


@pytest.mark.parametrize("route", [route for route in WITH_BODY if STATED[route] != EVERYBODY])
async def test_a_strangers_body_is_nothing_to_us(scene: Scene, route: str) -> None:
    """Who may not is told so before what they sent is looked at."""
    method, path = route.split()[0], scene.path(route, None, absent=True)
    headers = {"Content-Type": "application/json"}
    for what, body in BODIES_THAT_ARE_NONE.items():
        answer = await scene.api.request(method, path, content=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "auth.sign_in_needed"), what


@pytest.mark.parametrize("route", WITH_BODY)
async def test_a_field_that_is_sent_twice(scene: Scene, route: str) -> None:
    """One of the two counts, always the last, so nothing that was checked is not what is used."""
    attempt = await Attempt(scene, route).begin()
    for name in BODIES[route]:
        good = json.dumps({name: BODIES[route][name]})[1:-1].encode()
        twice = b"{" + good + b", " + with_value(route, name, "[[7]]")[1:]
        if name in ("value", "charges", "events", "outcomes"):
            continue  # of a setting any type may be right; of many items each has its own answer
        answer = await attempt.send(f"{name} twice", twice)
        assert answer.status_code == 422, f"{name}: {answer.text}"


LONG, ODD = "x" * 3000, "\u202e\u0430"
PIECES = ["%00", "%ED%A0%80", "%FF", "..%2f..", quote(ODD), LONG, "%0d%0aX-Evil:%201", "-1", "%27"]


@pytest.mark.parametrize("route", READ)
async def test_every_place_in_an_address(scene: Scene, route: str) -> None:
    await scene.begin()
    caller = caller_for(route)
    for place in OPERATIONS[route].get("parameters", ()):
        for piece in PIECES:
            path = scene.path(route, caller)
            if place["in"] == "path":
                path = route.split()[1].replace("{" + place["name"] + "}", piece)
            elif place["in"] == "query":
                path = f"{path}?{place['name']}={piece}"
            else:
                continue
            what = f"{place['name']}={piece[:20]}"
            answer = await scene.call(route, caller, path)
            assert answer.status_code < 500, f"{what}: {answer.text}"
            assert "x-evil" not in answer.headers, what
            if answer.status_code >= 400:
                assert_clear(what, answer)


@pytest.mark.parametrize("name", ["token", "email", "name", "password", "again"])
async def test_every_field_of_the_first_form(scene: Scene, name: str) -> None:
    """The one page that takes a form before anybody has an account; it answers pages."""
    await scene.begin()
    untouched = await scene.fingerprint()
    good = {"token": "x" * 43, "email": "a@example.com", "name": "A", "password": "p" * 12}
    for value in ("", "x" * 10_000, "a\0b", "\u202eb", "\U0001f9a6", "a\nb", "<script>alert(1)"):
        form = {**good, "again": good["password"], name: value}
        answer = await scene.api.post("/first-run", data=form)
        assert 400 <= answer.status_code < 500, (value[:20], answer.text)
        assert "<script>alert(1)" not in answer.text
    found = await scene.fingerprint()
    assert {**found, "attempts": None} == {**untouched, "attempts": None}
