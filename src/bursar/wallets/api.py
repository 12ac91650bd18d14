"""What customers see of their wallets and do with them; staff may look, and put money in."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.accounts.api import parsed, whose
from bursar.audit import service as audit
from bursar.auth.actor import Actor, Kind
from bursar.auth.guard import customer_or_staff, in_person
from bursar.auth.permissions import Permission
from bursar.auth.scopes import KeyScope
from bursar.core import files, money
from bursar.core.database import Database, Db
from bursar.core.errors import InvalidInput, NotFound
from bursar.core.files import Format
from bursar.core.hot import hot
from bursar.core.idempotency import REPLAYED, BadKey, KeyReused, operation_key, own_key
from bursar.core.money import BAD_AMOUNTS
from bursar.core.paging import Page, PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Day, Route, Time, answer
from bursar.wallets import assets, export, ledger, queries, rules, spending
from bursar.wallets import service as wallets
from bursar.wallets.charge_schemas import Currency
from bursar.wallets.ledger import (
    USD,
    AccountClosed,
    AccountFrozen,
    BalanceTooLarge,
    InsufficientFunds,
    Outcome,
    SameAccount,
    TransferLimit,
    UnknownAccount,
    UnknownAsset,
)
from bursar.wallets.models import HoldState
from bursar.wallets.queries import EntryFilters
from bursar.wallets.rules import Rules, TransfersClosed, TransferTooLarge
from bursar.wallets.schemas import (
    BalanceOut,
    Funded,
    Funding,
    HoldList,
    HoldOut,
    NewTransfer,
    SpendingOut,
    TransactionList,
    TransactionOut,
    TransferOut,
    WalletList,
    WalletOut,
)
from bursar.wallets.till import TillFull

router = APIRouter(tags=["wallets"], route_class=Route)

READ = customer_or_staff(Permission.WALLETS_READ, scope=KeyScope.WALLET_READ)
READ_BALANCE = customer_or_staff(Permission.WALLETS_READ, scope=KeyScope.BALANCE_READ)


def visible(user_id: str, actor: Annotated[Actor, READ]) -> UUID:
    """A customer's own id, or any id for staff; whether somebody has it, shows by what is found."""
    if actor.kind is not Kind.STAFF:
        return whose(user_id, actor)
    found = parsed(user_id)
    if found is None:
        raise queries.nobody()
    return found


Visible = Annotated[UUID, Depends(visible)]


@router.get("/balance/{user_id}", response_model=BalanceOut, responses=documented(NotFound))
@hot
async def read_balance(
    request: Request, actor: Annotated[Actor, READ_BALANCE], user_id: str
) -> Response:
    """What is in the wallet in dollars, what was spent of it, and what can be spent now."""
    database: Database = request.app.state.database
    found = await queries.balance(database, actor.claim, visible(user_id, actor))
    return answer(BalanceOut.of(found))


class WalletsQuery(PageQuery):
    """A page of wallets."""

    sort: str | None = sort_field(queries.WALLETS)


@router.get(
    "/users/{user_id}/accounts",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_wallets(db: Db, whose: Visible, ask: Annotated[WalletsQuery, Query()]) -> WalletList:
    """The wallets: one in dollars, and one in every other currency that was ever paid in."""
    page = await queries.wallets(db, whose, ask)
    return WalletList.of(page, accounts=[WalletOut.of(each) for each in page.items])


class HoldsQuery(PageQuery):
    """A page of holds, perhaps only those in one state."""

    state: HoldState | None = None
    sort: str | None = sort_field(queries.HOLDS)


@router.get(
    "/users/{user_id}/holds",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput),
)
async def list_holds(db: Db, whose: Visible, ask: Annotated[HoldsQuery, Query()]) -> HoldList:
    """What is set aside, or was, in all the wallets: the newest first."""
    page = await queries.holds(db, whose, ask, state=ask.state)
    scales = await assets.all_scales(db)
    return HoldList.of(page, holds=[HoldOut.of(row, scales[row.asset]) for row in page.items])


