"""The demo provider's page: whoever holds its link approves or declines, and no money moves."""

from functools import cache
from importlib import resources
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from bursar.auth.guard import everyone
from bursar.core.database import WORKER
from bursar.core.errors import NotFound
from bursar.core.wire import Route
from bursar.payments import queries, settling
from bursar.payments.models import Payment, ProviderState
from bursar.payments.providers import Fact, What
from bursar.payments.providers.demo import Demo
from bursar.payments.schemas import exactly

router = APIRouter(
    prefix="/demo-payments", include_in_schema=False, dependencies=[everyone], route_class=Route
)

POLICY = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'"
}
Text = Annotated[str, Form(max_length=200)]


def demo(request: Request, payment_id: UUID, token: str) -> Demo:
    """Only where there is one, and only for whoever has the link."""
    provider = request.app.state.providers.known.get(Demo.name)
    if not isinstance(provider, Demo) or not provider.knows(str(payment_id), token):
        raise NotFound("There is nothing at this address.")
    return provider


@router.get("/page.css")
async def style() -> Response:
    return Response(stylesheet(), media_type="text/css")


@cache
def stylesheet() -> str:
    return (resources.files("bursar.payments") / "templates" / "demo_payment.css").read_text()


@router.get("/{payment_id}")
async def show(request: Request, payment_id: UUID, token: str = "") -> Response:
    """What is to be paid, with two buttons."""
    demo(request, payment_id, token)
    async with request.app.state.database.transaction(WORKER) as db:
        payment = await queries.payment(db, payment_id)
    return page(payment, token)


@router.post("/{payment_id}")
async def decide(
    request: Request, payment_id: UUID, token: Text = "", decision: Text = ""
) -> Response:
    """Approved, or declined: a fact, as a webhook of a real provider would tell it."""
    provider = demo(request, payment_id, token)
    async with request.app.state.database.transaction(WORKER) as db:
        payment = await queries.payment(db, payment_id)
        if payment.provider_state == ProviderState.WAITING:
            await settling.apply(db, said(payment, decision))
    url = f"/demo-payments/{payment_id}?token={provider.token(str(payment_id))}"
    return RedirectResponse(url, status_code=303, headers=POLICY)


def said(payment: Payment, decision: str) -> Fact:
    reference = {"id": str(payment.id)}
    object_id = f"demo_{payment.id.hex}"
    if decision == "approve":
        return Fact(
            What.CAPTURED,
            Demo.name,
            object_id,
            reference,
            amount=payment.amount,
            currency=payment.currency,
        )
    return Fact(
        What.DECLINED,
        Demo.name,
        object_id,
        reference,
        code="card_declined",
        reason="Declined on the demo page.",
    )


def page(payment: Payment, token: str) -> Response:
    context: dict[str, Any] = {
        "payment": payment,
        "amount": exactly(payment.amount, payment.currency),
        "token": token,
        "waits": payment.provider_state == ProviderState.WAITING,
    }
    text = environment().get_template("demo_payment.html").render(context)
    return HTMLResponse(text, headers=POLICY)


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
