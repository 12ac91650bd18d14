"""A committed mail reaches a real server, whatever happens, and a repeat can be known as one.

Workers and mail servers are processes; what a test waits for, it asks for until a deadline.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bursar.core import mail, mail_outbox
from bursar.core.database import WORKER
from bursar.core.mail_sending import RETRIES
from tests.core.test_mail import LINK, VERIFY, job_count, sent
from tests.databases import raw
from tests.smtp_program import USER, MailServer, mail_server
from tests.workers import BRIEF, CUSTOMER, Bench, bench, until

SECRET_PARTS = ("s3cret-t0ken", "carl@example.com", LINK)


@pytest.fixture
async def here() -> AsyncIterator[Bench]:
    async with bench() as opened:
        yield opened


@pytest.fixture
def post() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


FACTS = """
  select status, reason, attempts, message_id, queued_at, sealed is null as emptied
  from mails where id = $1
"""


async def facts(here: Bench, mail_id: UUID) -> dict[str, Any]:
    (row,) = await here.fetch(FACTS, mail_id)
    return dict(row)


async def until_status(here: Bench, mail_id: UUID, status: str) -> dict[str, Any]:
    async def reached() -> bool:
        row = await facts(here, mail_id)
        return bool(row["status"] == status)

    await until(reached, lambda: facts(here, mail_id), within_seconds=60)
    return await facts(here, mail_id)


async def until_put_off(here: Bench, mail_id: UUID) -> str:
    """One attempt has failed and the job is back on the queue; answers the reason."""

    async def put_off() -> bool:
        waits = "select from pgqueuer where status = 'queued' and execute_after > now()"
        return bool(await here.fetch(waits))

    await until(put_off, lambda: facts(here, mail_id), within_seconds=60)
    row = await facts(here, mail_id)
    assert row["status"] == "waiting"
    return str(row["reason"])


async def next_attempt(here: Bench, *, attempts: int | None = None) -> None:
    """Its time has come, without waiting for it."""
    await here.fetch(
        "update pgqueuer set execute_after = now(), attempts = coalesce($1, attempts)", attempts
    )


async def no_job(here: Bench) -> None:
    async def gone() -> bool:
        return await job_count(here) == 0

    await until(gone)


class TestTaken:
    async def test_it_arrives_whole_and_its_words_are_forgotten(
        self, here: Bench, post: MailServer
    ) -> None:
        here.worker(**post.settings(public_url="https://acme.example"))
        mail_id = await sent(here)
        row = await until_status(here, mail_id, "sent")
        assert (row["emptied"], row["reason"], row["attempts"]) == (True, None, 1)
        (envelope,) = post.envelopes()
        assert (envelope["from"], envelope["to"]) == ("billing@acme.example", ["carl@example.com"])
        (arrived,) = post.mails()
        assert str(arrived["From"].addresses[0]) == "Acme & Söhne <billing@acme.example>"
        assert arrived["To"] == "carl@example.com"
        assert arrived["Subject"] == "Confirm your address for Acme & Söhne"
        assert arrived["Message-ID"] == f"<{mail_id}@acme.example>" == row["message_id"]
        assert arrived["Date"].datetime == row["queued_at"].replace(microsecond=0)
        assert arrived["Auto-Submitted"] == "auto-generated"
        assert arrived.get_content_type() == "multipart/alternative"
        parts = {part.get_content_type(): part for part in arrived.iter_parts()}
        assert set(parts) == {"text/plain", "text/html"}
        assert f"\n{LINK}\n" in parts["text/plain"].get_content().replace("\r\n", "\n")
        assert "Acme &amp; Söhne" in parts["text/html"].get_content()
        assert envelope["data"].isascii()

    async def test_what_was_rolled_back_is_not_sent(self, here: Bench, post: MailServer) -> None:
        here.worker(**post.settings())
        async with here.rolled_back() as db:
            await mail.send(db, "verify_email", "dora@example.com", **VERIFY)
        await until_status(here, await sent(here), "sent")
        assert [one["to"] for one in post.envelopes()] == [["carl@example.com"]]

    async def test_a_forgotten_mail_is_not_sent(self, here: Bench, post: MailServer) -> None:
        await sent(here, to="dora@example.com")
        async with here.database.transaction(WORKER) as db:
            await mail.forget(db, "dora@example.com")
        here.worker(**post.settings())
        await no_job(here)
        assert post.envelopes() == []

    async def test_who_adds_the_job_again_sends_nothing_twice(
        self, here: Bench, post: MailServer
    ) -> None:
        mail_id = await sent(here)
        here.worker(**post.settings())
        await until_status(here, mail_id, "sent")
        await no_job(here)
        async with here.database.transaction(CUSTOMER) as db:
            await mail.enqueue(db, mail_id)
        await no_job(here)
        assert len(post.envelopes()) == 1


class TestNotTaken:
    @pytest.mark.parametrize(("mode", "said"), [("451", "451 4.7.1"), ("drop", "SMTP")])
    async def test_what_passes_is_tried_again(
        self, here: Bench, post: MailServer, mode: str, said: str
    ) -> None:
        post.mode(mode)
        here.worker(**post.settings())
        mail_id = await sent(here)
        assert said in await until_put_off(here, mail_id)
        post.mode("accept")
        await next_attempt(here)
        row = await until_status(here, mail_id, "sent")
        assert (row["attempts"], row["reason"], len(post.envelopes())) == (2, None, 1)

    async def test_a_server_that_is_not_there_is_tried_again(
        self, here: Bench, post: MailServer
    ) -> None:
        here.worker(**post.settings(smtp_port=1))
        mail_id = await sent(here)
        assert "SMTPConnectError" in await until_put_off(here, mail_id)

    async def test_a_refusal_is_final_until_an_operator_says_otherwise(
        self, here: Bench, post: MailServer
    ) -> None:
        post.mode("550")
        here.worker(**post.settings())
        mail_id = await sent(here)
        row = await until_status(here, mail_id, "failed")
        assert row["reason"] == "550 5.1.1 <carl@example.com> is nobody here"
        await no_job(here)
        assert "550 5.1.1" in here.bursar("mail", "list", "--status", "failed").stdout
        post.mode("accept")
        assert here.bursar("mail", "resend", str(mail_id)).code == 0
        again = await until_status(here, mail_id, "sent")
        assert again["message_id"] == row["message_id"]
        assert again["queued_at"] > row["queued_at"]

    async def test_no_secret_gets_out_by_a_refusal(
        self, here: Bench, post: MailServer, capfd: pytest.CaptureFixture[str]
    ) -> None:
        post.mode("quote")
        here.worker(**post.settings())
        mail_id = await sent(here)
        reason = (await until_status(here, mail_id, "failed"))["reason"]
        assert reason == "554 5.7.1 is [hidden] a trap? token [hidden] looks like one"
        post.mode("451")
        waiting = await sent(here)
        await until_put_off(here, waiting)
        logged = capfd.readouterr().err
        assert f"mail {mail_id} failed" in logged
        assert f"mail {waiting} was not taken" in logged
        told = await here.fetch("select traceback::text as told from pgqueuer_log")
        for secret in SECRET_PARTS:
            assert secret not in logged
            assert not any(secret in (row["told"] or "") for row in told)

    async def test_it_is_given_up_after_half_a_day(self, here: Bench, post: MailServer) -> None:
        post.mode("451")
        here.worker(**post.settings())
        mail_id = await sent(here)
        await until_put_off(here, mail_id)
        await next_attempt(here, attempts=RETRIES)
        assert "451" in (await until_status(here, mail_id, "failed"))["reason"]
        await no_job(here)

    async def test_words_sealed_with_a_lost_key_are_not_tried_for_ever(
        self, here: Bench, post: MailServer
    ) -> None:
        mail_id = await sent(here)
        await here.fetch("update mails set sealed = 'of another key'")
        here.worker(**post.settings())
        row = await until_status(here, mail_id, "failed")
        assert "BURSAR_SECRET_KEY" in row["reason"]
        await no_job(here)


class TestSecurity:
    async def test_a_certificate_that_nobody_vouches_for_is_not_believed(self, here: Bench) -> None:
        for security in ("starttls", "tls"):
            with mail_server(security) as post:
                worker = here.worker(**post.settings(smtp_security=security))
                mail_id = await sent(here)
                assert "CERTIFICATE_VERIFY_FAILED" in await until_put_off(here, mail_id)
                assert post.envelopes() == []
                worker.kill()
                worker.wait(10)
                await here.fetch("delete from pgqueuer")

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    async def test_behind_one_that_is_trusted_it_signs_in(
        self, here: Bench, security: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with mail_server(security, password="right") as post:
            monkeypatch.setenv("SSL_CERT_FILE", str(post.certificate))
            given = post.settings(smtp_security=security, smtp_username=USER)
            wrong = here.worker(**given, smtp_password="wrong")
            mail_id = await sent(here)
            assert "535" in await until_put_off(here, mail_id)
            wrong.kill()
            wrong.wait(10)
            here.worker(**given, smtp_password="right")
            await next_attempt(here)
            await until_status(here, mail_id, "sent")
            assert len(post.envelopes()) == 1

    async def test_without_starttls_nothing_is_said(self, here: Bench, post: MailServer) -> None:
        here.worker(**post.settings(smtp_security="starttls"))
        assert "STARTTLS" in await until_put_off(here, await sent(here))
        assert post.envelopes() == []


class TestCrash:
    async def test_a_worker_that_dies_after_the_server_took_it_repeats_the_same_message(
        self, here: Bench, post: MailServer
    ) -> None:
        """The outcome is kept from being written by a lock; the worker is killed while it waits."""
        post.mode("hold")
        doomed = here.worker(**post.settings(), pace=BRIEF)
        mail_id = await sent(here)
        await until(lambda: taken(post, 1), within_seconds=60)
        owner = await asyncpg.connect(raw(here.url))
        try:
            locked = owner.transaction()
            await locked.start()
            await owner.execute("select from mails where id = $1 for update", mail_id)
            post.mode("accept")
            await until(lambda: waits_for_lock(here), within_seconds=60)
            doomed.kill()
            doomed.wait(10)
            await locked.rollback()
        finally:
            await owner.close()
        assert (await facts(here, mail_id))["status"] == "waiting"
        here.worker(**post.settings(), pace=BRIEF)
        row = await until_status(here, mail_id, "sent")
        assert row["attempts"] == 2
        first, second = post.envelopes()
        assert first == second


async def taken(post: MailServer, count: int) -> bool:
    return len(post.envelopes()) == count


async def waits_for_lock(here: Bench) -> bool:
    return bool(
        await here.fetch(
            "select from pg_stat_activity where datname = current_database() "
            "and usename = 'worker_user' and cardinality(pg_blocking_pids(pid)) > 0"
        )
    )


class TestKept:
    async def test_without_a_server_it_is_kept_and_an_operator_reads_it(
        self, here: Bench, post: MailServer
    ) -> None:
        alone = here.worker()
        mail_id = await sent(here)
        await until_status(here, mail_id, "kept")
        await no_job(here)
        listed = here.bursar("mail", "list").stdout
        assert listed.startswith(f"{mail_id}\tkept\tverify_email\tcarl@example.com\t")
        assert listed.endswith("\tthere is no BURSAR_SMTP_HOST to give it to\n")
        assert LINK in here.bursar("mail", "show", str(mail_id)).stdout
        alone.kill()
        alone.wait(10)
        here.worker(**post.settings())
        assert here.bursar("mail", "resend", str(mail_id), "--json").code == 0
        await until_status(here, mail_id, "sent")
        assert len(post.envelopes()) == 1
        async with here.database.transaction(WORKER) as db:
            assert (await mail_outbox.show(db, mail_id)).words is None
