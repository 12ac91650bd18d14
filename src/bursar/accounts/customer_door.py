"""How customers come in, stay in, and prove who they are: everything under /api/v1/auth."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request

from bursar.accounts import queries, recovery, sign_in
from bursar.accounts import service as accounts
from bursar.accounts.recovery import SignInAgain
from bursar.accounts.schemas import (
    EmailChange,
    EmailOnly,
    Link,
    NewPasswordByLink,
    PasswordChange,
    Refresh,
    Said,
    SessionList,
    SessionOut,
    SessionsEnded,
    SignedInOut,
    SignIn,
    SignUp,
    UserOut,
)
from bursar.accounts.service import EmailTaken, SignUpClosed, UsernameTaken
from bursar.accounts.sign_in import Locked, Suspended, WrongCredentials
from bursar.auth import throttle
from bursar.auth.actor import Actor, Kind
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import (
    customer,
    customer_enrolling,
    customer_leaving,
    everyone,
    in_person,
    in_person_enrolling,
)
from bursar.auth.one_time import BadOneTimeToken
from bursar.auth.passwords import BadPassword
from bursar.auth.sessions import BadRefreshToken
from bursar.auth.throttle import TooManyAttempts
from bursar.core.database import Db
from bursar.core.errors import NotFound
from bursar.core.idempotency import own_key
from bursar.core.paging import PageQuery, of_list
from bursar.core.problems import documented
from bursar.core.wire import DoorRoute

router = APIRouter(prefix="/auth", tags=["auth"], route_class=DoorRoute)


@router.post(
    "/signup",
    status_code=201,
    dependencies=[everyone],
    responses=documented(EmailTaken, UsernameTaken, SignUpClosed, TooManyAttempts, BadPassword),
)
async def sign_up(db: Db, door: AtDoor, body: SignUp) -> SignedInOut:
    """A new account, and signed in at once."""
    await throttle.count(door.database, throttle.sign_up(door.origin.address))
    hashed = await accounts.hash_for_sign_up(door, body.facts(), body.password)
    user = await accounts.sign_up(db, body.facts(), hashed)
    signed_in = await sign_in.open_session(db, door, Kind.CUSTOMER, user, method="password")
    return SignedInOut.of(signed_in)


@router.post(
    "/login",
    dependencies=[everyone],
    responses=documented(WrongCredentials, Locked, Suspended, TooManyAttempts),
)
@own_key
async def log_in(door: AtDoor, body: SignIn) -> SignedInOut:
    """Access token for 15 minutes, refresh token for as long as it is used now and then."""
    return SignedInOut.of(await sign_in.sign_in(door, Kind.CUSTOMER, body.email, body.password))


@router.post("/refresh", dependencies=[everyone], responses=documented(BadRefreshToken))
@own_key
async def refresh(door: AtDoor, body: Refresh) -> SignedInOut:
    """A new pair. A refresh token is good once: one that is sent again ends its whole session."""
    return SignedInOut.of(await sign_in.refresh(door, Kind.CUSTOMER, body.refresh_token))


@router.post("/logout", dependencies=[customer_leaving])
@own_key
async def log_out(door: AtDoor) -> Said:
    """Ends this session; its tokens are good no more, here and in every other process."""
    await sign_in.sign_out(door)
    return Said(message="You are signed out.")


@router.get("/me")
async def me(db: Db, actor: Annotated[Actor, customer_enrolling]) -> UserOut:
    """Who is signed in."""
    return UserOut.model_validate(await queries.user(db, sign_in.owner(actor)))


@router.post(
    "/verify-email",
    dependencies=[everyone],
    responses=documented(BadOneTimeToken, EmailTaken, TooManyAttempts),
)
@own_key
async def verify_email(door: AtDoor, body: Link) -> UserOut:
    """Proves the address that the link was mailed to; refresh your tokens afterwards."""
    return UserOut.model_validate(await recovery.verify_email(door, body.token))


@router.post(
    "/resend-verification",
    status_code=202,
    dependencies=[customer_enrolling],
    responses=documented(TooManyAttempts),
)
@own_key
async def resend_verification(door: AtDoor) -> Said:
    """Mails the link again; the one before is good no more."""
    await recovery.ask_for_verification(door)
    return Said(message="If your address is not verified yet, a link is on its way.")


@router.post(
    "/forgot-password",
    status_code=202,
    dependencies=[everyone],
    responses=documented(TooManyAttempts),
)
@own_key
async def forgot_password(door: AtDoor, body: EmailOnly) -> Said:
    """The same answer whether anybody has this address or not."""
    await recovery.ask_for_reset(door, Kind.CUSTOMER, body.email)
    return Said(message="If there is an account with this address, a link is on its way.")


@router.post(
    "/reset-password",
    dependencies=[everyone],
    responses=documented(BadOneTimeToken, TooManyAttempts, BadPassword),
)
@own_key
async def reset_password(door: AtDoor, body: NewPasswordByLink) -> Said:
    """A new password by a link that came by mail; every session ends."""
    await recovery.reset(door, Kind.CUSTOMER, body.token, body.new_password)
    return Said(message="Your password is changed; sign in with the new one.")


@router.post(
    "/change-password",
    dependencies=[in_person],
    responses=documented(WrongCredentials, TooManyAttempts, BadPassword),
)
@own_key
async def change_password(door: AtDoor, body: PasswordChange) -> Said:
    """Every other session ends, this one stays."""
    await recovery.change_password(door, body.current_password, body.new_password)
    return Said(message="Your password is changed; you are signed out everywhere else.")


@router.post(
    "/change-email",
    status_code=202,
    dependencies=[in_person_enrolling],
    responses=documented(WrongCredentials, SignInAgain, TooManyAttempts),
)
@own_key
async def change_email(door: AtDoor, body: EmailChange) -> Said:
    """The account has its new address once the link that is mailed there was followed; the old
    one is told then. Also for who has mistyped the address that they have to verify."""
    await recovery.ask_for_email_change(door, body.email, body.password)
    return Said(message="If this address is free, a link is on its way to it.")


@router.get("/sessions", dependencies=[customer])
async def list_sessions(
    request: Request, door: AtDoor, ask: Annotated[PageQuery, Query()]
) -> SessionList:
    """Where you are signed in."""
    rows = await sign_in.own_sessions(door)
    page = of_list(rows, ask)
    shown = [session_out(row, door.actor) for row in page.items]
    return SessionList.of(page, sessions=shown)


def session_out(row: object, actor: Actor) -> SessionOut:
    fields = {name: getattr(row, name, None) for name in SessionOut.model_fields}
    if getattr(row, "impersonator", None):  # where somebody of the staff sits is not the customer's
        fields |= {"address": None, "user_agent": None}
    return SessionOut.model_validate({**fields, "current": fields["id"] == actor.session})


@router.delete("/sessions", dependencies=[in_person])
async def end_other_sessions(door: AtDoor) -> SessionsEnded:
    """Signs you out everywhere but here."""
    return SessionsEnded(ended=await sign_in.end_other_sessions(door))


@router.delete("/sessions/{session_id}", dependencies=[in_person], responses=documented(NotFound))
async def end_session(door: AtDoor, session_id: UUID) -> SessionsEnded:
    """Signs you out there."""
    if not await sign_in.end_session(door, session_id):
        raise NotFound("You have no such session.")
    return SessionsEnded(ended=1)
