"""Mails are whole or not sent at all, nobody reads what is not theirs, and operators see them."""

import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from jinja2 import PackageLoader, TemplateNotFound, UndefinedError
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from bursar.core import mail, mail_outbox, tasks
from bursar.core.database import DOOR, WORKER, Claim
from bursar.core.mail_outbox import Status
from bursar.core.mail_templates import environment, render
from bursar.core.settings import BadSettings, load
from tests.databases import test_settings as settings_with
from tests.workers import CUSTOMER, STAFF, Bench, bench

LINK = "https://acme.example/verify-email?token=s3cret-t0ken-of-carl&x=1"
COMPANY = {"company": "Acme & Söhne", "name": "Carl"}
INVOICE = {
    "number": "INV-2026-000001", "month": "2026-11", "total": "1.00 USD", "due": "2026-12-15",
}  # fmt: skip
VERIFY = {**COMPANY, "link": LINK, "hours": 48}
CONTEXTS: dict[str, dict[str, Any]] = {
    "verify_email": VERIFY,
    "reset_password": {**COMPANY, "link": LINK, "minutes": 60},
    "password_changed": COMPANY,
    "email_changed": COMPANY,
    "invitation": {**COMPANY, "link": LINK, "hours": 168},
    "account_deleted": {**COMPANY, "days": 30},
    "auto_topup_declined": {
        **COMPANY, "amount": "20.00 USD", "method": "visa 4242", "reason": "No money",
        "paused": False,
    },
    "booking": {
        **COMPANY, "headline": "Booked", "sentence": "You are booked.", "what": "A haircut",
        "when": "Monday at nine", "provider": "Ann", "notes": ["Bring a towel."],
    },
    "invoice_declined": {**COMPANY, **INVOICE, "reason": "No funds", "again": True},
    "invoice_issued": {
        **COMPANY, **INVOICE, "lines": [{"what": "Calls", "units": 5, "amount": "1.00 USD"}],
    },
    "invoice_overdue": {**COMPANY, **INVOICE},
    "invoice_reopened": {
        **COMPANY, **INVOICE, "reason": "Its payment was returned.", "has_part": False,
        "is_being_paid": False, "tried_on": "2026-12-01",
    },
    "key_leaked": {**COMPANY, "key_name": "server", "masked": "bur_live_…abcd"},
    "method_expires": {**COMPANY, "method": "visa 4242", "month": "12/2030", "automatic": True},
    "quota_warning": {
        **COMPANY, "percent": 80, "month": "2026-11", "used": 800, "quota": 1000, "is_hard": True,
    },
    "receipt": {
        **COMPANY, "number": "2026-000001", "amount": "20.00 USD", "what_for": "A top-up",
        "support": "support@example.com", "is_test": False,
    },
    "webhook_switched_off": {**COMPANY, "url": "example.com", "why": "It failed for a week."},
}  # fmt: skip


@pytest.fixture
async def here() -> AsyncIterator[Bench]:
    async with bench() as opened:
        yield opened


async def sent(here: Bench, claim: Claim = CUSTOMER, to: str = "carl@example.com") -> UUID:
    async with here.database.transaction(claim) as db:
        return await mail.send(db, "verify_email", to, **VERIFY)


async def job_count(here: Bench) -> int:
    return len(await here.fetch("select from pgqueuer where entrypoint = 'mail.send'"))


