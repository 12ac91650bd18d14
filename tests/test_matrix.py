"""Every route times every kind of caller, times what is theirs and what is not.

Generated from the routes of the application; who may is read from the statement of tests/matrix.py.
"""

from collections.abc import AsyncIterator
from itertools import count
from typing import Any

import httpx2
import pytest
from fastapi.routing import iter_route_contexts

from bursar.app import create_app
from bursar.auth.actor import Kind
from tests import databases, matrix
from tests.matrix import AND_STAFF, CALLERS, METRICS, ONLY_ONES_OWN, STATED, Caller, Refusal
from tests.scene import BODIES, Scene, opened
from tests.world import CARL, DORA, OLIVIA

METRICS_TOKEN = "a token that only the collector knows"

# Nobody gets further here without what the matrix has not: a link from a mail, an authenticator,
# a provider. What they get instead may itself be a 401, of these routes' own.
NEEDS_MORE = {
    "GET /metrics": set(),
    "GET /ready": set(),  # 503 as long as no worker runs
    "GET /demo-payments/{payment_id}": set(),
    "POST /demo-payments/{payment_id}": set(),
    "POST /api/v1/payments/webhook": set(),
    "POST /api/v1/payments/webhooks/{provider}": set(),
    "POST /api/v1/admin/bank-statements": set(),  # a file, which is no JSON
    "GET /first-run": set(),
    "POST /first-run": set(),
    "POST /api/v1/auth/refresh": {"auth.bad_refresh_token"},
    "POST /api/v1/auth/verify-email": set(),
    "POST /api/v1/auth/reset-password": set(),
    "POST /api/v1/admin/auth/refresh": {"auth.bad_refresh_token"},
    "POST /api/v1/admin/auth/accept-invitation": set(),
    "POST /api/v1/admin/auth/reset-password": set(),
    "POST /api/v1/admin/auth/oidc/code": {"accounts.oidc_bad_flow"},
    "GET /api/v1/auth/oidc/start": set(),
    "GET /api/v1/auth/oidc/callback": set(),
    "GET /api/v1/admin/auth/oidc/start": set(),
    "GET /api/v1/admin/auth/oidc/callback": set(),
    "POST /api/v1/admin/auth/totp/confirmation": {"accounts.wrong_code", "accounts.no_account"},
    "DELETE /api/v1/admin/auth/totp": {"accounts.wrong_code"},
    "POST /api/v1/admin/auth/recovery-codes": {"accounts.wrong_code", "accounts.no_account"},
}
# The operator of the machine is nobody of the staff table: no password, no second factor.
OPERATORS_OWN = {"accounts.wrong_credentials", "accounts.no_account"}


def known_routes() -> list[str]:
    """`GET /api/v1/auth/me` for every one that the application has."""
    app = create_app(databases.test_settings(), "postgresql://nowhere/nothing")
    return sorted(
        f"{method} {context.path_format}"
        for context in iter_route_contexts(app.routes)
        for method in context.methods or ()
    )


ROUTES = known_routes()
numbers = count(1)


def test_the_statement_names_every_route_and_no_other() -> None:
    assert set(ROUTES) - set(STATED) == set(), "say in tests/matrix.py who may call these"
    assert set(STATED) - set(ROUTES) == set(), "these are gone"
    assert (set(BODIES) | set(NEEDS_MORE)) - set(ROUTES) == set(), "these are gone"


@pytest.fixture(scope="module")
async def scene() -> AsyncIterator[Scene]:
    """One for the whole of the matrix."""
    async with opened(metrics_token=METRICS_TOKEN) as scene:
        yield scene


def refusals(route: str) -> list[tuple[Caller, Refusal]]:
    method = route.split()[0]
    outcomes = [(caller, caller.refused(STATED[route], method)) for caller in CALLERS]
    return [(caller, refused) for caller, refused in outcomes if refused]


def let_in(route: str) -> list[Caller]:
    method = route.split()[0]
    return [caller for caller in CALLERS if not caller.refused(STATED[route], method)]


@pytest.mark.parametrize("route", [r for r in ROUTES if STATED.get(r) not in (None, "everybody")])
async def test_who_may_not_is_refused_and_changes_nothing(scene: Scene, route: str) -> None:
    await scene.begin()
    untouched = await scene.fingerprint()
    for caller, (status, codes) in refusals(route):
        headers = {"Idempotency-Key": f"key-{next(numbers)}"} if route.startswith("POST") else {}
        answer = await scene.call(route, caller, scene.path(route, None), **headers)
        assert answer.status_code == status, f"{caller.name}: {answer.text}"
        assert answer.json()["code"] in codes, f"{caller.name}: {answer.text}"
        assert answer.headers["content-type"] == "application/problem+json", caller.name
        assert "etag" not in answer.headers, caller.name
        assert (status == 401) == ("www-authenticate" in answer.headers), caller.name
        assert await scene.fingerprint() == untouched, f"{caller.name} was refused, and wrote"


