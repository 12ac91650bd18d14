"""A receipt as PDF: the same bytes for the same receipt."""

from datetime import UTC, datetime
from pathlib import Path

from bursar.payments.receipts import Document


def pdf(document: Document, font: Path | None = None) -> bytes:
    """The whole file. What makes it is long to import: with the first, in a thread of its own."""
    from bursar.payments.receipt_sheet import Sheet

    sheet = Sheet(format="A4")
    sheet.begin(document, font)
    sheet.heading(document)
    for name, value in facts(document):
        sheet.row(name, value)
    if document.backs:
        sheet.section("Refunds")
        for back in document.backs:
            sheet.row(day(back.when), f"- {back.amount}, {back.how}")
        sheet.row("What is left", document.kept or "", bold=True)
    sheet.ending(document)
    content = bytes(sheet.output())
    sheet.close()
    return content


def facts(document: Document) -> list[tuple[str, str]]:
    return [
        ("Receipt", document.number),
        ("Date", day(document.paid_at)),
        ("Customer", document.customer),
        ("", document.email or ""),
        ("For", document.what_for),
        ("Paid by", document.method),
        ("Amount", document.amount),
        ("Payment", str(document.payment_id)),
    ]


def day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}"