class TestTemplates:
    def test_every_template_is_tried_here(self) -> None:
        loader = environment().loader
        assert isinstance(loader, PackageLoader)
        names = {name.partition(".")[0] for name in loader.list_templates()}
        assert names - {"base", "button"} == set(CONTEXTS)

    @pytest.mark.parametrize("name", CONTEXTS)
    def test_it_renders_with_what_it_says_that_it_needs(self, name: str) -> None:
        context = CONTEXTS[name]
        loader = environment().loader
        assert isinstance(loader, PackageLoader)
        for kind in ("txt", "html"):
            source, *_ = loader.get_source(environment(), f"{name}.{kind}")
            needs = source.partition("\n")[0]
            assert set(re.findall(r"\w+", needs)) >= set(context)
        content = render(name, context)
        assert "Acme & Söhne" in content.subject
        assert content.text.startswith("Hello Carl,\n\n")
        assert "Acme &amp; Söhne" in content.html
        assert content.html.startswith("<!doctype html>")
        assert f"<title>{content.subject.replace('&', '&amp;')}</title>" in content.html
        assert ("\n" + LINK + "\n" in content.text) == ("link" in context)
        assert (f'href="{LINK.replace("&", "&amp;")}"' in content.html) == ("link" in context)

    @pytest.mark.parametrize("name", CONTEXTS)
    def test_a_variable_that_is_missing_is_an_error(self, name: str) -> None:
        for missing in CONTEXTS[name]:
            rest = {key: value for key, value in CONTEXTS[name].items() if key != missing}
            with pytest.raises(UndefinedError):
                render(name, rest)

    def test_html_is_escaped_and_text_is_not(self) -> None:
        content = render("verify_email", {**VERIFY, "name": "<b>x</b>"})
        assert "Hello &lt;b&gt;x&lt;/b&gt;," in content.html
        assert "Hello <b>x</b>," in content.text

    def test_a_subject_is_one_line_that_ends(self) -> None:
        company = "Acme\r\nBcc: eve@example.com\x00\x1b[31m\u202e " + "x" * 300
        content = render("verify_email", {**VERIFY, "company": company})
        assert content.subject.startswith(
            "Confirm your address for Acme Bcc: eve@example.com[31m xx"
        )
        assert len(content.subject) == 150

    @pytest.mark.parametrize(
        "name", ["You won! evil.example/x", "https://evil", "WWW.evil", "a@b", "x" * 81, " "]
    )
    def test_a_name_that_is_an_advertisement_is_left_out(self, name: str) -> None:
        content = render("verify_email", {**VERIFY, "name": name})
        assert content.text.startswith("Hello,\n")

    @pytest.mark.parametrize("name", ["J. R. R. Tolkien", "Zoë", "Martin Luther King, Jr.", "李"])
    def test_a_name_is_greeted(self, name: str) -> None:
        content = render("verify_email", {**VERIFY, "name": name})
        assert content.text.startswith(f"Hello {name},\n")

    def test_times_are_said_as_people_say_them(self) -> None:
        said = {
            1: "1 hour",
            24: "24 hours",
            25: "25 hours",
            36: "36 hours",
            48: "2 days",
            168: "7 days",
        }
        for hours, words in said.items():
            assert f"for {words}." in render("verify_email", {**VERIFY, "hours": hours}).text
        assert "restored" not in render("account_deleted", {**COMPANY, "days": 0}).text


class TestSending:
    @pytest.mark.parametrize("claim", [CUSTOMER, DOOR, STAFF, WORKER], ids=lambda c: c.role)
    async def test_every_login_role_sends_and_only_the_worker_reads(
        self, here: Bench, claim: Claim
    ) -> None:
        mail_id = await sent(here, claim)
        assert await job_count(here) == 1
        (found,) = await here.fetch("select * from mails")
        assert (found["id"], found["status"], found["attempts"]) == (mail_id, "waiting", 0)
        if claim is WORKER:
            return
        for statement in (
            "select id from mails",
            "update mails set status = 'sent'",
            "delete from mails",
            "insert into mails (id, template, recipient, status) values (gen_random_uuid(), 'a', "
            "'a@b', 'sent')",
        ):
            with pytest.raises(ProgrammingError, match="permission denied for table mails"):
                async with here.database.transaction(claim) as db:
                    await db.execute(text(statement))

    async def test_rolled_back_it_never_was(self, here: Bench) -> None:
        async with here.rolled_back() as db:
            await mail.send(db, "verify_email", "carl@example.com", **VERIFY)
        assert await here.fetch("select from mails") == []
        assert await job_count(here) == 0

    async def test_what_it_says_is_sealed(self, here: Bench) -> None:
        await sent(here)
        (row,) = await here.fetch("select mails::text as mail, sealed from mails")
        (job,) = await here.fetch("select convert_from(payload, 'utf8') as payload from pgqueuer")
        for secret in ("s3cret-t0ken", "Carl,", COMPANY["company"]):
            assert secret not in row["mail"]
            assert secret.encode() not in row["sealed"]
            assert secret not in job["payload"]
        assert "carl" not in job["payload"]

    @pytest.mark.parametrize(
        "address",
        [
            "carl",
            "a@b\r\nBcc: c@d",
            "a@b\n",
            "a@b\0",
            "a b@c",
            "a@b, c@d",
            "<a@b>",
            "ä@b",
            "a@ä",
            "a@b@c",
            '"a b"@c',
            "a@[127.0.0.1]",
            "x" * 65 + "@b",
            "a@" + "b." * 127 + "b",
        ],
    )
    async def test_no_address_can_be_more_than_an_address(self, here: Bench, address: str) -> None:
        with pytest.raises(mail.BadAddress):
            await sent(here, to=address)
        assert await job_count(here) == 0

    async def test_a_template_that_there_is_not_is_an_error(self, here: Bench) -> None:
        with pytest.raises(TemplateNotFound):
            async with here.database.transaction(CUSTOMER) as db:
                await mail.send(db, "verify_mail", "carl@example.com", **VERIFY)

    async def test_a_link_leads_where_people_reach_bursar(self, here: Bench) -> None:
        async with here.database.transaction(CUSTOMER) as db:
            link = mail.link(db, "/verify-email", token="a&b=c")
            assert link == "http://127.0.0.1:8000/verify-email?token=a%26b%3Dc"
            assert mail.link(db, "/") == "http://127.0.0.1:8000/"