@pytest.mark.parametrize("route", [r for r in ROUTES if STATED.get(r) not in (None, METRICS)])
async def test_who_may_is_let_in(scene: Scene, route: str) -> None:
    """And somebody gets what they asked for, or the request was none that says anything."""
    statuses = set()
    callers = let_in(route)
    assert callers
    await scene.begin()
    for caller in callers:
        answer = await scene.call(route, caller, scene.path(route, caller))
        status = answer.status_code
        statuses.add(status)
        if status in (401, 403):
            fine = NEEDS_MORE.get(route, set())
            fine = fine | (OPERATORS_OWN if caller.name == "operator" else set())
            assert answer.json()["code"] in fine, f"{caller.name}: {answer.text}"
        assert status < 500 or (route, status) == ("GET /ready", 503), f"{caller.name}: {status}"
        assert status != 405, caller.name
        if not route.startswith("GET"):
            await scene.begin()
    assert route in NEEDS_MORE or min(statuses) < 400, f"nobody got through: {statuses}"


def has_an_owner(route: str) -> bool:
    words = STATED.get(route, "")
    return "{" in route and (words in ONLY_ONES_OWN or words.startswith(AND_STAFF))


@pytest.mark.parametrize("route", [r for r in ROUTES if has_an_owner(r)])
async def test_what_belongs_to_somebody_else_is_not_found(scene: Scene, route: str) -> None:
    """With the very answer that an id gets which nobody has, so that nobody learns that it is."""
    await scene.begin()
    untouched = await scene.fingerprint()
    absent = scene.path(route, None, absent=True)
    for caller in let_in(route):
        if STATED[route].startswith(AND_STAFF) and caller.actor not in (CARL, DORA):
            continue  # staff may look at anybody's
        for owner in CALLERS:
            if owner.actor is None or owner.actor.id == (caller.actor and caller.actor.id):
                continue
            path = scene.path(route, owner)
            if path in (absent, scene.path(route, caller)):
                continue  # the operator has no session, and staff no wallet
            foreign = await scene.call(route, caller, path)
            unknown = await scene.call(route, caller, absent)
            assert foreign.status_code == 404, f"{caller.name} at {owner.name}: {foreign.text}"
            assert plain(foreign) == plain(unknown), f"{caller.name} at {owner.name}"
    assert await scene.fingerprint() == untouched


def plain(answer: httpx2.Response) -> tuple[int, list[str], dict[str, Any]]:
    """All that a caller could compare, but for what is different each time."""
    document = {key: value for key, value in answer.json().items() if key != "request_id"}
    return answer.status_code, sorted(answer.headers), document


@pytest.mark.parametrize(
    "route", [r for r in ROUTES if "{" in r and STATED.get(r) not in (None, *ONLY_ONES_OWN)]
)
async def test_what_is_not_there_is_not_found(scene: Scene, route: str) -> None:
    await scene.begin()
    untouched = await scene.fingerprint()
    for caller in let_in(route):
        answer = await scene.call(route, caller, scene.path(route, None, absent=True))
        assert answer.status_code == 404, f"{caller.name}: {answer.text}"
    assert await scene.fingerprint() == untouched


async def test_me_is_whoever_asks(scene: Scene) -> None:
    """The matrix asks by id; `me` must never be anybody else."""
    await scene.begin()
    for caller in let_in("GET /api/v1/users/{user_id}"):
        answer = await scene.call("GET /api/v1/users/{user_id}", caller, "/api/v1/users/me")
        assert caller.actor
        assert answer.json()["id"] == str(caller.actor.id), caller.name


@pytest.mark.parametrize("name", ["sue, support", "adam, administrator", "olivia, owner"])
async def test_to_change_things_as_a_customer_takes_a_permission_of_its_own(
    scene: Scene, name: str
) -> None:
    """The one thing that a body asks for and not the route."""
    await scene.begin()
    untouched = await scene.fingerprint()
    answer = await scene.api.post(
        f"/api/v1/admin/users/{DORA.id}/impersonation",
        json={"reason": "They wrote to us", "write": True},
        headers={"Authorization": f"Bearer {scene.signed_in[name][0]}"},
    )
    if name == "sue, support":
        assert (answer.status_code, answer.json()["code"]) == (403, "auth.not_allowed")
        assert await scene.fingerprint() == untouched
    else:
        assert (answer.status_code, answer.json()["scope"]) == (200, "full")


def test_every_kind_of_caller_tries() -> None:
    """So that a new role of staff joins in."""
    roles = {caller.actor.role for caller in CALLERS if caller.actor}
    assert roles == {*matrix.StaffRole, None}
    assert {caller.scope for caller in CALLERS} == set(matrix.Scope)
    assert OLIVIA.kind is Kind.STAFF
