"""The receipt of a payment, for its owner and for staff: a page to print, or a PDF."""

import asyncio
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from bursar.auth.actor import Actor
from bursar.auth.guard import customer_or_staff, everyone, staff
from bursar.auth.permissions import Permission
from bursar.core.database import WORKER, Database, Db
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.payments import receipt_mail, receipts
from bursar.payments.queries import UnknownPayment
from bursar.payments.receipt_pdf import pdf
from bursar.payments.receipts import Document

router = APIRouter(prefix="/payments", tags=["payments"], route_class=Route)
staff_router = APIRouter(tags=["payments"], route_class=Route)
page_router = APIRouter(
    prefix="/receipts", include_in_schema=False, dependencies=[everyone], route_class=Route
)

READ = customer_or_staff(Permission.PAYMENTS_READ)
WRITE = staff(Permission.PAYMENTS_WRITE)
PDF, HTML = "application/pdf", "text/html"
POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none';"
    " base-uri 'none'; form-action 'none'",
    "Cache-Control": "private, no-store",
    "Vary": "Accept",
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The receipt.", "content": {HTML: {}, PDF: {}}}
}
Format = Annotated[
    Literal["html", "pdf"] | None, Query(description="Otherwise what Accept says, else html.")
]


@router.get(
    "/{payment_id}/receipt",
    response_class=Response,
    responses={**documented(UnknownPayment, receipts.NothingReceived), **ANSWERS},
)
async def read_receipt(
    request: Request,
    actor: Annotated[Actor, READ],
    payment_id: UUID,
    format: Format = None,  # noqa: A002 - as it stands in the URL
) -> Response:
    """What was paid, for what and how, and what went back of it."""
    document = await found(request.app.state.database, actor, payment_id)
    wanted = format or ("pdf" if PDF in request.headers.get("accept", "") else "html")
    if wanted == "html":
        return HTMLResponse(page(document), headers=POLICY)
    font = request.app.state.settings.receipt_font
    content = await asyncio.to_thread(pdf, document, font)
    name = f'inline; filename="receipt-{document.number}.pdf"'
    return Response(content, media_type=PDF, headers={**POLICY, "Content-Disposition": name})


async def found(database: Database, actor: Actor, payment_id: UUID) -> Document:
    """Only whoever sees the payment has it numbered, where that was not done yet."""
    async with database.transaction(actor.claim) as db:
        if document := await receipts.document(db, payment_id):
            return document
    async with database.transaction(WORKER) as db:
        await receipts.issue(db, payment_id)
    async with database.transaction(actor.claim) as db:
        document = await receipts.document(db, payment_id)
    assert document is not None  # noqa: S101 - it was issued, and receipts never go
    return document


def page(document: Document) -> str:
    return environment().get_template("receipt.html").render(receipt=document)


@cache
def environment() -> Environment:
    return Environment(
        loader=PackageLoader("bursar.payments", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


@page_router.get("/page.css")
async def style() -> Response:
    return Response(stylesheet(), media_type="text/css")


@cache
def stylesheet() -> str:
    return (resources.files("bursar.payments") / "templates" / "receipt.css").read_text()


@staff_router.post(
    "/payments/{payment_id}/receipt-mails",
    status_code=202,
    dependencies=[WRITE],
    responses=documented(UnknownPayment, receipts.NothingReceived, receipt_mail.NobodyToMail),
)
async def mail_receipt(db: Db, payment_id: UUID) -> dict[Literal["status"], Literal["queued"]]:
    """Mails the receipt to whoever paid, once more."""
    await receipt_mail.send_again(db, payment_id)
    return {"status": "queued"}
