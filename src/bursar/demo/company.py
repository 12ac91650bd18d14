"""Demo data: a small company that looks alive, made through the services that everything uses."""

import base64
import hashlib
import hmac
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import joining, queries, sign_in
from bursar.accounts import service as accounts
from bursar.accounts.models import CustomerRole, Status, Tier
from bursar.auth import passwords
from bursar.auth.actor import Kind, Origin, operator
from bursar.auth.door import Door
from bursar.auth.permissions import StaffRole
from bursar.auth.tokens import Tokens
from bursar.core import money
from bursar.core.database import WORKER, Database
from bursar.core.settings import Settings
from bursar.demo import billing, bookings, payments, usage
from bursar.system import queries as system_queries
from bursar.system import service as system
from bursar.wallets import ledger
from bursar.wallets import service as wallets
from bursar.wallets.ledger import Request
from bursar.wallets.models import Operation

SETTINGS = {"company_name": "Tern & Tide Roasters", "support_email": "help@ternandtide.example"}

STAFF = {
    "olivia@ternandtide.example": ("Olivia Ortega", StaffRole.OWNER),
    "adam@ternandtide.example": ("Adam Achebe", StaffRole.ADMINISTRATOR),
    "sue@ternandtide.example": ("Sue Sørensen", StaffRole.SUPPORT),
    "anna@ternandtide.example": ("Anna Albrecht", StaffRole.ANALYST),
    "mark@ternandtide.example": ("Mark Moreau", StaffRole.MARKETER),
}
CUSTOMER = "carl@example.com"  # the one who signs in with the demo password
INDIVIDUAL, BUSINESS = CustomerRole.INDIVIDUAL_CLIENT, CustomerRole.BUSINESS_CLIENT
CUSTOMERS = (
    (CUSTOMER, "Carl Carlson", INDIVIDUAL, Tier.PRO, Status.ACTIVE),
    ("dora@example.com", "Dora Dorn", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("ines@example.com", "Inés Ibarra", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("jun@example.com", "Jun Jiang", INDIVIDUAL, Tier.PRO, Status.ACTIVE),
    ("kofi@example.com", "Kofi Kusi", INDIVIDUAL, Tier.FREE, Status.PENDING),
    ("lena@example.com", "Lena Lindqvist", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("nadia@example.com", "Nadia Nowak", INDIVIDUAL, Tier.PRO, Status.SUSPENDED),
    ("omar@example.com", "Omar Osei", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("priya@example.com", "Priya Patel", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("rosa@example.com", "Rosa Ricci", INDIVIDUAL, Tier.FREE, Status.ACTIVE),
    ("buyer@harbourcafe.example", "Harbour Café", BUSINESS, Tier.ENTERPRISE, Status.ACTIVE),
    ("orders@nightowl.example", "Night Owl Books", BUSINESS, Tier.PRO, Status.ACTIVE),
    ("kitchen@saltmarsh.example", "Saltmarsh Kitchen", BUSINESS, Tier.PRO, Status.ACTIVE),
    ("desk@foundry.example", "The Foundry", BUSINESS, Tier.ENTERPRISE, Status.PENDING),
)


def password(settings: Settings) -> str:
    """The demo password of this installation: known to whoever may read its secret key, and to
    nobody who knows only this file."""
    digest = hmac.digest(settings.secret_keys[-1].encode(), b"demo password", "sha256")
    text = base64.b32encode(hashlib.sha256(digest).digest()).decode().lower()
    return f"tern-{text[:4]}-{text[4:8]}-{text[8:12]}"


async def load(database: Database) -> dict[str, int]:
    """Loading it again changes nothing, and adds what a crash has left out."""
    origin = Origin(operator(StaffRole.OWNER))
    door = Door(database, Tokens(database.settings.secret_keys), origin)
    await add_staff(door)
    async with database.transaction(origin.actor.claim, origin=origin) as db:
        await change_settings(db)
    async with door.transaction() as db:
        await add_customers(db, await passwords.hash(password(database.settings)))
    async with database.transaction(WORKER) as db:
        transfers = await move_money(db)
    async with database.transaction(origin.actor.claim, origin=origin) as db:
        booked = await bookings.add(db)
        keys = await usage.add_keys(db)
        plans = await billing.add(db)
    await usage.report(database)
    paid = await payments.add(database)
    return {
        "settings": len(SETTINGS),
        "staff": len(STAFF),
        "customers": len(CUSTOMERS),
        "transfers": transfers,
        "bookings": booked,
        "payments": paid,
        "api_keys": keys,
        "price_plans": plans,
    }


async def add_staff(door: Door) -> None:
    async with door.transaction() as db:
        missing = [each for each in STAFF if await queries.by_email(db, Kind.STAFF, each) is None]
    secret = password(door.settings)
    for email in missing:
        name, role = STAFF[email]
        await joining.create(door, email=email, name=name, role=role, password=secret)


async def change_settings(db: AsyncSession) -> None:
    changed = {view.key for view in await system_queries.settings(db) if view.version}
    wanted = {key: value for key, value in SETTINGS.items() if key not in changed}
    if wanted:
        await system.change(db, wanted)


async def add_customers(db: AsyncSession, hashed: str) -> None:
    for email, name, role, tier, status in CUSTOMERS:
        if await queries.by_email(db, Kind.CUSTOMER, email) is None:
            facts = {"email": email, "name": name, "role": role, "tier": tier, "status": status}
            user = await accounts.create(db, facts)
            if email == CUSTOMER:
                held = await sign_in.held(db, Kind.CUSTOMER, user.id)
                held.password_hash = hashed


PURCHASES = (  # what, for how much in dollars, how many days ago
    ("beans", "24.50", 27),
    ("classes", "60.00", 24),
    ("api", "0.004275", 20),
    ("beans", "18.00", 16),
    ("equipment", "39.90", 11),
    ("api", "0.019800", 6),
    ("beans", "24.50", 2),
)
FUNDS = Decimal("250.00")
SCALE = 6  # of dollars


async def move_money(db: AsyncSession) -> int:
    """A month of purchases, all of them or none, so that a second time finds them there."""
    now = datetime.now(UTC)
    requests = []
    for place, (email, *_, status) in enumerate(CUSTOMERS):
        customer = await queries.by_email(db, Kind.CUSTOMER, email)
        if customer is not None and status == Status.ACTIVE:
            requests += purchases(customer.id, PURCHASES[place % 3 :], now)
    known = select(func.count()).where(Operation.scope == "demo")
    if not await db.scalar(known):
        await wallets.post_all(db, requests)
    return len(requests)


def purchases(
    customer: UUID, bought: Sequence[tuple[str, str, int]], now: datetime
) -> list[Request]:
    wallet = ledger.user(customer)
    legs = [
        ledger.transfer(
            "clearing",
            wallet,
            money.minor(FUNDS, SCALE),
            kind="funding",
            effective_at=now - timedelta(days=28),
        )
    ]
    legs += [
        ledger.transfer(
            wallet,
            "revenue",
            money.minor(Decimal(price), SCALE),
            kind="charge",
            category=what,
            effective_at=now - timedelta(days=days_ago),
        )
        for what, price, days_ago in bought
    ]
    return [Request("demo", f"{customer}:{n}", (leg,)) for n, leg in enumerate(legs)]