class EntriesFilter(BaseModel):
    """Which transactions of which wallet somebody wants to see."""

    currency: Currency = USD
    kind: ledger.Kind | None = None
    category: str | None = Field(None, max_length=100, pattern=r"^[^\x00]*$")
    direction: Literal["credit", "debit"] | None = None
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")

    def filters(self) -> EntryFilters:
        return EntryFilters(
            kind=self.kind,
            category=self.category,
            credits=None if self.direction is None else self.direction == "credit",
            since=self.from_,
            until=self.to,
        )


class TransactionsQuery(EntriesFilter, PageQuery):
    """A page of them."""

    sort: Literal["-created_at"] | None = None


class TransactionsFile(EntriesFilter):
    """All of them, as a file."""

    format: Format = Field("csv", description="csv, or jsonl: one JSON object on each line.")


@router.get(
    "/users/{user_id}/transactions",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput, UnknownAsset),
)
async def list_transactions(
    db: Db, whose: Visible, ask: Annotated[TransactionsQuery, Query()]
) -> TransactionList:
    """What went in and out of one wallet, the newest first."""
    wallet = await queries.wallet(db, whose, ask.currency)
    if wallet is None:
        return TransactionList.of(Page([], 0, ask.size, ask.start, None), transactions=[])
    page = await queries.entries(db, wallet.row, ask.filters(), ask)
    listed = [TransactionOut.of(entry, wallet) for entry in page.items]
    return TransactionList.of(page, transactions=listed)


@router.get(
    "/users/{user_id}/transactions/export",
    response_class=StreamingResponse,
    dependencies=[READ],
    responses=files.ANSWERS | documented(NotFound, InvalidInput, UnknownAsset),
)
async def export_transactions(
    request: Request,
    actor: Annotated[Actor, READ],
    whose: Visible,
    ask: Annotated[TransactionsFile, Query()],
) -> StreamingResponse:
    """The same as a file; that a member of staff took it is recorded."""
    database: Database = request.app.state.database
    filters = ask.filters()
    pieces = export.stream(database, actor.claim, whose, ask.currency, filters, ask.format)
    begun: AsyncIterator[bytes] = await files.begin(pieces)
    if actor.kind is Kind.STAFF:
        async with database.transaction(actor.claim, origin=request.state.origin) as db:
            after = {"format": ask.format, "currency": ask.currency, "filters": filters.given()}
            await audit.record(db, "wallets.exported", "user", whose, after=after)
    return StreamingResponse(
        begun,
        media_type=files.MEDIA_TYPES[ask.format],
        headers=files.headers("transactions", ask.format, datetime.now(UTC)),
    )


MOST_DAYS = 366


class SpendingQuery(BaseModel):
    """Which days: the last so many, or from one to another."""

    currency: Currency = USD
    days: int = Field(30, ge=1, le=MOST_DAYS, description="Up to `to`, when there is no `from`.")
    from_: Day | None = Field(None, alias="from", description="The first day, in UTC.")
    to: Day | None = Field(None, description="The last day, in UTC; today when there is none.")

    def span(self) -> tuple[date, date]:
        last = self.to or datetime.now(UTC).date()
        back = min(self.days - 1, (last - date.min).days)
        first = self.from_ or last - timedelta(days=back)
        if not 0 <= (last - first).days < MOST_DAYS:
            raise InvalidInput.at("?from", f"Ask for 1 to {MOST_DAYS} days, the first one first.")
        return first, last


@router.get(
    "/users/{user_id}/analytics/spending",
    dependencies=[READ],
    responses=documented(NotFound, InvalidInput, UnknownAsset),
)
async def read_spending(
    db: Db, whose: Visible, ask: Annotated[SpendingQuery, Query()]
) -> SpendingOut:
    """What was spent, by category and by day in UTC, less what came back."""
    first, last = ask.span()
    scale = await queries.scale_of_currency(db, ask.currency)
    wallet = await queries.wallet(db, whose, ask.currency)
    spent = spending.Spending()
    if wallet:
        spent = await spending.spending(db, wallet.row.id, first, last)
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    by_category = {
        name: money.decimal(amount, scale) for name, amount in sorted(spent.by_category.items())
    }
    return SpendingOut(
        total_spent=money.decimal(spent.total, scale),
        currency=ask.currency,
        first_day=first.isoformat(),
        last_day=last.isoformat(),
        by_category=by_category,
        by_day={day.isoformat(): money.decimal(spent.by_day.get(day, 0), scale) for day in days},
    )


