"""The `bursar` command: says what it does on stderr, gives its answer on stdout, ends with a code.

0 ok · 1 error · 2 wrong use · 3 not found · 4 not allowed · 5 conflict. A server that SIGTERM or
Ctrl-C stops in order ends with 0; one that is stopped before it serves, with 128 and the signal.
Each command's work is imported when it is called, so that `bursar --help` answers at once.
"""

import os
import sys
from typing import Annotated

import typer

from bursar.commands import audit, books, events, import_users, jobs, mail, payments, staff
from bursar.commands.options import Data, Json, Yes
from bursar.core.errors import BursarError

app = typer.Typer(
    name="bursar",
    help="The back office for a product that takes money.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text: half the time, and the same in a terminal and in a file
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(audit.app, name="audit")
app.add_typer(events.app, name="events")
app.add_typer(books.app, name="export")
app.add_typer(import_users.app, name="import")
app.add_typer(jobs.app, name="jobs")
app.add_typer(mail.app, name="mail")
app.add_typer(staff.app, name="staff")


@app.command()
def serve(
    data: Data = None,
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="The port to listen on; 0 for any.")] = None,
    demo: Annotated[bool, typer.Option("--demo", help="Load demo data first.")] = False,
    workers: Annotated[
        int,
        typer.Option(min=0, max=64, metavar="N", help="API processes; 0 runs API and jobs in one."),
    ] = 0,
) -> None:
    """Run Bursar: database, API and jobs."""
    from bursar.commands import serve as command

    command.run(data=data, host=host, port=port, demo=demo, workers=workers)


@app.command()
def worker(data: Data = None) -> None:
    """Run jobs only, beside API processes that do not."""
    from bursar.commands import worker as command

    command.run(data=data)


@app.command()
def migrate(
    data: Data = None,
    reset_passwords: Annotated[
        bool, typer.Option("--reset-passwords", help="After a change of the secret key.")
    ] = False,
    yes: Yes = False,
    json: Json = False,
) -> None:
    """Bring the database to what this release needs."""
    from bursar.commands import database as command

    command.run_migrate(data=data, reset_passwords=reset_passwords, yes=yes, json=json)


@app.command()
def demo(data: Data = None, json: Json = False) -> None:
    """Load demo data; a second time changes nothing."""
    from bursar.commands import database as command

    command.run_demo(data=data, json=json)


@app.command()
def doctor(data: Data = None, json: Json = False) -> None:
    """Look at everything that can be wrong, and say what to do."""
    from bursar.commands import doctor as command

    command.run(data=data, json=json)


@app.command()
def openapi() -> None:
    """Write the OpenAPI document of the whole API."""
    from bursar.commands import openapi as command

    command.run()


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def psql(context: typer.Context, data: Data = None) -> None:
    """Open psql as the database's owner.

    What follows -- is handed on to it.
    """
    from bursar.commands import database as command

    command.run_psql(data=data, arguments=context.args)


app.command()(books.verify)
app.command()(payments.reconcile)
import_users.app.command("bank-statement")(payments.bank_statement)


def main() -> None:
    """The entry point: every expected failure is one line and a code, never a traceback."""
    try:
        code = app(prog_name="bursar", standalone_mode=False)
        sys.stdout.flush()  # here a reader that has gone can still be told from success
    except BursarError as error:
        sys.stderr.write(f"bursar: {error.detail}\n")
        code = error.exit_code
    except typer.TyperException as error:
        sys.stderr.write(wrong_use(error))
        code = error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to say
        code = 1
    except OSError as error:
        sys.stderr.write(f"bursar: the operating system refuses: {error.strerror or error}\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer has no way out
        code = 1
    sys.exit(code)


def wrong_use(error: typer.TyperException) -> str:
    """One line; for a bare `bursar`, which asks for nothing, the help."""
    said = error.format_message()
    if said.startswith("Usage:"):
        return f"{said}\n"
    command = getattr(getattr(error, "ctx", None), "command_path", "bursar")
    return f"bursar: {said} (see `{command} --help`)\n"


if __name__ == "__main__":
    main()
