"""`bursar import users`: takes over the people of an older system, and says what became of each.

Ctrl-C lets the batch in hand end, so that the figures are right; a second one does not wait.
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, TextIO

import orjson
import typer

from bursar.commands.options import Data, Json
from bursar.core.errors import BursarError

if TYPE_CHECKING:
    from bursar.accounts.import_files import Format
    from bursar.accounts.import_people import Reader, Rejected
    from bursar.accounts.importing import Batch, Outcome

STDIN = "-"
SUFFIXES = {"csv": "csv", "tsv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "json": "jsonl"}
SECONDS_BETWEEN_LINES = 5.0  # of progress, where nobody watches
INTERRUPTED = 128 + signal.SIGINT
PATIENCE = b"stopping when this batch is stored; a second Ctrl-C does not wait for it\n"

app = typer.Typer(help="Take over what older systems hold.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """Take over what older systems hold."""


@app.command()
def users(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file; - is standard input.")],
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="FORMAT", help="csv or jsonl; else by the file's name."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Report the same, and write nothing.")
    ] = False,
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where rejected lines go, as JSON lines.", readable=False
        ),
    ] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Import customers from a CSV file with a header, or from JSON lines.

    Passwords come along as hashes (bcrypt, PBKDF2-SHA256, Argon2id). Who is there already stays as
    they are, so the same file may be imported again. Ends with 1 if a line was rejected.
    """
    from bursar.commands.place import migrated_url, settings_of

    kind = format_of(file, format_)
    settings = settings_of(data)
    tally = Tally(dry_run=dry_run)
    with ExitStack() as stack:
        stop = stack.enter_context(interrupts())
        try:
            source = stack.enter_context(opened(file))
            report = stack.enter_context(Report.to(rejects, source, file))
            url = stack.enter_context(migrated_url(settings))
            take = stack.enter_context(taking(url, settings, file, dry_run=dry_run))
            run(source, kind, take, Run(stop, tally, report))
        except KeyboardInterrupt:
            tally.stopped = True
        except BursarError:
            if tally.lines:  # what was committed before it went wrong
                tally.stopped = True
                tell(tally, json=json)
            raise
    tell(tally, json=json)
    if tally.stopped:
        sys.exit(INTERRUPTED)
    sys.exit(1 if tally.rejected else 0)


def format_of(file: str, given: str | None) -> "Format":
    from bursar.accounts.import_files import Format

    known = ", ".join(Format)
    if given is not None and given not in list(Format):
        raise typer.BadParameter(
            f"there is no format {given}; there are: {known}", param_hint="--format"
        )
    found = given or SUFFIXES.get(file.rpartition(".")[2].lower())
    if found is None:
        raise typer.BadParameter(
            f"the name does not say in which format it is; add one of: {known}",
            param_hint="--format",
        )
    return Format(found)


@dataclass
class Stop:
    """What a Ctrl-C has asked for."""

    asked: bool = False
    at_work: bool = False  # a batch is in hand, and ends first


@contextmanager
def interrupts() -> Iterator[Stop]:
    stop = Stop()

    def interrupt(*_: object) -> None:
        again, stop.asked = stop.asked, True
        if again or not stop.at_work:
            raise KeyboardInterrupt
        os.write(2, PATIENCE)  # a stream may be in the middle of a line of its own

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


class NoImportFile(BursarError, status=404, code="cli.no_import_file"):
    """The file that is to be imported is not there, or is no file that can be read."""


@contextmanager
def opened(file: str) -> Iterator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    try:
        source = Path(file).open("rb")  # noqa: SIM115 - closed below; only its opening is told
    except OSError as error:
        raise NoImportFile(f"The file {printable(file)} cannot be read: {why(error)}.") from None
    with source:
        yield source


