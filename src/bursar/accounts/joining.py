"""How somebody comes to the staff: by invitation, by an operator's command, by the first link."""

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import sign_in, staff
from bursar.accounts.models import AdminUser, StaffStatus
from bursar.accounts.recovery import known_of
from bursar.accounts.rules import FIRST_LINK_GOOD_FOR
from bursar.accounts.sign_in import SignedIn
from bursar.audit import service as audit
from bursar.auth import one_time, passwords, throttle
from bursar.auth.actor import OPERATOR_ID, Actor, Kind
from bursar.auth.door import Door
from bursar.auth.one_time import Purpose
from bursar.auth.permissions import StaffRole
from bursar.core.errors import BursarError

NOBODY_YET = OPERATOR_ID  # whom the first link is for: one link at a time


async def accept(door: Door, token: str, password: str, name: str | None) -> SignedIn:
    """Whoever has the link from the mail chooses a password, and is signed in."""
    await throttle.count(door.database, throttle.links(door.origin.address))
    passwords.check(password, about=())
    hashed = await passwords.hash(password)
    async with door.transaction() as db:
        used = await one_time.use(db, Purpose.INVITATION, token)
        person = await sign_in.held(db, Kind.STAFF, used.subject)
        if person is None or person.status != StaffStatus.INVITED:
            raise one_time.bad_token()
        before = staff.seen(person)
        person.name = name or person.name
        passwords.check(password, about=known_of(person))
        person.password_hash, person.status = hashed, StaffStatus.ACTIVE
        await db.flush()
        await audit.record(
            db,
            "staff.joined",
            "staff",
            person.id,
            before=before,
            after=staff.seen(person),
            actor=as_themselves(person),
        )
        return await sign_in.open_session(db, door, Kind.STAFF, person, method="invitation")


def as_themselves(person: AdminUser) -> Actor:
    return Actor(Kind.STAFF, person.id, StaffRole(person.role))


async def create(door: Door, *, email: str, name: str, role: StaffRole, password: str) -> AdminUser:
    """By an operator: without an invitation, with a password that works at once."""
    passwords.check(password, about=(email, name))
    hashed = await passwords.hash(password)
    async with door.transaction() as db:
        await staff.wait_for_others(db)
        member = await add_active(db, email=email, name=name, role=role, hashed=hashed)
        await audit.record(db, "staff.created", "staff", member.id, after=staff.seen(member))
    return member


async def add_active(
    db: AsyncSession, *, email: str, name: str, role: StaffRole, hashed: str
) -> AdminUser:
    facts = {"email": email, "name": name, "role": role, "password_hash": hashed}
    return await staff.add(db, {**facts, "status": StaffStatus.ACTIVE})


async def first_link(door: Door) -> str | None:
    """The token of a link to the page where the first owner signs up; None where staff exist.

    The one before is good no more.
    """
    async with door.transaction() as db:
        if await anybody_works_here(db):
            return None
        return await one_time.make(db, Purpose.FIRST_RUN, NOBODY_YET, FIRST_LINK_GOOD_FOR)


async def anybody_works_here(db: AsyncSession) -> bool:
    """Also an invited one, also one who has left: then this is no new installation."""
    return await db.scalar(select(AdminUser.id).limit(1)) is not None


LOOK = text("""
  select exists (
    select from one_time_tokens
    where hash = :hash and purpose = :purpose and expires_at > now()
  )
""")


async def look_at_first_link(door: Door, token: str) -> None:
    """Before anybody fills in the form: BadOneTimeToken where it would be in vain."""
    await throttle.count(door.database, throttle.links(door.origin.address))
    key = {"hash": one_time.digest(token), "purpose": Purpose.FIRST_RUN}
    async with door.transaction() as db:
        if await anybody_works_here(db) or not await db.scalar(LOOK, key):
            raise bad_first_link()


def bad_first_link() -> BursarError:
    return one_time.BadOneTimeToken(
        "This link is used or too old, or somebody works here already. "
        "As long as nobody does, `bursar serve` prints a new one each time that it starts."
    )


async def use_first_link(
    door: Door, token: str, *, email: str, name: str, password: str
) -> AdminUser:
    """The first owner, by whoever can read what the server prints."""
    await throttle.count(door.database, throttle.links(door.origin.address))
    passwords.check(password, about=(email, name))
    hashed = await passwords.hash(password)
    async with door.transaction() as db:
        await staff.wait_for_others(db)
        if await anybody_works_here(db):
            raise bad_first_link()
        await one_time.use(db, Purpose.FIRST_RUN, token)
        owner = await add_active(db, email=email, name=name, role=StaffRole.OWNER, hashed=hashed)
        after = {**staff.seen(owner), "by": "the first link"}
        await audit.record(
            db, "staff.created", "staff", owner.id, after=after, actor=as_themselves(owner)
        )
    return owner
