"""Commands about the people who work here."""

from typing import Annotated

import typer

from bursar.commands.options import Data

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
    from bursar.auth.permissions import StaffRole
    from bursar.auth.tokens import Tokens
    from bursar.commands.place import require_database, settings_of
    from bursar.commands.terminal import answer

    known = ", ".join(StaffRole)
    if role not in list(StaffRole):
        raise typer.BadParameter(
            f"there is no role {role}; there are: {known}", param_hint="--role"
        )
    settings = settings_of(data)
    if not (settings.secret_key or settings.database_url):
        require_database(settings.data)  # a key made here and now would open nothing
    tokens = Tokens(settings.secret_keys)
    answer(tokens.sign(operator(StaffRole(role)), lifetime_seconds=minutes * 60))
