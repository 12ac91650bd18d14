"""Reads of customers and staff."""

import re
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Select,
    Uuid,
    and_,
    any_,
    func,
    inspect,
    literal,
    select,
    text,
)
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import aliased

from bursar.accounts.models import (
    AdminUser,
    Identity,
    StaffStatus,
    Status,
    User,
    UserPreferences,
)
from bursar.auth import sessions
from bursar.auth.actor import Kind
from bursar.auth.permissions import StaffRole
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.paging import Order, Page, PageQuery, fetch


def user_order(users: type[User]) -> Order:
    columns = {"created_at": users.created_at, "email": users.email, "name": users.name}
    return Order(columns, key=users.id, default="-created_at")


USERS = user_order(User)
STAFF = Order(
    {"created_at": AdminUser.created_at, "email": AdminUser.email, "name": AdminUser.name},
    key=AdminUser.id,
    default="created_at",
)
READABLE = [each.columns[0] for each in inspect(User).column_attrs if not each.deferred]
COUNTED = 10_000  # beyond that a list says "more than": counting would cost more than the page
FOUND = 1_000  # by a search; who gets more has to say more
GLANCE = 10_000  # rows, a few milliseconds
INDEXED = 3  # letters: the index knows no shorter piece of a word
RECENT = 5


async def users(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: str | None = None,
    tier: str | None = None,
    role: str | None = None,
    search: str | None = None,
) -> Page[User]:
    """Those that fit. A deleted one is only shown to who asks for the deleted."""
    if search:
        return await searched(db, ask, words_of(search), status=status, tier=tier, role=role)
    return await fetch(db, narrowed(status, tier, role), ask, USERS, count_to=COUNTED)


def narrowed(status: str | None, tier: str | None, role: str | None) -> Select[User]:
    query = select(User).where(User.status == status if status else User.status != Status.DELETED)
    if tier:
        query = query.where(User.tier == tier)
    if role:
        query = query.where(User.role == role)
    return query


async def searched(
    db: AsyncSession, ask: PageQuery, words: list[str], **filters: str | None
) -> Page[User]:
    """Once more than FOUND fit, they are not counted, and which of them are shown is left open:
    the newest of very many can only be found by a walk through the whole table.

    `offset 0` keeps PostgreSQL from such a walk to put the few that were found in order.
    """
    ids = await glance(db, narrowed(**filters), words)
    if ids is None:
        asked = {**filters, "patterns": patterns_of(words), "most": FOUND + 1}
        ids = list(await db.scalars(LIKE, asked))
    rows = select(*READABLE).where(User.id == any_(literal(ids, ARRAY(Uuid))))
    found = aliased(User, rows.offset(0).subquery())
    return await fetch(db, select(found), ask, user_order(found), count_to=FOUND)


# Not a plain query: for staff it would not use the index (accounts/database.sql).
LIKE = text("""
  select * from customers_like(cast(:patterns as text[]), :status, :tier, :role, :most)
""")


async def glance(db: AsyncSession, query: Select[User], words: list[str]) -> list[UUID] | None:
    """Looks through a piece of the table: enough where a word fits many, or the filters few.

    The index would first collect everything that a word fits; PostgreSQL cannot know that it is
    much, because for staff it may not use its statistics. None where the index has to be asked.
    """
    piece = query.with_only_columns(User.id, User.searched).limit(GLANCE).cte("piece")
    fitting = select(piece.c.id).where(fits(piece.c.searched, words)).limit(FOUND + 1)
    seen = select(func.count()).select_from(piece).scalar_subquery()
    row = (await db.execute(select(seen, func.array(fitting.scalar_subquery())))).one()
    looked_at, ids = row
    return list(ids) if looked_at < GLANCE or len(ids) > FOUND else None


def words_of(search: str) -> list[str]:
    words = [word for word in search.lower().split() if any(map(str.isalnum, word))]
    if not words:
        raise InvalidInput.at("?search", "Search for something with a letter or a digit in it.")
    return words


def fits(searched: Any, words: list[str]) -> ColumnElement[bool]:
    return and_(*(searched.like(pattern) for pattern in patterns_of(words)))


def patterns_of(words: list[str]) -> list[str]:
    """Every word somewhere in name, address or username; a short one where a word begins."""
    starts = ["" if len(word) >= INDEXED else " " for word in words]
    return [f"%{start}{plain(word)}%" for start, word in zip(starts, words, strict=True)]


def plain(word: str) -> str:
    """Nothing in it stands for anything else."""
    return re.sub(r"([%_\\])", r"\\\1", word)


async def user(db: AsyncSession, user_id: UUID) -> User:
    row = await db.get(User, user_id, populate_existing=True)
    if row is None:
        raise NotFound("There is no such customer.")
    return row


async def preferences(db: AsyncSession, user_id: UUID) -> UserPreferences | None:
    return await db.get(UserPreferences, user_id, populate_existing=True)


