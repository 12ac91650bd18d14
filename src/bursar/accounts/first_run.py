"""The page behind the link that the first start prints: here the first owner signs up, once.

It works without any script. The link's token is not in the page's address once the form was sent,
and no page that it leads to is told of it (Referrer-Policy, core/edge.py).
"""

from functools import cache
from importlib import resources
from typing import Annotated, Any

from fastapi import APIRouter, Form
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel, ValidationError

from bursar.accounts import joining
from bursar.accounts.emails import Email
from bursar.accounts.schemas import FullName
from bursar.auth.entrance import AtDoor
from bursar.auth.guard import everyone
from bursar.auth.one_time import BadOneTimeToken
from bursar.auth.passwords import BadPassword
from bursar.core.errors import BursarError
from bursar.core.problems import sentence
from bursar.core.wire import DoorRoute

router = APIRouter(
    prefix="/first-run", include_in_schema=False, dependencies=[everyone], route_class=DoorRoute
)

POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
}
Text = Annotated[str, Form(max_length=2000)]


@router.get("")
async def form(door: AtDoor, token: str = "") -> Response:
    """The form, for whoever has a good link."""
    try:
        await joining.look_at_first_link(door, token)
    except BursarError as error:
        return refusal(error)
    return page("first_run.html", token=token)


@router.post("")
async def sign_up(
    door: AtDoor,
    token: Text = "",
    email: Text = "",
    name: Text = "",
    password: Text = "",
    again: Text = "",
) -> Response:
    """Makes the first owner, or says beside each field what is wrong with it."""
    given: dict[str, Any] = {"token": token, "email": email, "name": name}
    person, errors = read(given, password, again)
    if person is None:
        return page("first_run.html", status=422, **given, errors=errors)
    try:
        await joining.use_first_link(
            door, token, email=person.email, name=person.name, password=password
        )
    except BadPassword as error:
        wrong = {"password": error.detail}
        return page("first_run.html", status=422, **given, errors=wrong)
    except BursarError as error:
        return refusal(error)
    return RedirectResponse("/first-run/done", status_code=303, headers=POLICY)


class FirstOwner(BaseModel):
    """Who signs up by the first link."""

    email: Email
    name: FullName


def read(
    given: dict[str, Any], password: str, again: str
) -> tuple[FirstOwner | None, dict[str, str]]:
    """The person, or what is wrong by field."""
    errors: dict[str, str] = {}
    try:
        person = FirstOwner(email=given["email"], name=given["name"])
    except ValidationError as error:
        person = None
        errors = {str(each["loc"][0]): sentence(each["msg"]) for each in error.errors()}
    if password != again:
        errors["again"] = "This is not the same password as above."
    return (None if errors else person), errors


def refusal(error: BursarError) -> Response:
    """A link that is good no more is not found here; anything else as it is."""
    status = 404 if isinstance(error, BadOneTimeToken) else error.status
    return page("first_run_refused.html", status=status, headers=error.headers, why=error.detail)


@router.get("/done")
async def done() -> Response:
    """After the form: what to do now. It holds nothing that a stranger may not see."""
    return page("first_run_done.html")


@router.get("/page.css")
async def style() -> Response:
    return Response(stylesheet(), media_type="text/css")


@cache
def stylesheet() -> str:
    return (resources.files("bursar.accounts") / "templates" / "first_run.css").read_text()


def page(
    template: str, *, status: int = 200, headers: dict[str, str] | None = None, **context: Any
) -> Response:
    text = (
        environment()
        .get_template(template)
        .render({"email": "", "name": "", "errors": {}, **context})
    )
    return HTMLResponse(text, status_code=status, headers={**(headers or {}), **POLICY})


@cache
def environment() -> Environment:
    return Environment(
        loader=PackageLoader("bursar.accounts", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
