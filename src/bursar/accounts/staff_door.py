"""Staff come in, stay in and go out, and look after their own account."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query

from bursar.accounts import enrolment, joining, queries, recovery, second_factor, sign_in
from bursar.accounts.enrolment import NoAccount, NoSecondFactor, NotBegun, SecondFactorRequired
from bursar.accounts.recovery import SignInAgain
from bursar.accounts.second_factor import SecondFactorUnreadable, WrongCode
from bursar.accounts.sign_in import Locked, SecondFactorAsked, Suspended, WrongCredentials
from bursar.accounts.staff_schemas import (
    Acceptance,
    CodeOnly,
    Me,
    RecoveryCodes,
    Said,
    SecondFactorAdded,
    SecondFactorBegun,
    SecondFactorRemoval,
    SecondFactorWish,
    StaffEmailOnly,
    StaffPasswordByLink,
    StaffPasswordChange,
    StaffRefresh,
    StaffSession,
    StaffSessions,
    StaffSessionsEnded,
    StaffSignedIn,
    StaffSignIn,
)
from bursar.auth.actor import OPERATOR_ID, Actor, Kind
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import everyone, staff_member
from bursar.auth.one_time import BadOneTimeToken
from bursar.auth.passwords import BadPassword, HashingBusy
from bursar.auth.sessions import BadRefreshToken
from bursar.auth.throttle import TooManyAttempts
from bursar.core.database import Db
from bursar.core.errors import NotFound
from bursar.core.idempotency import own_key
from bursar.core.paging import PageQuery, of_list
from bursar.core.problems import documented
from bursar.core.wire import DoorRoute

router = APIRouter(prefix="/auth", tags=["staff auth"], route_class=DoorRoute)

LINK = documented(BadOneTimeToken, BadPassword, TooManyAttempts, HashingBusy)


@router.post(
    "/login",
    dependencies=[everyone],
    responses=documented(
        WrongCredentials,
        SecondFactorAsked,
        WrongCode,
        SecondFactorUnreadable,
        Locked,
        Suspended,
        TooManyAttempts,
    ),
)
@own_key
async def log_in(door: AtDoor, body: StaffSignIn) -> StaffSignedIn:
    """Access token for 15 minutes, refresh token for a day of work at most."""
    return StaffSignedIn.of(
        await sign_in.sign_in(door, Kind.STAFF, body.email, body.password, code=body.code)
    )


@router.post("/refresh", dependencies=[everyone], responses=documented(BadRefreshToken))
@own_key
async def refresh(door: AtDoor, body: StaffRefresh) -> StaffSignedIn:
    """A new pair. A refresh token is good once: one that is sent again ends its whole session."""
    return StaffSignedIn.of(await sign_in.refresh(door, Kind.STAFF, body.refresh_token))


@router.post("/accept-invitation", dependencies=[everyone], responses=LINK)
@own_key
async def accept_invitation(door: AtDoor, body: Acceptance) -> StaffSignedIn:
    """By the link of an invitation: chooses a password, and is signed in at once."""
    return StaffSignedIn.of(await joining.accept(door, body.token, body.password, body.name))


@router.post(
    "/forgot-password",
    status_code=202,
    dependencies=[everyone],
    responses=documented(TooManyAttempts),
)
@own_key
async def forgot_password(door: AtDoor, body: StaffEmailOnly) -> Said:
    """The same answer whether anybody has this address or not."""
    await recovery.ask_for_reset(door, Kind.STAFF, body.email)
    return Said(message="If there is an account with this address, a link is on its way.")


@router.post("/reset-password", dependencies=[everyone], responses=LINK)
@own_key
async def reset_password(door: AtDoor, body: StaffPasswordByLink) -> Said:
    """A new password by a link that came by mail; every session ends."""
    await recovery.reset(door, Kind.STAFF, body.token, body.new_password)
    return Said(message="Your password is changed; sign in with the new one.")


@router.post("/logout", dependencies=[staff_member])
@own_key
async def log_out(door: AtDoor) -> Said:
    """Ends this session; its tokens are good no more, here and in every other process."""
    await sign_in.sign_out(door)
    return Said(message="You are signed out.")


@router.get("/me", responses=documented(NotFound))
async def me(db: Db, actor: Annotated[Actor, staff_member]) -> Me:
    """Who is signed in, and what they may do."""
    if actor.id == OPERATOR_ID:
        return Me.operator(actor)
    person = await queries.staff_member(db, sign_in.owner(actor))
    return Me.of(actor, person, await second_factor.recovery_codes_left(db, person.id))


@router.post(
    "/change-password",
    dependencies=[staff_member],
    responses=documented(WrongCredentials, BadPassword, TooManyAttempts, HashingBusy),
)
@own_key
async def change_password(door: AtDoor, body: StaffPasswordChange) -> Said:
    """Every other session ends, this one stays."""
    await recovery.change_password(door, body.current_password, body.new_password)
    return Said(message="Your password is changed; you are signed out everywhere else.")


@router.get("/sessions", dependencies=[staff_member])
async def list_sessions(door: AtDoor, ask: Annotated[PageQuery, Query()]) -> StaffSessions:
    """Where you are signed in."""
    page = of_list(await sign_in.own_sessions(door), ask)
    return StaffSessions.of(page, sessions=[StaffSession.of(row, door.actor) for row in page.items])


@router.delete("/sessions", dependencies=[staff_member])
async def end_other_sessions(door: AtDoor) -> StaffSessionsEnded:
    """Signs you out everywhere but here."""
    return StaffSessionsEnded(ended=await sign_in.end_other_sessions(door))


@router.delete(
    "/sessions/{session_id}", dependencies=[staff_member], responses=documented(NotFound)
)
async def end_session(door: AtDoor, session_id: UUID) -> StaffSessionsEnded:
    """Signs you out there."""
    if not await sign_in.end_session(door, session_id):
        raise NotFound("You have no such session.")
    return StaffSessionsEnded(ended=1)


@router.post(
    "/totp",
    dependencies=[staff_member],
    responses=documented(
        WrongCredentials,
        SignInAgain,
        SecondFactorAsked,
        WrongCode,
        SecondFactorUnreadable,
        NoAccount,
        TooManyAttempts,
    ),
)
@own_key
async def begin_second_factor(door: AtDoor, body: SecondFactorWish) -> SecondFactorBegun:
    """A secret for your authenticator. It holds once a code of it is sent to totp/confirmation;
    until then the second factor that you have, if any, goes on."""
    begun = await enrolment.begin(door, body.password, body.code)
    return SecondFactorBegun(secret=begun.secret, uri=begun.uri)


@router.post(
    "/totp/confirmation",
    dependencies=[staff_member],
    responses=documented(WrongCode, SecondFactorUnreadable, NotBegun, NoAccount, TooManyAttempts),
)
@own_key
async def confirm_second_factor(door: AtDoor, body: CodeOnly) -> SecondFactorAdded:
    """From now on signing in takes a code; your other sessions end."""
    confirmed = await enrolment.confirm(door, body.code)
    return SecondFactorAdded(
        recovery_codes=confirmed.recovery_codes,
        access_token=confirmed.access_token,
        expires_in=confirmed.expires_in,
    )


@router.delete(
    "/totp",
    dependencies=[staff_member],
    responses=documented(
        WrongCredentials,
        SignInAgain,
        WrongCode,
        SecondFactorUnreadable,
        NoAccount,
        NoSecondFactor,
        SecondFactorRequired,
        TooManyAttempts,
    ),
)
async def remove_second_factor(door: AtDoor, body: SecondFactorRemoval) -> Said:
    """Signing in takes the password alone again, where this installation lets it."""
    await enrolment.remove(door, body.password, body.code)
    return Said(message="Your second factor is removed.")


@router.post(
    "/recovery-codes",
    dependencies=[staff_member],
    responses=documented(
        WrongCode, SecondFactorUnreadable, NoAccount, NoSecondFactor, TooManyAttempts
    ),
)
@own_key
async def renew_recovery_codes(door: AtDoor, body: CodeOnly) -> RecoveryCodes:
    """Ten new ones; those from before are good no more."""
    return RecoveryCodes(recovery_codes=await enrolment.renew_recovery_codes(door, body.code))