async def by_email(db: AsyncSession, kind: Kind, email: str) -> User | AdminUser | None:
    """Whoever signs in with this address."""
    query: Select[Any]
    if kind is Kind.CUSTOMER:
        query = select(User).where(text("users.id = customer_with_email(:email)"))
    else:
        query = select(AdminUser).where(
            text("lower(admin_users.email) = :email"), AdminUser.status != StaffStatus.DELETED
        )
    person: User | AdminUser | None = await db.scalar(query, {"email": email.lower()})
    return person


async def has_username(db: AsyncSession, username: str, except_for: UUID) -> bool:
    """Whether anybody else has it, in whatever case."""
    found = await db.scalar(select(func.customer_with_username(username)))
    return found is not None and found != except_for


async def overview(db: AsyncSession) -> tuple[dict[str, int], list[User]]:
    """How many there are of each status, and the newest."""
    rows = await db.execute(select(User.status, func.count()).group_by(User.status))
    counted = dict.fromkeys(Status, 0) | {status: n for status, n in rows}  # noqa: C416
    newest = select(User).where(User.status != Status.DELETED)
    newest = newest.order_by(User.created_at.desc(), User.id.desc()).limit(RECENT)
    return counted, list(await db.scalars(newest))


async def signed_up_since(db: AsyncSession, moment: datetime) -> int:
    query = select(func.count()).select_from(User).where(User.created_at >= moment)
    return await db.scalar(query) or 0


PersonalData = Callable[[AsyncSession, UUID], Awaitable[Any]]
personal_data: dict[str, PersonalData] = {}


def keeps_personal_data(part: str) -> Callable[[PersonalData], PersonalData]:
    """A domain that keeps data about customers says so, and its part stands in their export."""

    def register(function: PersonalData) -> PersonalData:
        if part in personal_data:
            raise ValueError(f"two parts of the export are called {part}")
        personal_data[part] = function
        return function

    return register


@keeps_personal_data("identities")
async def identities(db: AsyncSession, user_id: UUID) -> list[dict[str, Any]]:
    rows = await db.scalars(select(Identity).where(Identity.user_id == user_id))
    return [
        {"issuer": row.issuer, "subject": row.subject, "created_at": row.created_at} for row in rows
    ]


@keeps_personal_data("sessions")
async def open_sessions(db: AsyncSession, user_id: UUID) -> list[dict[str, Any]]:
    kept = ("id", "created_at", "last_used_at", "expires_at", "address", "user_agent", "method")
    rows = await sessions.of(db, Kind.CUSTOMER, user_id)
    # Where a member of staff sits who looks in as this customer is none of the customer's data.
    staffs: dict[str, None] = {"address": None, "user_agent": None}
    return [
        {name: getattr(row, name) for name in kept} | (staffs if row.impersonator else {})
        for row in rows
    ]


async def staff(
    db: AsyncSession,
    ask: PageQuery,
    *,
    status: str | None = None,
    role: str | None = None,
    search: str | None = None,
) -> Page[AdminUser]:
    """Those that fit. One who has left is only shown to who asks for the deleted."""
    query = select(AdminUser).where(
        AdminUser.status == status if status else AdminUser.status != StaffStatus.DELETED
    )
    if role:
        query = query.where(AdminUser.role == role)
    for word in (search or "").split():
        named = func.lower(AdminUser.name + " " + AdminUser.email)
        query = query.where(named.contains(word.lower(), autoescape=True))
    return await fetch(db, query, ask, STAFF)


async def staff_overview(
    db: AsyncSession,
) -> tuple[dict[str, int], dict[str, int], list[AdminUser]]:
    """How many there are of each status, how many of each role work here now, and the newest."""
    counting = select(AdminUser.status, AdminUser.role, func.count())
    by_status: dict[str, int] = dict.fromkeys(map(str, StaffStatus), 0)
    by_role: dict[str, int] = dict.fromkeys(map(str, StaffRole), 0)
    for status, role, count in await db.execute(counting.group_by("status", "role")):
        by_status[status] += count
        by_role[role] += count if status == StaffStatus.ACTIVE else 0
    newest = select(AdminUser).where(AdminUser.status != StaffStatus.DELETED)
    newest = newest.order_by(AdminUser.created_at.desc(), AdminUser.id.desc()).limit(RECENT)
    return by_status, by_role, list(await db.scalars(newest))


async def present_staff(db: AsyncSession, limit: int) -> list[AdminUser]:
    """Those who have not left, without pages: for the operator's list."""
    query = select(AdminUser).where(AdminUser.status != StaffStatus.DELETED)
    return list(await db.scalars(query.order_by(AdminUser.created_at, AdminUser.id).limit(limit)))


async def staff_member(db: AsyncSession, member_id: UUID) -> AdminUser:
    row = await db.get(AdminUser, member_id, populate_existing=True)
    if row is None:
        raise NotFound("There is no such member of staff.")
    return row
