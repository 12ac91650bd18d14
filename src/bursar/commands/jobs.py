"""`bursar jobs`: what is on the queue, and what to do with the jobs that gave up."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from bursar.commands.options import Data, Json, Yes

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from bursar.core.dead_letters import Listed

T = TypeVar("T")

app = typer.Typer(help="The job queue and its dead letters.", no_args_is_help=True)

Job = Annotated[int, typer.Argument(metavar="JOB", help="The job's id.", show_default=False)]


@app.command("list")
def list_jobs(
    state: Annotated[
        list[str] | None,
        typer.Option(help="dead, waiting or running; several times for several.", metavar="STATE"),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    before: Annotated[
        int | None, typer.Option(help="Only older jobs than this one.", metavar="JOB")
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """List jobs, the newest first: the dead letters, unless another state is asked for."""
    from bursar.commands.terminal import answer_json
    from bursar.core import dead_letters

    known = [one.value for one in dead_letters.State]
    for name in state or ():
        if name not in known:
            raise typer.BadParameter(f"there is no state {name}; there are: {', '.join(known)}")
    states = [dead_letters.State(name) for name in state or ("dead",)]
    older_than = 2**63 - 1 if before is None else before
    found = as_worker(
        data, lambda db: dead_letters.listing(db, states, limit=limit, before=older_than)
    )
    if json:
        answer_json({"jobs": found})  # orjson writes dataclasses as they are
    else:
        print_list(found)


@app.command()
def show(job: Job, data: Data = None, json: Json = False) -> None:
    """Show one job: its payload, and what happened to it so far."""
    from bursar.commands.terminal import answer, answer_json
    from bursar.core import dead_letters

    shown = as_worker(data, lambda db: dead_letters.show(db, job))
    if json:
        answer_json(shown)
        return
    print_list([shown])
    answer_json({"payload": shown.payload, "unique_key": shown.unique_key})
    for past in shown.history:
        answer(f"{past['at']:%Y-%m-%dT%H:%M:%SZ}\t{past['what']}\t{past['error'] or ''}".rstrip())


@app.command()
def retry(job: Job, data: Data = None, json: Json = False) -> None:
    """Put a dead letter back on the queue, with all its attempts again."""
    from bursar.core import dead_letters

    as_worker(data, lambda db: dead_letters.retry(db, job))
    report(job, "is on the queue again", json=json)


@app.command()
def discard(job: Job, yes: Yes = False, data: Data = None, json: Json = False) -> None:
    """Take a dead or waiting job off the queue for good."""
    from bursar.commands.terminal import confirm
    from bursar.core import dead_letters

    confirm(f"Discard job {job} for good?", yes=yes)
    as_worker(data, lambda db: dead_letters.discard(db, job))
    report(job, "is discarded", json=json)


def as_worker(data: Path | None, work: "Callable[[AsyncSession], Awaitable[T]]") -> T:
    """Does the work in one transaction of the worker's login role."""
    import asyncio

    from bursar.commands.place import migrated_url, settings_of
    from bursar.core.database import WORKER, Database
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    settings = settings_of(data)

    async def run(url: str) -> T:
        database = Database(url, settings)
        try:
            async with database.transaction(WORKER) as db:
                return await work(db)
        except DRIVER_ERRORS as error:
            raise translate(error) or error from error
        finally:
            await database.close()

    with migrated_url(settings) as url:
        return asyncio.run(run(url))


def print_list(found: "list[Listed]") -> None:
    from bursar.commands.terminal import answer, say

    if not found:
        say("no such jobs")
    for job in found:
        begun = f"{job.attempts} attempt{'' if job.attempts == 1 else 's'}"
        line = (str(job.id), job.state, job.name, f"{job.created_at:%Y-%m-%dT%H:%M:%SZ}", begun)
        answer("\t".join([*line, job.error or ""]).rstrip())


def report(job: int, what: str, *, json: bool) -> None:
    from bursar.commands.terminal import answer_json, say

    document: dict[str, Any] = {"id": job, "result": what}
    if json:
        answer_json(document)
    else:
        say(f"job {job} {what}")
