"""Customers see and change what they have saved to pay with, and how their wallet is filled."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response

from bursar.accounts import queries as customers
from bursar.accounts.api import Own, OwnInPerson
from bursar.auth.guard import customer, in_person, staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.money import BAD_AMOUNTS
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route
from bursar.payments import automatic, methods
from bursar.payments.automatic import NoAutoTopUp, NoMethod
from bursar.payments.currencies import UnknownCurrency
from bursar.payments.methods_schemas import (
    AutoTopUpForStaff,
    AutoTopUpIn,
    AutoTopUpOut,
    MethodForStaff,
    MethodList,
    MethodListForStaff,
    MethodOut,
)
from bursar.payments.service import TopUpLimit, UnknownMethod

router = APIRouter(prefix="/users/{user_id}", tags=["payments"], route_class=Route)
staff_router = APIRouter(prefix="/users/{user_id}", tags=["payments"], route_class=Route)

READ = staff(Permission.PAYMENTS_READ)


class MethodsQuery(PageQuery):
    """A page of saved methods."""

    sort: str | None = sort_field(methods.METHODS)


@router.get(
    "/payment-methods", dependencies=[customer], responses=documented(NotFound, InvalidInput)
)
async def list_methods(db: Db, me: Own, ask: Annotated[MethodsQuery, Query()]) -> MethodList:
    """What is saved to pay with: brand and last four digits, never a number."""
    page = await methods.listing(db, me, ask)
    return MethodList.of(page, payment_methods=[MethodOut.of(row) for row in page.items])


@router.put(
    "/payment-methods/{method_id}/default",
    dependencies=[in_person],
    responses=documented(NotFound, UnknownMethod),
)
async def make_default(db: Db, me: OwnInPerson, method_id: UUID) -> MethodOut:
    """Makes one the default; the other is it no more."""
    return MethodOut.of(await methods.make_default(db, me, method_id))


@router.delete(
    "/payment-methods/{method_id}",
    status_code=204,
    dependencies=[in_person],
    responses=documented(NotFound, UnknownMethod),
)
async def delete_method(db: Db, me: OwnInPerson, method_id: UUID) -> None:
    """Deletes one, here and at its provider."""
    await methods.remove(db, me, method_id)


@router.get("/auto-topup", dependencies=[customer], responses=documented(NotFound, NoAutoTopUp))
async def read_auto_topup(db: Db, me: Own, response: Response) -> AutoTopUpOut:
    """How the wallet is filled by itself, and whether that works."""
    return shown(await automatic.view(db, me), response)


def shown(view: automatic.View, response: Response) -> AutoTopUpOut:
    response.headers["ETag"] = etag.of(view.row.version)
    return AutoTopUpOut.of(view)


@router.put(
    "/auto-topup",
    dependencies=[in_person],
    responses=documented(
        NotFound, UnknownMethod, NoMethod, UnknownCurrency, TopUpLimit, PreconditionFailed,
        *BAD_AMOUNTS,
    ),
)  # fmt: skip
async def set_auto_topup(
    db: Db, me: OwnInPerson, body: AutoTopUpIn, response: Response, if_match: IfMatch = None
) -> AutoTopUpOut:
    """Sets it, or sets it going again after declined payments have paused it."""
    await automatic.change(db, me, body.wanted, if_match=if_match)
    return shown(await automatic.view(db, me), response)


@router.delete(
    "/auto-topup",
    status_code=204,
    dependencies=[in_person],
    responses=documented(NotFound, NoAutoTopUp),
)
async def delete_auto_topup(db: Db, me: OwnInPerson) -> None:
    """The wallet is not filled by itself any more."""
    await automatic.remove(db, me)


@staff_router.get(
    "/payment-methods", dependencies=[READ], responses=documented(NotFound, InvalidInput)
)
async def list_methods_of(
    db: Db, user_id: UUID, ask: Annotated[MethodsQuery, Query()]
) -> MethodListForStaff:
    """What a customer has saved to pay with."""
    await customers.user(db, user_id)
    page = await methods.listing(db, user_id, ask)
    return MethodListForStaff.of(
        page, payment_methods=[MethodForStaff.of(row) for row in page.items]
    )


@staff_router.get("/auto-topup", dependencies=[READ], responses=documented(NoAutoTopUp))
async def read_auto_topup_of(db: Db, user_id: UUID) -> AutoTopUpForStaff:
    """How a customer's wallet is filled by itself."""
    return AutoTopUpForStaff.of(await automatic.view(db, user_id))