class TestForgetting:
    async def test_an_erased_account_takes_its_mails_along(self, here: Bench) -> None:
        for address in ("Carl@Example.com", "carl@example.com", "dora@example.com"):
            await sent(here, to=address)
        async with here.database.transaction(WORKER) as db:
            await mail.forget(db, "CARL@example.com")
        (left,) = await here.fetch("select recipient from mails")
        assert left["recipient"] == "dora@example.com"

    async def test_time_takes_them_too(self, here: Bench) -> None:
        ages = {"sent": (89, 91), "kept": (29, 31), "failed": (29, 31), "waiting": (29, 31)}
        for status, days in ages.items():
            for age in days:
                await here.fetch(
                    "insert into mails (id, template, recipient, status, queued_at, settled_at) "
                    "select gen_random_uuid(), 'verify_email', 'a@b', $1, now() - age, now() - age "
                    "from make_interval(days => $2) as age",
                    status,
                    age,
                )
        async with here.database.transaction(WORKER) as db:
            await tasks.prune_mails(db, {})
        left = await here.fetch("select status, now()::date - queued_at::date as age from mails")
        assert {row["status"]: row["age"] for row in left} == {
            s: young for s, (young, _) in ages.items()
        }
        assert len(left) == len(ages)


class TestCommands:
    async def test_it_lists_and_shows_what_waits(self, here: Bench) -> None:
        first, second = await sent(here), await sent(here, to="dora@example.com")
        listed = here.bursar("mail", "list", "--json")
        assert listed.code == 0, listed.stderr
        found = orjson.loads(listed.stdout)["mails"]
        assert [(one["id"], one["status"]) for one in found] == [
            (str(second), "waiting"),
            (str(first), "waiting"),
        ]
        assert "s3cret" not in listed.stdout
        assert here.bursar("mail", "list", "--status", "sent").stdout == ""
        shown = here.bursar("mail", "show", str(first)).stdout
        assert "To: carl@example.com\nSubject: Confirm your address for Acme & Söhne\n" in shown
        assert f"\n\n{LINK}\n\n" in shown
        assert "<!doctype html>" in here.bursar("mail", "show", str(first), "--html").stdout
        whole = orjson.loads(here.bursar("mail", "show", str(first), "--json").stdout)
        assert whole["words"]["company"] == "Acme & Söhne"

    async def test_what_cannot_be_done_is_one_line_and_a_code(self, here: Bench) -> None:
        mail_id = str(await sent(here))
        assert here.bursar("mail", "show", str(uuid4())).code == 3
        assert here.bursar("mail", "resend", str(uuid4())).code == 3
        for words in ("show", "seven"), ("resend", "seven"):
            unknown = here.bursar("mail", *words)
            assert (unknown.code, unknown.line) == (3, "There is no mail seven.")
        assert here.bursar("mail", "list", "--status", "lost").code == 2
        on_its_way = here.bursar("mail", "resend", mail_id)
        assert (on_its_way.code, on_its_way.line) == (
            5,
            f"The mail {mail_id} is on its way already.",
        )
        await here.fetch("update mails set status = 'sent', sealed = null")
        assert here.bursar("mail", "resend", mail_id).code == 5
        emptied = here.bursar("mail", "show", mail_id)
        assert emptied.code == 0
        assert "Status: sent\n" in emptied.stdout
        assert "forgotten" in emptied.stderr

    async def test_a_lost_key_is_said(self, here: Bench) -> None:
        mail_id = await sent(here)
        await here.fetch("update mails set sealed = 'of another key'")
        async with here.database.transaction(WORKER) as db:
            shown = await mail_outbox.show(db, mail_id)
            assert shown.words is None
            assert "BURSAR_SECRET_KEY" in (shown.unreadable or "")
            assert [one.id for one in await mail_outbox.listing(db, [Status.WAITING])] == [mail_id]


