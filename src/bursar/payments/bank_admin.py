"""Staff read in the bank's statements and say which line is the money of which payment."""

from contextlib import AbstractAsyncContextManager
from datetime import date
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core.database import WORKER, Database, Db
from bursar.core.errors import InvalidInput
from bursar.core.idempotency import own_key
from bursar.core.paging import PageFields, PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Moment, Money, Route, StaffWire, answer
from bursar.payments import bank
from bursar.payments.around_models import (
    BankLine,
    BankMatch,
    BankStatement,
    LineStatus,
    MatchStatus,
)
from bursar.payments.bank import Decided, PaidOtherwise, UnknownMatch
from bursar.payments.bank_files import BadStatement, Dates, Hints
from bursar.payments.queries import UnknownPayment
from bursar.payments.schemas import Currency
from bursar.payments.service import AmountDiffers

router = APIRouter(tags=["payments"], route_class=Route)

READ = staff(Permission.LEDGER_READ)
WRITE = staff(Permission.PAYMENTS_RECONCILE)
FILE: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            kind: {"schema": {"type": "string", "format": "binary"}}
            for kind in ("text/csv", "application/xml", "application/octet-stream")
        },
    }
}
DECISIONS = documented(UnknownMatch, Decided)
ACCEPTING = documented(UnknownMatch, UnknownPayment, Decided, PaidOtherwise, AmountDiffers)


def acting(request: Request) -> AbstractAsyncContextManager[AsyncSession]:
    """The worker writes what comes of money; whose deed it is, the origin says."""
    database: Database = request.app.state.database
    return database.transaction(WORKER, origin=request.state.origin)


class StatementOut(StaffWire):
    """A file of the bank that was read."""

    id: UUID
    file_name: str
    format: Literal["csv", "camt.053"]
    lines: int
    new_lines: int = Field(description="Those that no file before had.")
    imported_by: str
    imported_at: Moment

    @classmethod
    def of(cls, row: BankStatement) -> "StatementOut":
        return cls.model_validate(row)


class StatementTaken(StaffWire):
    """What has become of a file."""

    statement: StatementOut
    proposed: int
    is_new: bool = Field(description="False: this very file was read before.")


class StatementList(PageFields, StaffWire):
    """One page of files."""

    statements: list[StatementOut]


class LineOut(StaffWire):
    """One movement; below zero it went out."""

    id: UUID
    statement_id: UUID
    account: str | None
    booked_on: date
    amount: Money
    currency: str
    name: str | None
    reference: str | None
    bank_reference: str | None
    status: LineStatus
    payment_id: UUID | None
    decided_by: str | None
    decided_at: Moment | None

    @classmethod
    def of(cls, row: BankLine) -> "LineOut":
        return cls.model_validate(row)


class LineList(PageFields, StaffWire):
    """One page of movements."""

    lines: list[LineOut]


class MatchOut(StaffWire):
    """That a line may be the money of a payment."""

    id: UUID
    line_id: UUID
    payment_id: UUID
    score: int = Field(description="60 for the reference, 30 for the amount, 10 for the name.")
    reason: str
    status: MatchStatus
    decided_by: str | None
    decided_at: Moment | None

    @classmethod
    def of(cls, row: BankMatch) -> "MatchOut":
        return cls.model_validate(row)


class MatchList(PageFields, StaffWire):
    """One page of matches, the best first."""

    matches: list[MatchOut]


class UploadQuery(StaffWire):
    """What the file does not say itself."""

    file_name: str = Field("statement", max_length=200, pattern=r"^[^\x00-\x1f]+$")
    currency: Currency | None = Field(None, description="Of lines that name none.")
    dates: Dates | None = Field(None, description="Which comes first in days such as 03/04/2026.")


