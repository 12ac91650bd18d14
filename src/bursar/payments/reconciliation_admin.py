"""Staff see what does not agree with the providers' books and the ledger, and close it."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Response
from pydantic import Field

from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.paging import PageFields, PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Moment, Money, Route, StaffWire, Time
from bursar.payments import reconciliation
from bursar.payments.around_models import Difference, DifferenceKind, DifferenceStatus
from bursar.payments.cards import CardNumber
from bursar.payments.reconciliation import Filters, NotOpen, UnknownDifference
from bursar.payments.staff_schemas import Reason

router = APIRouter(prefix="/reconciliation", tags=["payments"], route_class=Route)

READ = staff(Permission.LEDGER_READ)
WRITE = staff(Permission.PAYMENTS_RECONCILE)


class DifferenceOut(StaffWire):
    """Something that does not agree."""

    id: UUID
    kind: DifferenceKind
    provider: str
    subject: str = Field(description="The provider's id, our id, or the key in the ledger.")
    payment_id: UUID | None
    ours: Money | None
    our_currency: str | None
    theirs: Money | None = Field(description="What the provider, or the ledger, has.")
    their_currency: str | None
    happened_at: Moment
    status: DifferenceStatus
    note: str | None
    closed_by: str | None
    first_seen_at: Moment
    last_seen_at: Moment
    settled_at: Moment | None
    version: int

    @classmethod
    def of(cls, row: Difference) -> "DifferenceOut":
        return cls.model_validate(row)


class DifferenceList(PageFields, StaffWire):
    """One page of differences."""

    differences: list[DifferenceOut]


class DifferencesQuery(PageQuery):
    """A page of differences, perhaps only some of them."""

    kind: DifferenceKind | None = None
    status: DifferenceStatus | None = None
    provider: str | None = Field(None, max_length=40, pattern=r"^[^\x00]*$")
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")
    sort: str | None = sort_field(reconciliation.DIFFERENCES)

    def filters(self) -> Filters:
        return Filters(self.kind, self.status, self.provider, self.from_, self.to)


@router.get("/differences", dependencies=[READ], responses=documented(InvalidInput))
async def list_differences(db: Db, ask: Annotated[DifferencesQuery, Query()]) -> DifferenceList:
    """What does not agree, the newest first."""
    page = await reconciliation.differences(db, ask, ask.filters())
    return DifferenceList.of(page, differences=[DifferenceOut.of(row) for row in page.items])


@router.get(
    "/differences/{difference_id}", dependencies=[READ], responses=documented(UnknownDifference)
)
async def read_difference(db: Db, difference_id: UUID, response: Response) -> DifferenceOut:
    """One difference."""
    return shown(await reconciliation.difference(db, difference_id), response)


def shown(row: Difference, response: Response) -> DifferenceOut:
    response.headers["ETag"] = etag.of(row.version)
    return DifferenceOut.of(row)


class ClosingIn(StaffWire):
    """Why a difference may be so."""

    note: Reason


@router.post(
    "/differences/{difference_id}/closure",
    dependencies=[WRITE],
    responses=documented(UnknownDifference, NotOpen, PreconditionFailed, CardNumber),
)
async def close_difference(
    db: Db, difference_id: UUID, body: ClosingIn, response: Response, if_match: IfMatch = None
) -> DifferenceOut:
    """Closes one with a note. It opens again if its amounts become others."""
    row = await reconciliation.close(db, difference_id, body.note, if_match=if_match)
    return shown(row, response)


class RunOut(StaffWire):
    """One comparison of a period."""

    id: UUID
    since: Moment
    until: Moment
    bookings: int = Field(description="Lines of the providers' books that were read.")
    differences: int = Field(description="How many were open when it ended.")
    started_at: Moment
    finished_at: Moment | None


class RunList(PageFields, StaffWire):
    """One page of comparisons."""

    runs: list[RunOut]


class RunsQuery(PageQuery):
    """A page of comparisons."""

    sort: str | None = sort_field(reconciliation.RUNS)


@router.get("/runs", dependencies=[READ], responses=documented(InvalidInput))
async def list_runs(db: Db, ask: Annotated[RunsQuery, Query()]) -> RunList:
    """When what was compared, the newest first; one that has not finished was broken off."""
    page = await reconciliation.runs(db, ask)
    runs: list[Any] = [RunOut.model_validate(row) for row in page.items]
    return RunList.of(page, runs=runs)
