"""Customers and what belongs to them: /api/v1/users/{id}, where `me` is whoever asks."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Response

from bursar.accounts import queries, recovery
from bursar.accounts import service as accounts
from bursar.accounts.recovery import SignInAgain
from bursar.accounts.schemas import (
    Deletion,
    Preferences,
    Said,
    UserChange,
    UserOut,
)
from bursar.accounts.service import UsernameTaken
from bursar.accounts.sign_in import WrongCredentials
from bursar.auth.actor import Actor
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import customer, in_person
from bursar.auth.throttle import TooManyAttempts
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.idempotency import own_key
from bursar.core.problems import documented
from bursar.core.wire import Route

router = APIRouter(
    prefix="/users/{user_id}", tags=["users"], route_class=Route, dependencies=[customer]
)


def whose(user_id: str, actor: Actor) -> UUID:
    """The caller's own id, however they write it; anybody else's is not found."""
    if actor.customer is None or (user_id != "me" and parsed(user_id) != actor.customer):
        raise NotFound("There is no such customer.")
    return actor.customer


def parsed(user_id: str) -> UUID | None:
    try:
        return UUID(user_id)
    except ValueError:
        return None


def own(user_id: str, actor: Annotated[Actor, customer]) -> UUID:
    return whose(user_id, actor)


def own_in_person(user_id: str, actor: Annotated[Actor, in_person]) -> UUID:
    return whose(user_id, actor)


Own = Annotated[UUID, Depends(own)]
OwnInPerson = Annotated[UUID, Depends(own_in_person)]


@router.get("", responses=documented(NotFound))
async def read_user(db: Db, response: Response, me: Own) -> UserOut:
    """Your own account; nobody else's."""
    user = await queries.user(db, me)
    response.headers["ETag"] = etag.of(user.version, user.last_login)
    return UserOut.model_validate(user)


@router.put("", responses=documented(NotFound, UsernameTaken, PreconditionFailed))
async def change_user(
    db: Db,
    response: Response,
    actor: Annotated[Actor, customer],
    me: Own,
    body: UserChange,
    if_match: IfMatch = None,
) -> UserOut:
    """Changes what is given; the e-mail address has a route of its own, auth/change-email."""
    user = await accounts.change(db, me, body.facts(), by=actor, if_match=if_match)
    response.headers["ETag"] = etag.of(user.version, user.last_login)
    return UserOut.model_validate(user)


@router.get("/preferences", responses=documented(NotFound))
async def read_preferences(db: Db, response: Response, me: Own) -> Preferences:
    """What you have chosen, with the default for what you have not."""
    stored = await queries.preferences(db, me)
    response.headers["ETag"] = etag.of(stored.version if stored else 0)
    return Preferences.model_validate(stored.document if stored else {})


@router.put("/preferences", responses=documented(NotFound, PreconditionFailed))
async def change_preferences(
    db: Db, response: Response, me: Own, body: Preferences, if_match: IfMatch = None
) -> Preferences:
    """Replaces them as a whole; what is left out has its default again."""
    stored = await accounts.change_preferences(
        db, me, body.model_dump(mode="json"), if_match=if_match
    )
    response.headers["ETag"] = etag.of(stored.version)
    return Preferences.model_validate(stored.document)


@router.get("/export", responses=documented(NotFound))
async def export(db: Db, response: Response, me: OwnInPerson) -> dict[str, Any]:
    """Your account, preferences, open sessions and identities at OpenID providers, and what other
    parts of Bursar keep for you, as JSON to take away."""
    user = UserOut.model_validate(await queries.user(db, me))
    stored = await queries.preferences(db, me)
    chosen = Preferences.model_validate(stored.document if stored else {})
    parts = {part: await read(db, me) for part, read in sorted(queries.personal_data.items())}
    response.headers["Content-Disposition"] = 'attachment; filename="my-data.json"'
    return {
        "exported_at": datetime.now(UTC),
        "user": user.model_dump(mode="json"),
        "preferences": chosen.model_dump(mode="json"),
        **parts,
    }


@router.post(
    "/deletion",
    status_code=202,
    responses=documented(NotFound, WrongCredentials, SignInAgain, TooManyAttempts),
)
@own_key
async def delete_own(door: AtDoor, me: OwnInPerson, body: Deletion) -> Said:
    """Closes your account and signs you out; your personal data is erased after a grace time."""
    await recovery.prove_password(door, body.password)
    async with door.transaction() as db:
        await accounts.delete_own(db, me)
    return Said(message="Your account is closed. Write to support soon if you want it back.")
