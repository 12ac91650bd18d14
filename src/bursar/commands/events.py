"""`bursar events`: how far each subscriber has come, and the way past an event that stops one."""

from typing import TYPE_CHECKING, Annotated

import typer

from bursar.commands.jobs import as_worker
from bursar.commands.options import Data, Json, Yes

if TYPE_CHECKING:
    from bursar.core.relay import Position

app = typer.Typer(help="Events and those who are told of them.", no_args_is_help=True)


@app.command("list")
def list_subscribers(data: Data = None, json: Json = False) -> None:
    """List who is told of events: how many wait, how often it failed, and why."""
    from bursar.commands.terminal import answer_json
    from bursar.core import relay

    found = as_worker(data, relay.positions)
    if json:
        answer_json({"subscribers": found})
    else:
        print_list(found)


@app.command()
def skip(
    subscriber: Annotated[str, typer.Argument(help="Its name.", show_default=False)],
    yes: Yes = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Pass over the event that a subscriber fails on; it will never be told of it."""
    from bursar.commands.terminal import answer_json, confirm, say
    from bursar.core import relay

    confirm(f"Pass over the event that {subscriber} fails on, for good?", yes=yes)
    skipped = as_worker(data, lambda db: relay.skip(db, subscriber))
    if json:
        answer_json({"subscriber": subscriber, "skipped": dict(skipped)})
    else:
        say(f"{subscriber} will not be told of event {skipped['id']} {skipped['name']}")


def print_list(found: "list[Position]") -> None:
    from bursar.commands.terminal import answer, say

    if not found:
        say("no subscribers")
    for position in found:
        at = "?" if position.event_id is None else position.event_id
        failed = f"{position.failures} failure{'' if position.failures == 1 else 's'}"
        line = [position.subscriber, f"at event {at}", f"{position.waiting} waiting", failed]
        answer("\t".join([*line, position.last_error or ""]).rstrip())
