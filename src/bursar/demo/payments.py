"""Demo data of payments: every way to pay and every end, by the verbs that everything uses.

No provider is called: Stripe and PayPal are played by the provider for show, in test mode. Each
payment has a key of its own, so a second time finds it, also where the first one was cut short.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import queries as accounts
from bursar.auth.actor import Actor, Kind, Origin, operator
from bursar.auth.permissions import StaffRole
from bursar.booking import paying
from bursar.booking.models import Appointment, AppointmentStatus, PaymentStatus
from bursar.core.database import WORKER, Database
from bursar.payments import asking, automatic, receipts, refunds, service, settling
from bursar.payments.around_models import AutoTopUp
from bursar.payments.asking import Desk
from bursar.payments.models import Destination, Method, Payment, ProviderState, Status
from bursar.payments.providers import Fact, SavedMethod, What
from bursar.payments.providers.demo import Demo
from bursar.payments.providers.registry import MANUAL, Providers
from bursar.payments.service import NewPayment
from bursar.webhooks import service as webhooks
from bursar.webhooks.models import WebhookEndpoint

CARL = "carl@example.com"
STRIPE, PAYPAL, CASH = Method.STRIPE, Method.PAYPAL, Method.CASH
CHECK, BANK_TRANSFER = Method.CHECK, Method.BANK_TRANSFER
CARD = SavedMethod("demo_card_of_carl", brand="visa", last_four="4242", exp_month=12, exp_year=2031)
HOOK = "https://hooks.ternandtide.example/bursar"
OWNER = Origin(operator(StaffRole.OWNER))


@dataclass(frozen=True, slots=True)
class Till:
    """Where the demo's payments are made."""

    database: Database
    desk: Desk

    @classmethod
    def of(cls, database: Database) -> "Till":
        known = Providers({Demo.name: Demo.of(database.settings)})
        return cls(database, Desk(lambda: database.transaction(WORKER), known))

    async def tell(self, fact: Fact) -> None:
        async with self.database.transaction(WORKER) as db:
            await settling.apply(db, fact)


