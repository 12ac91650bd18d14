"""Sign-in with an OpenID provider: /api/v1/auth/oidc for customers, /api/v1/admin/auth/oidc."""

from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import Field

from bursar.accounts import oidc
from bursar.accounts.oidc import (
    FLOW_SECONDS,
    Answer,
    BadFlow,
    Cancelled,
    CodeAsked,
    EmailUnproved,
    LinkRefused,
    NoAccount,
    OidcOff,
)
from bursar.accounts.oidc_provider import (
    ROUTES,
    BadIdToken,
    CodeRefused,
    Provider,
    ProviderBusy,
    ProviderFailed,
)
from bursar.accounts.schemas import SignedInOut
from bursar.accounts.second_factor import SecondFactorUnreadable, WrongCode
from bursar.accounts.service import EmailTaken, SignUpClosed
from bursar.accounts.sign_in import SignedIn, Suspended
from bursar.accounts.staff_schemas import Code, StaffSignedIn
from bursar.auth.actor import Kind
from bursar.auth.door import Door
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import everyone
from bursar.auth.throttle import TooManyAttempts
from bursar.core.idempotency import own_key
from bursar.core.problems import documented
from bursar.core.settings import Settings
from bursar.core.wire import DoorRoute, StaffWire

router = APIRouter(prefix="/auth/oidc", tags=["auth"], route_class=DoorRoute)
staff_router = APIRouter(prefix="/auth/oidc", tags=["staff auth"], route_class=DoorRoute)

BEGIN = (OidcOff, ProviderFailed, ProviderBusy, TooManyAttempts)
FINISH = (*BEGIN, BadFlow, Cancelled, CodeRefused, BadIdToken, EmailUnproved, Suspended, NoAccount)
FOUND: dict[int | str, dict[str, Any]] = {
    303: {"description": "To the provider, with a cookie that the way back needs."}
}
QUIET = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}

Code_ = Annotated[str | None, Query(max_length=2048, description="What the provider gave.")]
State = Annotated[str | None, Query(max_length=128, description="What the flow began with.")]
Error = Annotated[str | None, Query(max_length=128, description="Why there is no code.")]
Iss = Annotated[str | None, Query(max_length=512, description="Who answers, if it says so.")]


class SecondStep(StaffWire):
    """The code of the second factor, for a sign-in that a provider has vouched for."""

    continuation: Annotated[str, Field(min_length=1, max_length=8192)]
    code: Code


@router.get(
    "/start",
    status_code=303,
    response_class=RedirectResponse,
    dependencies=[everyone],
    responses={**documented(*BEGIN), **FOUND},
)
async def start_with_provider(request: Request, door: AtDoor) -> Response:
    """Sends the browser to the provider, which sends it back to auth/oidc/callback."""
    return await start(request, door, Kind.CUSTOMER)


@router.get(
    "/callback",
    dependencies=[everyone],
    responses=documented(*FINISH, SignUpClosed, EmailTaken, LinkRefused),
)
async def finish_with_provider(
    request: Request,
    response: Response,
    door: AtDoor,
    code: Code_ = None,
    state: State = None,
    error: Error = None,
    iss: Iss = None,
) -> SignedInOut:
    """Back from the provider: signed in, and signed up if it is the first time."""
    answer = Answer(code, state, error, iss)
    return SignedInOut.of(await finish(request, response, door, Kind.CUSTOMER, answer))


@staff_router.get(
    "/start",
    status_code=303,
    response_class=RedirectResponse,
    dependencies=[everyone],
    responses={**documented(*BEGIN), **FOUND},
)
async def start_staff_with_provider(request: Request, door: AtDoor) -> Response:
    """Sends the browser to the provider, which sends it back to admin/auth/oidc/callback."""
    return await start(request, door, Kind.STAFF)


@staff_router.get(
    "/callback", dependencies=[everyone], responses=documented(*FINISH, CodeAsked, LinkRefused)
)
async def finish_staff_with_provider(
    request: Request,
    response: Response,
    door: AtDoor,
    code: Code_ = None,
    state: State = None,
    error: Error = None,
    iss: Iss = None,
) -> StaffSignedIn:
    """Back from the provider: signed in, or asked for the code of the second factor."""
    answer = Answer(code, state, error, iss)
    return StaffSignedIn.of(await finish(request, response, door, Kind.STAFF, answer))


@staff_router.post(
    "/code",
    dependencies=[everyone],
    responses=documented(
        OidcOff,
        BadFlow,
        WrongCode,
        SecondFactorUnreadable,
        EmailUnproved,
        Suspended,
        NoAccount,
        LinkRefused,
        TooManyAttempts,
    ),
)
@own_key
async def finish_staff_with_code(request: Request, door: AtDoor, body: SecondStep) -> StaffSignedIn:
    """The second step for staff with a second factor: `continuation` is in the 401 of the first."""
    provider = provider_of(request, Kind.STAFF)
    continued = await oidc.finish_with_code(door, provider, body.continuation, body.code)
    return StaffSignedIn.of(continued)


async def start(request: Request, door: Door, kind: Kind) -> Response:
    address, cookie = await oidc.begin(door, kind, provider_of(request, kind))
    response = RedirectResponse(address, 303, headers=QUIET)
    name, path, secure = cookie_of(door.settings, kind)
    response.set_cookie(
        name,
        cookie,
        max_age=FLOW_SECONDS,
        path=path,
        secure=secure,
        httponly=True,
        samesite="lax",  # the way back is a link from another site, which `strict` would bare
    )
    return response


async def finish(
    request: Request, response: Response, door: Door, kind: Kind, answer: Answer
) -> SignedIn:
    name, path, secure = cookie_of(door.settings, kind)
    cookie = request.cookies.get(name)
    signed_in = await oidc.finish(door, kind, provider_of(request, kind), answer, cookie)
    response.delete_cookie(name, path, secure=secure, httponly=True, samesite="lax")
    response.headers.update(QUIET)
    return signed_in


def provider_of(request: Request, kind: Kind) -> Provider | None:
    found: Provider | None = request.app.state.oidc_providers.get(kind)
    return found


def cookie_of(settings: Settings, kind: Kind) -> tuple[str, str, bool]:
    """Its name, the only path that gets it, and whether it needs https; under `__Secure-` no plain
    http page of the same host can put another one in its place."""
    callback = urlsplit(f"{settings.public_url}{ROUTES[kind]}/callback")
    secure = callback.scheme == "https"
    return f"{'__Secure-' if secure else ''}bursar_oidc_{kind}", callback.path, secure