FUNDING_REFUSED = (
    UnknownAccount,
    UnknownAsset,
    *BAD_AMOUNTS,
    AccountClosed,
    BalanceTooLarge,
    KeyReused,
)


async def put_in(request: Request, db: AsyncSession, actor: Actor, body: Funding) -> Response:
    """Staff put money into a customer's wallet at once; the route is of payments, for a customer's
    own call begins one (payments/funds.py)."""
    scale = await queries.scale_of_currency(db, body.currency)
    amount = money.minor(body.amount, scale)
    outcome = await wallets.fund(
        db,
        body.user_id,
        amount,
        body.currency,
        scope=actor.remembered_as,
        key=operation_key(request),
    )
    if not outcome.replayed:
        await queries.demand_account(db, body.user_id)
    return answer(
        Funded.of(outcome, body.user_id, scale), 200, REPLAYED if outcome.replayed else None
    )


@router.post(
    "/wallets/transfers",
    status_code=201,
    response_model=TransferOut,
    dependencies=[in_person],
    responses=documented(
        InsufficientFunds, UnknownAccount, UnknownAsset, *BAD_AMOUNTS, SameAccount, AccountFrozen,
        AccountClosed, TransfersClosed, TransferTooLarge, TransferLimit, TillFull, KeyReused,
        BadKey,
    ),
)  # fmt: skip
@own_key
async def send_money(
    request: Request, actor: Annotated[Actor, in_person], body: NewTransfer
) -> Response:
    """Sends money from your wallet to another customer's, at once."""
    database: Database = request.app.state.database
    key = operation_key(request)
    terms = await queries.terms(
        database, body.to_user_id, body.currency, [each.key for each in rules.SETTINGS]
    )
    if terms.scale is None:
        raise assets.unknown()
    amount = money.minor(body.amount, terms.scale)
    outcome = await sent_before(request, actor, key, body, amount)
    if outcome is None:
        limits = Rules.of(terms.settings, terms.scale)
        if body.to_user_id == actor.id:
            raise ledger.refusal({"error": SameAccount.code})
        limits.check(amount, body.currency, terms.scale)
        if not terms.recipient_active:
            raise UnknownAccount("There is no such customer to send money to.")
        leg = sending(actor, body, amount, limits.per_day)
        asked = ledger.Request(
            actor.remembered_as, key, (leg,), request.state.origin, "wallets.sent"
        )
        try:
            outcome = await request.app.state.till.post(asked)
        except KeyReused:  # the first request was under way, and the limits have changed meanwhile
            outcome = await sent_before(request, actor, key, body, amount)
            if outcome is None:
                raise
    return answer(
        TransferOut.of(outcome, body, terms.scale), 201, REPLAYED if outcome.replayed else None
    )


async def sent_before(
    request: Request, actor: Actor, key: str, body: NewTransfer, amount: int
) -> Outcome | None:
    """The first answer to this key, also when the limits are others by now, or the recipient has
    gone: it would be a lie that nothing was sent."""
    if "idempotency-key" not in request.headers:
        return None
    done = await queries.done(request.app.state.database, actor.remembered_as, key)
    if done is None:
        return None
    was = (done.kind, done.recipient, done.asset, done.amount, (done.metadata or {}).get("note"))
    if was != ("transfer", body.to_user_id, body.currency, amount, body.note or None):
        raise KeyReused.now()
    return done.replayed()


def sending(actor: Actor, body: NewTransfer, amount: int, per_day: int) -> ledger.Leg:
    return ledger.transfer(
        ledger.user(str(actor.id)),
        ledger.user(body.to_user_id),
        amount,
        body.currency,
        kind="transfer",
        metadata={"note": body.note} if body.note else None,
        at_most_today=per_day,
    )
