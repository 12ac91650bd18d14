"""Writes docs/reference from the code: `make fix` runs it, tests/test_docs.py compares.

What a person has to know beyond the lists stands in docs/guide.
"""

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

import bursar
from bursar.auth.permissions import GRANTED, Permission
from bursar.cli import app as commands
from bursar.client.refusals import NO_KEY, REFUSALS, UNREACHABLE
from bursar.core import events, jobs
from bursar.core.errors import BursarError
from bursar.core.settings import PREFIX, Settings, secret_fields
from bursar.system.catalogue import CATALOGUE

FOLDER = Path(__file__).parent / "reference"
HEAD = "<!-- Written by docs/write_reference.py from the code; change it there. -->\n\n"

for module in pkgutil.walk_packages(bursar.__path__, "bursar."):
    if ".versions." not in module.name and not module.name.endswith(".env"):
        importlib.import_module(module.name)  # importing is what fills the registries


def pages() -> dict[str, str]:
    """Every page by its file name."""
    return {
        "settings.md": settings(),
        "errors.md": errors(),
        "events.md": event_list(),
        "jobs.md": job_list(),
        "commands.md": command_list(),
        "permissions.md": permissions(),
    }


def settings() -> str:
    text = title(
        "Settings",
        "Two kinds: what the operator sets before the start, and what staff change while it runs.",
    )
    text += "## Of the operator\n\n"
    text += (
        "Arguments of a command win over the environment, the environment over a `.env` file in "
        "the folder where the command starts. A secret may stand in a file: "
        "`BURSAR_SECRET_KEY_FILE=/run/secrets/key`. An unknown `BURSAR_…` variable is an error.\n\n"
    )
    rows = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{shown(field.default)}`"
        secret = " Secret." if name in secret_fields() else ""
        rows.append((f"`{PREFIX}{name.upper()}`", default, f"{field.description}{secret}"))
    text += table(("Variable", "Default", "Meaning"), rows)
    text += "\n## Of staff\n\n"
    text += (
        "Read and changed under `/api/v1/admin/settings`; each change is kept and shown under "
        "`/api/v1/admin/setting-changes`.\n\n"
    )
    rows = [
        (f"`{key}`", f"`{declared.default}`", f"{declared.description} {limits(declared.schema)}")
        for key, declared in sorted(CATALOGUE.items())
    ]
    return text + table(("Key", "Default", "Meaning"), rows)


def shown(default: Any) -> str:
    return "" if default == () else str(default).replace(str(Path.home()), "~")


def limits(schema: dict[str, Any]) -> str:
    parts = [f"{name} {schema[name]}" for name in sorted(schema) if name not in ("type", "pattern")]
    return f"({schema['type']}{''.join(f', {part}' for part in parts)})"


def errors() -> str:
    text = title(
        "Errors",
        "Every failure of the API is an RFC 9457 problem document whose `code` is one of these; "
        "every failure of a command is one line, and the command ends with the exit code.",
    )
    rows = [
        (f"`{code}`", str(error.status), str(error.exit_code), meaning(error))
        for code, error in sorted(BursarError.registry.items())
        if ours(error)
    ]
    return text + table(("Code", "Status", "Exit code", "Meaning"), rows) + of_middleware()


def of_middleware() -> str:
    text = (
        "\n## Of the middleware\n\n"
        "What an API behind [the middleware](../guide/middleware.md) answers, by what Bursar has "
        "said of the key.\n\n"
    )
    told = {
        "No key was shown": NO_KEY,
        **{f"`{verdict}`": words for verdict, words in REFUSALS.items()},
        "Bursar has not answered": UNREACHABLE,
    }
    rows = [
        (why, str(status), f"`{code}`", sentence.replace("<", "\\<"))
        for why, (status, code, sentence) in told.items()
    ]
    return text + table(("Why", "Status", "Code", "Sentence"), rows)


def event_list() -> str:
    text = title(
        "Events",
        "Written in the transaction of the change, handed on in order to whoever listens. The "
        "public ones go out as [webhooks](../guide/webhooks.md) too.",
    )
    rows = [
        (
            f"`{name}`",
            ", ".join(f"`{field}`" for field in event.model_fields),
            "yes" if event.public else "",
            meaning(event),
        )
        for name, event in sorted(events.registry.items())
        if ours(event)
    ]
    return text + table(("Event", "Fields", "Public", "Meaning"), rows)


def ours(thing: Any) -> bool:
    """Tests declare errors, events and jobs of their own."""
    return str(thing.__module__).startswith("bursar.")


def meaning(thing: Any) -> str:
    return " ".join((thing.__doc__ or "").split())


def job_list() -> str:
    text = title(
        "Jobs", "What `bursar worker` does, and `bursar serve` beside the API; times are UTC."
    )
    rows = [
        (f"`{name}`", scheduled(name), meaning(function))
        for function, name in sorted(jobs.names_of.items(), key=lambda pair: pair[1])
        if ours(function)
    ]
    return text + table(("Job", "When", "What"), rows)


def scheduled(name: str) -> str:
    schedule = jobs.registry[name].schedule
    return f"`{schedule}`" if schedule else ""


def command_list() -> str:
    text = title(
        "Commands",
        "Answers go to stdout, everything else to stderr. Exit codes: 0 ok, 1 error, 2 wrong use, "
        "3 not found, 4 not allowed, 5 conflict.",
    )
    for path, command in walk(typer.main.get_command(commands), "bursar"):
        text += f"## `{path}`\n\n{(command.help or '').strip()}\n\n"
        rows = [
            (f"`{' '.join(option.opts)}`", (getattr(option, "help", None) or "").strip())
            for option in command.params
            if option.name != "help"
        ]
        text += table(("Option", "Meaning"), rows) + "\n" if rows else ""
    return text.rstrip() + "\n"


def walk(command: Any, path: str) -> Iterable[tuple[str, Any]]:
    children = getattr(command, "commands", None)
    if not children:
        yield path, command
        return
    for name, child in sorted(children.items()):
        yield from walk(child, f"{path} {name}")


def permissions() -> str:
    text = title("Permissions", "What each staff role may do.")
    rows = [
        (f"`{permission}`", *("yes" if permission in given else "" for given in GRANTED.values()))
        for permission in Permission
    ]
    return text + table(("Permission", *GRANTED), rows)


def title(name: str, introduction: str) -> str:
    return f"{HEAD}# {name}\n\n{introduction}\n\n"


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in escaped)


def main() -> None:
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)
        sys.stderr.write(f"wrote docs/reference/{name}\n")


if __name__ == "__main__":
    main()