SERVER = {"smtp_host": "mail.example", "mail_from": "billing@acme.example"}
SIGN_IN = {"smtp_username": "bursar", "smtp_password": "pass"}


class TestSettings:
    @pytest.mark.parametrize(
        "given",
        [
            {},
            SERVER,
            {**SERVER, **SIGN_IN},
            {**SERVER, "smtp_security": "none"},
            {**SERVER, **SIGN_IN, "smtp_security": "none", "smtp_host": "127.0.0.1"},
            {**SERVER, **SIGN_IN, "smtp_security": "none", "smtp_host": "::1"},
            {**SERVER, **SIGN_IN, "smtp_security": "none", "smtp_host": "localhost"},
        ],
    )
    def test_they_are_taken(self, given: dict[str, str]) -> None:
        settings_with(**given)

    @pytest.mark.parametrize(
        ("given", "because"),
        [
            ({"smtp_host": "mail.example"}, "BURSAR_SMTP_HOST is set"),
            ({**SERVER, "smtp_host": "mail example"}, "without a port"),
            ({**SERVER, "mail_from": "Acme <billing@acme.example>"}, "plain address"),
            ({**SERVER, "mail_from": "a@b\n"}, "plain address"),
            ({**SERVER, "smtp_username": "bursar"}, "both or neither"),
            ({**SERVER, "smtp_password": "pass"}, "both or neither"),
            ({**SERVER, **SIGN_IN, "smtp_security": "none"}, "in plain text"),
            ({**SERVER, "smtp_security": "ssl"}, "starttls"),
        ],
    )
    def test_they_are_refused(self, given: dict[str, str], because: str) -> None:
        with pytest.raises(ValidationError, match=because):
            settings_with(**given)

    def test_the_sentence_names_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {**SERVER, **SIGN_IN, "smtp_security": "none"}.items():
            monkeypatch.setenv(f"BURSAR_{name.upper()}", value)
        with pytest.raises(BadSettings, match=r"^BURSAR_SMTP_PASSWORD is not usable: would go to"):
            load()

    @pytest.mark.parametrize(
        ("given", "kept"),
        [
            ("https://bursar.example.com", "https://bursar.example.com"),
            ("https://example.com/bursar/", "https://example.com/bursar"),
            ("http://[::1]:8000/", "http://[::1]:8000"),
        ],
    )
    def test_the_public_url_ends_without_a_slash(self, given: str, kept: str) -> None:
        assert settings_with(public_url=given).public_url == kept

    @pytest.mark.parametrize(
        "given",
        ["bursar.example.com", "ftp://x", "https://", "https://a b", "https://u:p@x", "https://x?y",
         "https://x#y", "https://x:99999", "https://[::1", "https://x\n", "javascript:x"],
    )  # fmt: skip
    def test_anything_else_is_no_public_url(self, given: str) -> None:
        with pytest.raises(ValidationError, match="must look like"):
            settings_with(public_url=given)