@router.post(
    "/bank-statements",
    status_code=201,
    dependencies=[WRITE],
    response_model=StatementTaken,
    responses=documented(BadStatement),
    openapi_extra=FILE,
)
@own_key
async def take_statement(request: Request, ask: Annotated[UploadQuery, Query()]) -> Response:
    """Reads a file of the bank: CSV or camt.053. The same file again changes nothing."""
    content = await request.body()
    file = await bank.read(content, ask.file_name, Hints(ask.currency, ask.dates))
    async with acting(request) as db:
        taken = await bank.take(db, file)
        shown = StatementTaken(
            statement=StatementOut.of(taken.statement),
            proposed=taken.proposed,
            is_new=taken.is_new,
        )
    return answer(shown, 201)


class StatementsQuery(PageQuery):
    """A page of files."""

    sort: str | None = sort_field(bank.STATEMENTS)


@router.get("/bank-statements", dependencies=[READ], responses=documented(InvalidInput))
async def list_statements(db: Db, ask: Annotated[StatementsQuery, Query()]) -> StatementList:
    """The files that were read, the newest first."""
    page = await bank.statements(db, ask)
    return StatementList.of(page, statements=[StatementOut.of(row) for row in page.items])


class LinesQuery(PageQuery):
    """A page of movements."""

    status: LineStatus | None = None
    statement_id: UUID | None = Field(None, alias="statementId")
    sort: str | None = sort_field(bank.LINES)


@router.get("/bank-lines", dependencies=[READ], responses=documented(InvalidInput))
async def list_lines(db: Db, ask: Annotated[LinesQuery, Query()]) -> LineList:
    """Movements, the newest first; `status=unmatched` are those that wait for somebody."""
    page = await bank.lines(db, ask, status=ask.status, statement_id=ask.statement_id)
    return LineList.of(page, lines=[LineOut.of(row) for row in page.items])


class MatchesQuery(PageQuery):
    """A page of matches."""

    status: MatchStatus | None = None
    line_id: UUID | None = Field(None, alias="lineId")
    sort: str | None = sort_field(bank.MATCHES)


@router.get("/bank-matches", dependencies=[READ], responses=documented(InvalidInput))
async def list_matches(db: Db, ask: Annotated[MatchesQuery, Query()]) -> MatchList:
    """Which line may be the money of which payment, the surest first."""
    page = await bank.matches(db, ask, status=ask.status, line_id=ask.line_id)
    return MatchList.of(page, matches=[MatchOut.of(row) for row in page.items])


@router.post(
    "/bank-matches/{match_id}/acceptance",
    dependencies=[WRITE],
    response_model=MatchOut,
    responses=ACCEPTING,
)
@own_key
async def accept(request: Request, match_id: UUID) -> Response:
    """It is: the payment is confirmed with the amount that has come."""
    async with acting(request) as db:
        shown = MatchOut.of(await bank.accept(db, match_id))
    return answer(shown)


@router.post(
    "/bank-matches/{match_id}/rejection",
    dependencies=[WRITE],
    response_model=MatchOut,
    responses=DECISIONS,
)
@own_key
async def reject(request: Request, match_id: UUID) -> Response:
    """It is not, and is not proposed again."""
    async with acting(request) as db:
        shown = MatchOut.of(await bank.reject(db, match_id))
    return answer(shown)


class AssignmentIn(StaffWire):
    """Which payment a line is the money of."""

    payment_id: UUID


@router.post(
    "/bank-lines/{line_id}/assignment",
    dependencies=[WRITE],
    response_model=MatchOut,
    responses=ACCEPTING,
)
@own_key
async def assign(request: Request, line_id: UUID, body: AssignmentIn) -> Response:
    """The line is the money of this payment, whether that was proposed or not."""
    async with acting(request) as db:
        shown = MatchOut.of(await bank.assign(db, line_id, body.payment_id))
    return answer(shown)


@router.post(
    "/bank-lines/{line_id}/dismissal",
    dependencies=[WRITE],
    response_model=LineOut,
    responses=DECISIONS,
)
@own_key
async def dismiss(request: Request, line_id: UUID) -> Response:
    """The line is no payment of a customer's."""
    async with acting(request) as db:
        shown = LineOut.of(await bank.dismiss(db, line_id))
    return answer(shown)