Then = Callable[[Till, Payment], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Story:
    """Who pays how much in which way, and what comes of it, step by step."""

    who: str
    method: Method
    amount: str
    then: tuple[Then, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)


def fact(what: What, payment: Payment, **more: Any) -> Fact:
    reference = {"id": str(payment.id)}
    object_id = more.pop("object_id", f"demo_{payment.id.hex}")
    return Fact(what, Demo.name, object_id, reference, currency=payment.currency, **more)


async def approved(till: Till, payment: Payment) -> None:
    """The customer has pressed the button on the provider's page."""
    fee = (payment.amount * Decimal("0.029") + Decimal("0.30")).quantize(Decimal("0.01"))
    await till.tell(fact(What.CAPTURED, payment, amount=payment.amount, fee=fee))


async def declined(till: Till, payment: Payment) -> None:
    reason = "The card has not enough money."
    await till.tell(fact(What.DECLINED, payment, code="insufficient_funds", reason=reason))


async def given_up(till: Till, payment: Payment) -> None:
    await asking.cancel(till.desk, payment.id)


async def card_kept(till: Till, payment: Payment) -> None:
    """And the wallet is filled from it, should it ever be nearly empty."""
    await till.tell(fact(What.METHOD_SAVED, payment, method=CARD, object_id=CARD.token))
    assert payment.user_id is not None  # noqa: S101 - it was just asked for
    wanted = automatic.Wanted(Decimal(10), Decimal(50), at_most_per_day=2)
    origin = Origin(Actor(Kind.CUSTOMER, payment.user_id))
    async with till.database.transaction(origin.actor.claim, origin=origin) as db:
        if await db.get(AutoTopUp, payment.user_id) is None:
            await automatic.change(db, payment.user_id, wanted)


async def contested(till: Till, payment: Payment) -> None:
    dispute = f"demo_dp_{payment.id.hex}"
    reason = "product_not_received"
    opened = fact(What.DISPUTE_OPENED, payment, object_id=dispute, reason=reason)
    await till.tell(opened)


async def received(till: Till, payment: Payment) -> None:
    """Staff have counted it, or found it on the bank statement."""
    async with till.database.transaction(WORKER, origin=OWNER) as db:
        await service.confirm(db, payment.id, amount=None, reason=None)


async def bounced(till: Till, payment: Payment) -> None:
    async with till.database.transaction(WORKER, origin=OWNER) as db:
        await service.bounce(db, payment.id, reason="The bank has returned the check.")


def gone_back(amount: str | None, to: Destination, reason: str) -> Then:
    async def refund(till: Till, payment: Payment) -> None:
        wanted = Decimal(amount) if amount else None
        key = f"demo:{reason}"
        async with till.database.transaction(WORKER, origin=OWNER) as db:
            asked, _ = await refunds.request(
                db, payment.id, wanted, destination=to, reason=reason, key=key
            )
        await asking.give_back(till.desk, asked.id)

    return refund


STORIES = (
    Story(CARL, STRIPE, "50.00", (approved, card_kept), {"save_method": True}),
    Story(CARL, PAYPAL, "25.00", (approved,)),
    Story("dora@example.com", STRIPE, "40.00", (
        approved, gone_back("15.00", Destination.PROVIDER, "One bag came damaged."))),
    Story("ines@example.com", PAYPAL, "30.00", (
        approved, gone_back(None, Destination.PROVIDER, "Paid twice."))),
    Story("jun@example.com", STRIPE, "60.00", (approved, contested)),
    Story("lena@example.com", STRIPE, "20.00", (declined, given_up)),
    Story("omar@example.com", CASH, "45.00", (received,)),
    Story("priya@example.com", CHECK, "80.00", (), {"reference": "No. 1187"}),
    Story("rosa@example.com", CHECK, "35.00", (bounced,), {"reference": "No. 0412"}),
    Story("buyer@harbourcafe.example", BANK_TRANSFER, "500.00", (received,),
          {"reference": "HARBOUR NOV"}),
    Story("orders@nightowl.example", BANK_TRANSFER, "120.00", (), {"reference": "NIGHT OWL 77"}),
    Story("kitchen@saltmarsh.example", STRIPE, "75.00"),
)  # fmt: skip
NUMBER = len(STORIES) + 1  # and an appointment that is paid for


async def add(database: Database) -> int:
    """Each is told from its beginning; what is so already changes nothing."""
    till = Till.of(database)
    for place, story in enumerate(STORIES):
        await tell(till, story, f"demo:{place}")
    await pay_appointment(till)
    async with database.transaction(OWNER.actor.claim, origin=OWNER) as db:
        await add_endpoint(db)
    return NUMBER


async def tell(till: Till, story: Story, key: str) -> None:
    async with till.database.transaction(WORKER) as db:
        user_id = await customer(db, story.who)
        known = await asked_before(db, user_id, key)
    payment = known or await ask(till, user_id, story, key)
    is_begun = payment.provider == MANUAL or payment.provider_state == ProviderState.WAITING
    if payment.status == Status.PENDING and not is_begun:
        await asking.create(till.desk, payment.id)
    for step in story.then:
        await step(till, payment)
    await number(till, payment.id)


async def customer(db: AsyncSession, email: str) -> UUID:
    found = await accounts.by_email(db, Kind.CUSTOMER, email)
    if found is None:
        raise LookupError(f"the demo data has no customer {email}")
    return found.id


async def asked_before(db: AsyncSession, user_id: UUID, key: str) -> Payment | None:
    query = select(Payment).filter_by(user_id=user_id, idempotency_key=key)
    found: Payment | None = await db.scalar(query)
    return found


async def ask(till: Till, user_id: UUID, story: Story, key: str) -> Payment:
    """As the customer themselves."""
    origin = Origin(Actor(Kind.CUSTOMER, user_id))
    amount = Decimal(story.amount)
    new = NewPayment(user_id, story.method, amount, key=key, fingerprint=b"demo", **story.facts)
    async with till.database.transaction(origin.actor.claim, origin=origin) as db:
        return (await service.intend(db, till.desk.providers, new)).payment


async def number(till: Till, payment_id: UUID) -> None:
    """Its receipt, if money has come: nobody listened yet when that was told."""
    async with till.database.transaction(WORKER) as db:
        if (await db.get_one(Payment, payment_id)).captured:
            await receipts.issue(db, payment_id)


async def pay_appointment(till: Till) -> None:
    """Carl's tasting, which is to be paid for in advance."""
    async with till.database.transaction(WORKER) as db:
        user_id = await customer(db, CARL)
        unpaid = select(Appointment).where(
            Appointment.user_id == user_id,
            Appointment.status == AppointmentStatus.BOOKED,
            Appointment.payment_status == PaymentStatus.UNPAID,
            Appointment.price > 0,
        )
        found = await db.scalar(unpaid.order_by(Appointment.starts_at).limit(1))
        if found is None or await asked_before(db, user_id, "demo:appointment"):
            return
    subject = {"subjects": {"appointment_id": found.id}}
    story = Story(CARL, STRIPE, str(found.price), (approved,), subject)
    await tell(till, story, "demo:appointment")
    async with till.database.transaction(WORKER) as db:
        payment = await asked_before(db, user_id, "demo:appointment")
        assert payment is not None  # noqa: S101 - it was just asked for
        await paying.settle(db, payment.id)


async def add_endpoint(db: AsyncSession) -> None:
    """Switched off, for nobody is at that address."""
    if await db.scalar(select(WebhookEndpoint.id).filter_by(url=HOOK)) is None:
        facts = {
            "url": HOOK,
            "description": "The shop's own system",
            "events": ["payments.*", "booking.*"],
            "enabled": False,
        }
        await webhooks.create(db, OWNER.actor, facts)
