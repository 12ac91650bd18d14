"""Receipts: one number for each payment without gaps, mailed once, and as the payment is now."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from bursar.core import mail_sending
from bursar.core.database import WORKER
from bursar.core.mail_outbox import MAX_ATTACHMENT_BYTES, Attachment, Words
from bursar.payments import receipts
from bursar.payments.providers import SavedMethod, What
from bursar.payments.receipt_pdf import pdf
from bursar.payments.receipt_sheet import ENCODING, MISSING, Sheet
from bursar.payments.receipts import Document
from tests import databases
from tests.accounts.people import change, mails, rows, run_jobs
from tests.conftest import Live
from tests.payments.surroundings import listen, settle
from tests.payments.tills import cancelled, captured, fact, intend, refunded, tell
from tests.wallets.purses import move_in, refused
from tests.world import CARL, DORA, MARK, OLIVIA, SUE

API = "/api/v1/payments"
FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")


async def paid(live: Live, amount: Any = 20, **given: Any) -> UUID:
    payment = await intend(live, CARL, amount, **given)
    await tell(live, captured(payment, amount, fee=Decimal("0.88")))
    return payment


async def shown(live: Live, payment: UUID, who: Any = CARL, **ask: Any) -> Any:
    async with live.api(who) as api:
        return await api.get(f"{API}/{payment}/receipt", **ask)


async def test_the_page_says_what_was_paid_and_not_what_it_cost_us(live_db: Live) -> None:
    await move_in(live_db)
    await change(live_db, "company_name", "Tern & Tide <Roasters>")
    payment = await paid(live_db, description="<b>Beans</b>")
    answer = await shown(live_db, payment)
    assert answer.status_code == 200
    assert "Tern &amp; Tide &lt;Roasters&gt;" in answer.text
    assert "&lt;b&gt;Beans&lt;/b&gt;" in answer.text
    assert "20.00 USD" in answer.text
    assert "0.88" not in answer.text
    assert "TEST MODE" not in answer.text
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "<script" not in answer.text
    assert "style=" not in answer.text
    assert "no-store" in answer.headers["cache-control"]
    async with live_db.api() as api:
        assert (await api.get("/receipts/page.css")).headers["content-type"].startswith("text/css")


async def test_its_form_is_what_is_asked_for(live_db: Live) -> None:
    await move_in(live_db)
    payment = await paid(live_db)
    for ask in ({"params": {"format": "pdf"}}, {"headers": {"Accept": "application/pdf"}}):
        answer = await shown(live_db, payment, **ask)
        assert answer.headers["content-type"] == "application/pdf"
        assert answer.content.startswith(b"%PDF-")
    again = await shown(live_db, payment, params={"format": "pdf"})
    assert again.content == answer.content
    bad = await shown(live_db, payment, params={"format": "doc"})
    assert bad.status_code == 422


async def test_only_who_may_see_the_payment_sees_its_receipt(live_db: Live) -> None:
    await move_in(live_db)
    payment = await paid(live_db)
    assert refused(await shown(live_db, payment, DORA)) == (404, "payments.unknown_payment")
    assert (await shown(live_db, payment, MARK)).status_code == 403
    assert (await rows(live_db, "select * from receipts")) == []  # and nobody else numbers it
    assert (await shown(live_db, payment, SUE)).status_code == 200
    query = "select payment_id from receipts"
    async with live_db.database.transaction(DORA.claim) as db:
        assert (await db.execute(text(query))).all() == []


@pytest.mark.parametrize("over", [False, True])
async def test_no_receipt_where_no_money_came(live_db: Live, over: bool) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20)
    if over:
        await tell(live_db, cancelled(payment))
    answer = await shown(live_db, payment)
    assert refused(answer) == (409, "payments.nothing_received")
    assert await rows(live_db, "select * from series_numbers") == []


async def test_numbers_have_no_gap_whoever_asks_at_once(live_db: Live) -> None:
    await move_in(live_db)
    real = [await paid(live_db) for _ in range(5)]
    tests = [await paid(live_db, test_mode=True) for _ in range(3)]

    async def number(payment: UUID, *, fails: bool = False) -> None:
        try:
            async with live_db.database.transaction(WORKER) as db:
                await receipts.issue(db, payment)
                if fails:
                    raise RuntimeError("rolled back")
        except RuntimeError:
            pass

    await number(real[0], fails=True)
    await asyncio.gather(*(number(each) for each in (*real, *tests, *real, *tests)))
    query = "select array_agg(number order by number) as numbers from receipts where series = $1"
    for series, size in (("live", 5), ("test", 3)):
        [row] = await rows(live_db, query, series)
        assert row["numbers"] == list(range(1, size + 1))


async def test_refunds_and_disputes_are_on_it(live_db: Live) -> None:
    await move_in(live_db)
    payment = await paid(live_db)
    await tell(live_db, refunded(payment, "re_1", 5))
    await tell(live_db, fact(payment, What.DISPUTE_OPENED, "du_1", 10))
    await tell(live_db, fact(payment, What.DISPUTE_LOST, "du_1", 10))
    page = (await shown(live_db, payment)).text
    assert "-5.00 USD, the way it came" in page
    assert "-10.00 USD, by a dispute" in page
    assert "5.00 USD</dd>" in page.rpartition("What is left")[2]


async def test_the_method_is_told_by_its_last_four(live_db: Live) -> None:
    await move_in(live_db)
    payment = await intend(live_db, CARL, 20, save_method=True)
    saved = SavedMethod("pm_1", brand="visa", last_four="4242", exp_month=12, exp_year=2030)
    await tell(live_db, captured(payment, 20))
    await tell(live_db, fact(payment, What.METHOD_SAVED, "pm_1", method=saved))
    assert "Visa ending in 4242" in (await shown(live_db, payment)).text


async def test_it_is_mailed_once_with_the_pdf(live_db: Live) -> None:
    await move_in(live_db)
    await listen(live_db)
    payment = await paid(live_db, test_mode=True)
    for _ in range(2):
        await settle(live_db)
    [mail] = await mails(live_db, "carl@example.com")
    assert mail.words is not None
    assert mail.words.subject.startswith("[TEST] Your receipt TEST-")
    assert mail.words.attachment is not None
    assert (
        mail.words.attachment.bytes
        == (await shown(live_db, payment, params={"format": "pdf"})).content
    )
    assert b"%PDF" not in (await rows(live_db, "select sealed from mails"))[0]["sealed"]


async def test_staff_mail_it_again_and_the_setting_stops_the_first(live_db: Live) -> None:
    await move_in(live_db)
    await listen(live_db)
    await change(live_db, "receipts_mailed", value=False)
    payment = await paid(live_db)
    await settle(live_db)
    assert await mails(live_db, "carl@example.com") == []
    async with live_db.api(OLIVIA) as api:
        path = f"/api/v1/admin/payments/{payment}/receipt-mails"
        assert (await api.post(path)).status_code == 202
        assert (await api.post(path)).status_code == 202  # one is on its way
    await run_jobs(live_db)
    assert len(await mails(live_db, "carl@example.com")) == 1
    await rows(live_db, "update users set erased_at = now() where id = $1", CARL.id)
    async with live_db.api(OLIVIA) as api:
        assert refused(await api.post(path)) == (409, "payments.nobody_to_mail")


def document(**given: Any) -> Document:
    now = datetime(2026, 11, 28, 12, tzinfo=UTC)
    facts = {
        "number": "2026-000001", "is_test": True, "company": "Otters", "support": "a@example.com",
        "issued_at": now, "paid_at": now, "customer": "Carl", "email": "carl@example.com",
        "what_for": "Beans", "method": "Visa ending in 4242", "amount": "20.00 USD", "backs": (),
        "kept": None, "payment_id": CARL.id,
    }  # fmt: skip
    return Document(**{**facts, **given})


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("Carl Carlson", "Carl Carlson"),
        ("José Ångström", "José Ångström"),
        ("Łukasz Żółć", "Lukasz Zólc"),
        ("Ελένη", "Eleni"),
        ("Иван Щукин", "Ivan Shchukin"),
        ("李小龙", MISSING),
        ("Ann 李 B", f"Ann {MISSING} B"),
    ],
)
def test_no_letter_is_lost_unseen(name: str, written: str) -> None:
    sheet = Sheet()
    sheet.core_fonts_encoding = ENCODING
    assert sheet.written(name) == written
    assert sheet.replaced is (name != written)
    assert pdf(document(customer=name)).startswith(b"%PDF-")


@pytest.mark.skipif(not FONT.exists(), reason="no TrueType font on this machine")
def test_with_a_font_of_ones_own_names_stand_as_they_are() -> None:
    sheet = Sheet()
    sheet.begin(document(), FONT)
    assert sheet.written("Łukasz Иван Ελένη") == "Łukasz Иван Ελένη"
    sheet.close()
    assert pdf(document(customer="Иван"), FONT) == pdf(document(customer="Иван"), FONT)


def test_the_mail_carries_it_as_a_file_of_its_own() -> None:
    content = pdf(document())
    attached = Attachment.of("receipt.pdf", "application/pdf", content)
    mail = Words("carl@example.com", "Otters", "Hi", "text\n", "<p>html</p>", attached)
    settings = databases.test_settings(mail_from="us@example.com")
    letter = mail_sending.Letter(uuid4(), "<1@x>", datetime.now(UTC), mail, settings)
    message = mail_sending.written(letter)
    [part] = message.iter_attachments()
    assert part.get_content() == content
    assert part.get_filename() == "receipt.pdf"
    assert message.get_body(("html",)).get_content().strip() == "<p>html</p>"
    assert message.as_bytes() == mail_sending.written(letter).as_bytes()
    with pytest.raises(ValueError, match="at most"):
        Attachment.of("big", "application/pdf", b"x" * (MAX_ATTACHMENT_BYTES + 1))
