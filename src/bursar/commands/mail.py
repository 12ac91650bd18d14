"""`bursar mail`: what is in the outbox, what stands in a mail, and sending it once more."""

from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from bursar.commands.jobs import as_worker
from bursar.commands.options import Data, Json

if TYPE_CHECKING:
    from bursar.core.mail_outbox import Listed, Shown, Status

app = typer.Typer(help="The outbox of mails.", no_args_is_help=True)

Mail = Annotated[str, typer.Argument(metavar="MAIL", help="The mail's id.", show_default=False)]


@app.command("list")
def list_mails(
    status: Annotated[
        list[str] | None,
        typer.Option(
            help="waiting, kept, sent or failed; several times for several.", metavar="STATUS"
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 100,
    data: Data = None,
    json: Json = False,
) -> None:
    """List mails, the newest first, without what stands in them."""
    from bursar.commands.terminal import answer_json
    from bursar.core import mail_outbox

    wanted = [status_named(name) for name in status or ()]
    found = as_worker(data, lambda db: mail_outbox.listing(db, wanted, limit=limit))
    if json:
        answer_json({"mails": found})
    else:
        print_list(found)


@app.command()
def show(
    mail: Mail,
    html: Annotated[bool, typer.Option("--html", help="The HTML instead of the text.")] = False,
    data: Data = None,
    json: Json = False,
) -> None:
    """Show one mail with its link, as long as it is not sent."""
    from bursar.commands.terminal import answer_json
    from bursar.core import mail_outbox

    mail_id = id_of(mail)
    shown = as_worker(data, lambda db: mail_outbox.show(db, mail_id))
    if json:
        answer_json(shown)
    else:
        print_mail(shown, html=html)


@app.command()
def resend(mail: Mail, data: Data = None, json: Json = False) -> None:
    """Put a mail that was kept or failed on its way again."""
    from bursar.commands.terminal import answer_json, say
    from bursar.core import mail as mails

    mail_id = id_of(mail)
    as_worker(data, lambda db: mails.resend(db, mail_id))
    if json:
        answer_json({"id": mail, "result": "is on its way again"})
    else:
        say(f"mail {mail} is on its way again")


def id_of(mail: str) -> UUID:
    """What is no id is the id of no mail."""
    from bursar.core.mail_outbox import UnknownMail

    try:
        return UUID(mail)
    except ValueError:
        raise UnknownMail(f"There is no mail {mail}.") from None


def status_named(name: str) -> "Status":
    from bursar.core.mail_outbox import Status

    known = [one.value for one in Status]
    if name not in known:
        raise typer.BadParameter(f"there is no status {name}; there are: {', '.join(known)}")
    return Status(name)


def print_list(found: "list[Listed]") -> None:
    from bursar.commands.terminal import answer, say

    if not found:
        say("no such mails")
    for mail in found:
        created = f"{mail.created_at:%Y-%m-%dT%H:%M:%SZ}"
        line = (str(mail.id), mail.status, mail.template, mail.recipient, created)
        answer("\t".join([*line, mail.reason or ""]).rstrip())


def print_mail(shown: "Shown", *, html: bool) -> None:
    from bursar.commands.terminal import answer, say

    about = {
        "To": shown.recipient,
        "Subject": shown.words and shown.words.subject,
        "Attached": shown.words and shown.words.attachment and shown.words.attachment.name,
        "Date": f"{shown.queued_at:%Y-%m-%dT%H:%M:%SZ}",
        "Message-ID": shown.message_id,
        "Status": shown.status,
        "Attempts": shown.attempts,
        "Reason": shown.reason,
    }
    for name, value in about.items():
        if value is not None:
            answer(f"{name}: {value}")
    if shown.words is None:
        say(shown.unreadable or "")
        return
    answer("")
    answer((shown.words.html if html else shown.words.text).rstrip("\n"))
