"""Commands about the people who work here."""

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from bursar.commands.options import Data, Json
from bursar.core.errors import BursarError

if TYPE_CHECKING:
    from bursar.accounts.models import AdminUser
    from bursar.auth.door import Door
    from bursar.auth.permissions import StaffRole
    from bursar.core.settings import Settings

T = TypeVar("T")

MOST_PASSWORD_BYTES = 4096  # of standard input; how long a password may be, accounts say

app = typer.Typer(help="The people who work here.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The people who work here."""


@app.command()
def token(
    role: Annotated[str, typer.Option(help="The staff role that the token has.")] = "owner",
    minutes: Annotated[int, typer.Option(min=1, max=720, help="How long it is good for.")] = 15,
    data: Data = None,
) -> None:
    """Sign an access token: for scripts on this machine, by whoever may read the secret key."""
    from bursar.auth.actor import operator
    from bursar.auth.tokens import Tokens
    from bursar.commands.place import require_database, settings_of
    from bursar.commands.terminal import answer

    named = role_named(role)
    settings = settings_of(data)
    if not (settings.secret_key or settings.database_url):
        require_database(settings.data)  # a key made here and now would open nothing
    tokens = Tokens(settings.secret_keys)
    answer(tokens.sign(operator(named), lifetime_seconds=minutes * 60))


def role_named(name: str) -> "StaffRole":
    from bursar.auth.permissions import StaffRole

    if name not in list(StaffRole):
        known = ", ".join(StaffRole)
        raise typer.BadParameter(
            f"there is no role {name}; there are: {known}", param_hint="--role"
        )
    return StaffRole(name)


@app.command()
def create(
    email: Annotated[
        str, typer.Argument(metavar="EMAIL", help="Their e-mail address.", show_default=False)
    ],
    role: Annotated[str, typer.Option(help="What they are here.", show_default=False)],
    name: Annotated[str, typer.Option(help="Their name.", show_default=False)] = "",
    password_stdin: Annotated[
        bool, typer.Option("--password-stdin", help="Read the password from standard input.")
    ] = False,
    data: Data = None,
) -> None:
    """Add somebody who works here and signs in with a password; it is asked for, or read."""
    from bursar.accounts import joining
    from bursar.commands.terminal import answer

    named = role_named(role)
    facts = {"email": normal_email(email), "name": normal_name(name)}
    password = read_password() if password_stdin else ask_password()

    def add(door: "Door") -> "Awaitable[AdminUser]":
        return joining.create(door, **facts, role=named, password=password)

    member = at_the_door(data, add)
    answer(f"{member.email} may sign in as {member.role}.")


def normal_email(text: str) -> str:
    from bursar.accounts import emails

    try:
        return emails.normal(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="EMAIL") from None


def normal_name(text: str) -> str:
    from bursar.core.wire import one_line

    try:
        name = one_line(text)
        name.encode()  # what was no text in the shell cannot be kept
    except ValueError:
        raise typer.BadParameter("a name is text on one line", param_hint="--name") from None
    if len(name) > 200:
        raise typer.BadParameter("a name has at most 200 characters", param_hint="--name")
    return name


class NeedsPassword(BursarError, status=400, code="cli.needs_password", exit_code=2):
    """A password is needed: from a terminal, or as one line of standard input."""


def read_password() -> str:
    """One line; a second one would be a mistake that nobody sees."""
    raw = sys.stdin.buffer.read(MOST_PASSWORD_BYTES + 1)
    try:
        password = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise NeedsPassword("The password on standard input is not UTF-8 text.") from None
    if not password or len(raw) > MOST_PASSWORD_BYTES or "\n" in password:
        raise NeedsPassword("Standard input has to be the password, on one line.")
    return password


class PasswordsDiffer(BursarError, status=400, code="cli.passwords_differ"):
    """The password was typed twice, and not in the same way; nothing was done."""


def ask_password() -> str:
    """Hidden, and twice: nobody sees what they type."""
    from getpass import getpass

    from bursar.commands.terminal import Declined

    if not sys.stdin.isatty():
        raise NeedsPassword("There is nobody to ask for a password here; add --password-stdin.")
    try:
        password = getpass("Password: ", stream=sys.stderr)
        again = getpass("Once more: ", stream=sys.stderr)
    except (EOFError, KeyboardInterrupt):
        raise Declined("Nothing was done.") from None
    if password != again:
        raise PasswordsDiffer("These are two different passwords; nothing was done.")
    return password


@app.command("list")
def list_staff(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    data: Data = None,
    json: Json = False,
) -> None:
    """List the people who work here, those who came first first."""
    from bursar.accounts import queries
    from bursar.commands.terminal import answer, answer_json, say

    async def read(door: "Door") -> "list[AdminUser]":
        async with door.transaction() as db:
            return await queries.present_staff(db, limit)

    found = [facts_of(member) for member in at_the_door(data, read)]
    if json:
        answer_json({"staff": found})
        return
    if not found:
        say("nobody works here yet: bursar staff create EMAIL --role owner")
    for facts in found:
        second = "second factor" if facts["second_factor"] else "password only"
        seen = facts["last_login"] or "never signed in"
        answer("\t".join([*(str(facts[key]) for key in SHOWN), second, str(seen)]))


SHOWN = ("id", "email", "role", "status")


def facts_of(member: "AdminUser") -> dict[str, object]:
    last = member.last_login
    return {
        "id": str(member.id),
        "email": member.email,
        "name": member.name,
        "role": member.role,
        "status": member.status,
        "second_factor": member.has_second_factor,
        "last_login": f"{last:%Y-%m-%dT%H:%M:%SZ}" if last else None,
    }


def at_the_door(data: Path | None, work: "Callable[[Door], Awaitable[T]]") -> T:
    """Does the work at the door, where secrets may be written, as the operator."""
    import asyncio

    from bursar.commands.place import migrated_url, settings_of

    settings = settings_of(data)
    with migrated_url(settings) as url:
        return asyncio.run(go_to_door(url, settings, work))


async def go_to_door(url: str, settings: "Settings", work: "Callable[[Door], Awaitable[T]]") -> T:
    from bursar.auth.actor import Origin, operator
    from bursar.auth.door import Door
    from bursar.auth.permissions import StaffRole
    from bursar.auth.tokens import Tokens
    from bursar.core.database import Database
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    database = Database(url, settings)
    origin = Origin(operator(StaffRole.OWNER))
    try:
        return await work(Door(database, Tokens(settings.secret_keys), origin))
    except DRIVER_ERRORS as error:
        raise translate(error) or error from error
    finally:
        await database.close()