def printable(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def why(error: OSError) -> str:
    return (error.strerror or type(error).__name__).lower()


@dataclass
class Tally:
    """How far it has come."""

    dry_run: bool = False
    lines: int = 0
    added: int = 0
    already_there: int = 0
    rejected: int = 0
    without_password: int = 0
    ids_not_kept: int = 0
    ignored_columns: list[str] = field(default_factory=list)
    stopped: bool = False

    def add(self, batch: "Batch", outcome: "Outcome", reader: "Reader") -> None:
        self.lines += len(batch)
        self.added += outcome.added
        self.already_there += outcome.already_there
        self.rejected += len(outcome.rejected)
        self.without_password += outcome.without_password
        self.ids_not_kept = reader.ids_not_kept
        self.ignored_columns = list(reader.ignored)

    def __str__(self) -> str:
        added = "would be added" if self.dry_run else "added"
        return (
            f"{self.lines:,} lines: {self.added:,} {added}, "
            f"{self.already_there:,} already there, {self.rejected:,} rejected"
        )


class Report:
    """Progress and rejected lines, for whoever watches: a line that is rewritten, or one now and
    then where it is no terminal."""

    def __init__(self, rejects: TextIO | None, source: BinaryIO) -> None:
        self._rejects = rejects
        self._source = source
        self._size = size_of(source)
        self._live = sys.stderr.isatty()
        self._said = time.monotonic()

    @classmethod
    @contextmanager
    def to(cls, rejects: Path | None, source: BinaryIO, file: str) -> "Iterator[Report]":
        with nullcontext() if rejects is None else rejects_file(rejects, file) as stream:
            yield cls(stream, source)

    def progress(self, tally: Tally) -> None:
        part = f" ({self._source.tell() * 100 // self._size} %)" if self._size else ""
        if self._live:
            sys.stderr.write(f"\r\x1b[K{tally}{part}")
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            sys.stderr.write(f"{tally}{part}\n")
        sys.stderr.flush()

    def done(self) -> None:
        if self._live:
            sys.stderr.write("\r\x1b[K")

    def reject(self, rejected: "list[Rejected]") -> None:
        if rejected:
            self.done()
        for each in rejected:
            if self._rejects:
                self._rejects.write(f"{orjson.dumps(each).decode()}\n")
            else:
                sys.stderr.write(f"{sentence(each)}\n")
        if self._rejects:
            self._rejects.flush()  # what is committed is reported, also when the next batch is not


def size_of(source: BinaryIO) -> int:
    """0 where nobody knows."""
    try:
        return os.fstat(source.fileno()).st_size if source.seekable() else 0
    except OSError:
        return 0


@contextmanager
def rejects_file(path: Path, file: str) -> Iterator[TextIO]:
    """For nobody else to read: there are e-mail addresses in it."""
    if file != STDIN and path.exists() and path.samefile(file):
        raise typer.BadParameter("is the file that is imported", param_hint="--rejects")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    except OSError as error:
        said = f"{printable(str(path))} cannot be written: {why(error)}"
        raise typer.BadParameter(said, param_hint="--rejects") from None
    with open(descriptor, "w", encoding="utf-8") as stream:  # noqa: PTH123 - of a descriptor
        yield stream


def sentence(rejected: "Rejected") -> str:
    several = rejected.last_line > rejected.line
    place = f"lines {rejected.line} to {rejected.last_line}" if several else f"line {rejected.line}"
    whom = f" ({rejected.email})" if rejected.email else ""
    return f"{place}{whom}: {'; '.join(rejected.reasons)}"


@contextmanager
def taking(
    url: str, settings: Any, file: str, *, dry_run: bool
) -> "Iterator[Callable[[Batch], Outcome]]":
    """What takes one batch: the reading between two of them is plain code that Ctrl-C ends."""
    import asyncio

    from bursar.accounts import importing
    from bursar.auth.actor import Origin, operator
    from bursar.auth.permissions import StaffRole
    from bursar.core.database import Database
    from bursar.core.database_errors import DRIVER_ERRORS, translate

    database = Database(url, settings)
    origin = Origin(operator(StaffRole.OWNER))
    name = os.fsencode(Path(file).name).decode(errors="backslashreplace")
    with asyncio.Runner() as runner:

        def take(batch: "Batch") -> "Outcome":
            work = importing.take(database, origin, batch, file=name, dry_run=dry_run)
            try:
                return runner.run(work)
            except DRIVER_ERRORS as error:
                raise translate(error) or error from error

        try:
            yield take
        finally:
            runner.run(database.close())


@dataclass(frozen=True)
class Run:
    """What one run has with it."""

    stop: Stop
    tally: Tally
    report: Report


def run(source: BinaryIO, kind: "Format", take: "Callable[[Batch], Outcome]", of: Run) -> None:
    from bursar.accounts.import_people import Reader
    from bursar.accounts.importing import batches

    reader = Reader()
    try:
        for batch in batches(source, kind, reader):
            of.stop.at_work = True
            outcome = take(batch)
            of.tally.add(batch, outcome, reader)
            of.report.reject(outcome.rejected)
            of.report.progress(of.tally)
            of.stop.at_work = False
            if of.stop.asked:
                raise KeyboardInterrupt
    finally:
        of.report.done()


def tell(tally: Tally, *, json: bool) -> None:
    from bursar.commands.terminal import answer, answer_json, say

    if tally.ignored_columns:
        say(f"not taken over, because nobody here knows them: {', '.join(tally.ignored_columns)}")
    if tally.ids_not_kept:
        say(f"ids that are no UUIDs and so were replaced by new ones: {tally.ids_not_kept:,}")
    if tally.without_password:
        say(f"people without a password, who choose one by e-mail: {tally.without_password:,}")
    if tally.stopped:
        say("stopped; run it again to go on: what is there already is passed over")
    if json:
        answer_json(asdict(tally))
    else:
        answer(f"{tally}.")
