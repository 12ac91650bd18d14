"""Saved ways to pay: their owner lists them, says which is the default, and deletes them for good.

One is saved by a payment with `save_method`, when its provider tells the token; nothing else is
kept of it, and no card's number is ever taken. A deleted one is forgotten at the provider too:
a trigger keeps its token until a job has had that done, also where it goes with its customer.
"""

import logging
from collections.abc import Collection
from typing import Any
from uuid import UUID

from sqlalchemy import delete, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts import letters
from bursar.accounts.models import User
from bursar.audit import service as audit
from bursar.core import events, jobs
from bursar.core.database import Role
from bursar.core.events import Published
from bursar.core.jobs import Run
from bursar.core.paging import Order, Page, PageQuery, fetch
from bursar.payments.around_models import AutoTopUp, ForgottenMethod
from bursar.payments.models import Method, Payment, PaymentMethod
from bursar.payments.providers import ProviderMissing, Unknown
from bursar.payments.providers.registry import providers
from bursar.payments.receipts import describe
from bursar.payments.service import UnknownMethod

log = logging.getLogger(__name__)

METHODS = Order(
    {"created_at": PaymentMethod.created_at}, key=PaymentMethod.id, default="created_at"
)
AT_ONCE = 100
MOST_ATTEMPTS = 100  # about four days; a token that no provider takes is let go of then


async def listing(db: AsyncSession, user_id: UUID, ask: PageQuery) -> Page[PaymentMethod]:
    return await fetch(db, select(PaymentMethod).filter_by(user_id=user_id), ask, METHODS)


async def method(db: AsyncSession, user_id: UUID, method_id: UUID) -> PaymentMethod:
    """One of this customer's, or UnknownMethod."""
    found = await db.get(PaymentMethod, method_id)
    if found is None or found.user_id != user_id:
        raise UnknownMethod("There is no such saved payment method.")
    return found


async def make_default(db: AsyncSession, user_id: UUID, method_id: UUID) -> PaymentMethod:
    """The one that is offered first; there is at most one, so the other is put off before."""
    wanted = await method(db, user_id, method_id)
    if wanted.is_default:
        audit.nothing_changed(db)
        return wanted
    others = update(PaymentMethod).filter_by(user_id=user_id, is_default=True)
    await db.execute(others.values(is_default=False))
    wanted.is_default = True
    await db.flush()
    await db.refresh(wanted)
    await audit.record(db, "payments.method_made_default", "payment_method", method_id)
    return wanted


async def remove(db: AsyncSession, user_id: UUID, method_id: UUID) -> None:
    """The oldest of the others is the default from then on; nothing is filled from it any more."""
    gone = await method(db, user_id, method_id)
    before = {"kind": gone.kind, "brand": gone.brand, "last_four": gone.last_four}
    was_default = gone.is_default
    await db.delete(gone)
    await db.flush()
    if was_default:
        oldest = select(PaymentMethod).filter_by(user_id=user_id).order_by(PaymentMethod.created_at)
        if next_one := await db.scalar(oldest.limit(1)):
            next_one.is_default = True
            await db.flush()
    await jobs.enqueue(db, forget_methods, unique_key="soon")
    await audit.record(
        db, "payments.method_deleted", "payment_method", method_id, before=before, after={}
    )


def payment_by(saved: PaymentMethod, **facts: Any) -> dict[str, Any]:
    """One that is taken from a saved method while its owner is not there."""
    by_paypal = "paypal" in (saved.provider, saved.kind)
    return {
        "user_id": saved.user_id,
        "payment_method": Method.PAYPAL if by_paypal else Method.STRIPE,
        "provider": saved.provider,
        "test_mode": saved.test_mode,
        "method_id": saved.id,
        "automatic": True,
        "changed_by": "system",
        **facts,
    }


async def begin_payments(db: AsyncSession, wanted: Collection[dict[str, Any]]) -> list[UUID]:
    """Writes them down, as the worker; their providers are asked after the commit. An index lets
    no customer have two pending: of whom there is one already, none is begun."""
    if not wanted:
        return []
    row = insert(Payment).values(list(wanted))
    row = row.on_conflict_do_nothing(
        index_elements=["user_id"], index_where=text("automatic and status = 'pending'")
    )
    return list(await db.scalars(row.returning(Payment.id)))


@events.on("users.erased", subscriber="payments.methods")
async def forget_with_owner(db: AsyncSession, event: Published) -> None:
    """An erased account pays nothing any more: its methods and automatic top-up go."""
    user_id = UUID(event.payload["user_id"])
    await db.execute(delete(AutoTopUp).filter_by(user_id=user_id))
    await db.execute(delete(PaymentMethod).filter_by(user_id=user_id))


@jobs.cron("5 * * * *", "payments.look_for_forgotten_methods")
async def look_for_forgotten(db: AsyncSession, _: dict[str, Any]) -> None:
    """Has methods forgotten at their provider that no job has told it of yet."""
    if await db.scalar(select(ForgottenMethod.id).limit(1)):
        await jobs.enqueue(db, forget_methods, unique_key="soon")


@jobs.steps("payments.forget_methods", at_once=1)
async def forget_methods(run: Run) -> None:
    """Has providers forget the methods that were deleted here; again until they have."""
    async with run.transaction() as db:
        known = providers(db.info["settings"])
        query = select(ForgottenMethod).order_by(ForgottenMethod.attempts, ForgottenMethod.id)
        waiting = (await db.scalars(query.limit(AT_ONCE))).all()
        rows = [(each.id, each.provider, each.token, each.attempts) for each in waiting]
        ids = [row[0] for row in rows]
        tried = update(ForgottenMethod).where(ForgottenMethod.id.in_(ids))
        await db.execute(tried.values(attempts=ForgottenMethod.attempts + 1))
    done = []
    for row_id, provider, token, attempts in rows:
        try:
            await known.of(provider).forget(token)
        except (Unknown, ProviderMissing) as why:
            log.warning("%s has not forgotten a saved method: %s", provider, why)
            if attempts < MOST_ATTEMPTS:
                continue
        done.append(row_id)
    async with run.transaction() as db:
        await db.execute(delete(ForgottenMethod).where(ForgottenMethod.id.in_(done)))


# Told once for each end; a method that was renewed ends anew.
EXPIRING = text("""
insert into method_notices (method_id, exp_year, exp_month)
select id, exp_year, exp_month from payment_methods as method
where exp_year is not null and exp_month is not null
  and make_date(exp_year, exp_month, 1) + interval '1 month'
    between now() and now() + interval '31 days'
  and not exists (
    select from method_notices as told
    where (told.method_id, told.exp_year, told.exp_month)
      = (method.id, method.exp_year, method.exp_month)
  )
order by id limit :most
returning method_id
""")


@jobs.cron("15 6 * * *", "payments.tell_of_expiry")
async def tell_of_expiry(db: AsyncSession, _: dict[str, Any]) -> None:
    """Tells customers of saved methods that end within a month."""
    found = list(await db.scalars(EXPIRING, {"most": AT_ONCE}))
    for method_id in found:
        await tell_owner(db, method_id)
    if len(found) == AT_ONCE:
        await jobs.enqueue(db, tell_more)


@jobs.job("payments.tell_more_of_expiry", added_by={Role.WORKER})
async def tell_more(db: AsyncSession, payload: dict[str, Any]) -> None:
    """Goes on where more methods end than one transaction should tell of."""
    await tell_of_expiry(db, payload)


async def tell_owner(db: AsyncSession, method_id: UUID) -> None:
    saved = await db.get_one(PaymentMethod, method_id)
    used = select(AutoTopUp.user_id).filter_by(method_id=method_id, enabled=True)
    await letters.tell(
        db,
        "method_expires",
        await db.get(User, saved.user_id),
        method=describe(saved),
        month=f"{saved.exp_year}-{saved.exp_month:02}",
        automatic=await db.scalar(used) is not None,
    )
