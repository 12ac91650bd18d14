"""Staff look through the audit trail and take copies of it."""

from datetime import UTC, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from bursar.audit import export, queries, service
from bursar.audit.export import Format
from bursar.audit.queries import Filters
from bursar.audit.schemas import AuditLogList, AuditLogOut
from bursar.auth.actor import Actor, Kind
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core.database import Db
from bursar.core.errors import InvalidInput
from bursar.core.paging import PageQuery, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, Time

router = APIRouter(tags=["audit"], route_class=Route)

READ = staff(Permission.AUDIT_READ)


STORABLE = r"^[^\x00]*$"


class FilterQuery(BaseModel):
    """What of the audit trail somebody wants to see."""

    event_type: str | None = Field(
        None,
        max_length=100,
        pattern=r"^[a-z][a-z0-9_]*(\.|(\.[a-z][a-z0-9_]*)+)?$",
        description="One action, `users.suspended`, or all of an area, `users.`.",
    )
    actor_kind: Kind | None = None
    actor_id: UUID | None = None
    user_id: UUID | None = Field(
        None, description="Who did it, in whose name it was done, or whom it was done to."
    )
    target_type: str | None = Field(None, max_length=100, pattern=STORABLE)
    target_id: str | None = Field(None, max_length=300, pattern=STORABLE)
    request_id: str | None = Field(None, max_length=300, pattern=STORABLE)
    from_: Time | None = Field(None, alias="from", description="The first moment, in UTC.")
    to: Time | None = Field(None, description="The first moment that is not wanted any more.")

    def filters(self) -> Filters:
        return Filters(
            event_type=self.event_type,
            actor_kind=self.actor_kind,
            actor_id=self.actor_id,
            user_id=self.user_id,
            target_type=self.target_type,
            target_id=self.target_id,
            request_id=self.request_id,
            since=self.from_,
            until=self.to,
        )


class LogsQuery(FilterQuery, PageQuery):
    """A page of what somebody wants to see."""

    sort: str | None = sort_field(queries.order())


class ExportQuery(FilterQuery):
    """A file of what somebody wants to see."""

    format: Format = Field("csv", description="csv, or jsonl: one JSON object on each line.")


@router.get("/audit-logs", dependencies=[READ], responses=documented(InvalidInput))
async def list_audit_logs(db: Db, ask: Annotated[LogsQuery, Query()]) -> AuditLogList:
    """Who did what and when, the newest first."""
    page = await queries.logs(db, ask, ask.filters())
    seals = await queries.seals(db, page.items)
    return AuditLogList.of(
        page, logs=[AuditLogOut.of(row, seals.get(row.id)) for row in page.items]
    )


FILES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The file.",
        "content": {kind.partition(";")[0]: {} for kind in export.MEDIA_TYPES.values()},
    }
}


@router.get(
    "/audit-logs/export",
    response_class=StreamingResponse,
    responses=FILES | documented(InvalidInput),
)
async def export_audit_logs(
    request: Request, actor: Annotated[Actor, READ], ask: Annotated[ExportQuery, Query()]
) -> StreamingResponse:
    """The same rows as a file, oldest first; that somebody took it is recorded too."""
    database, filters, now = request.app.state.database, ask.filters(), datetime.now(UTC)
    pieces = export.stream(database, actor.claim, filters, ask.format, now)
    begun = await export.begin(pieces)
    async with database.transaction(actor.claim, origin=request.state.origin) as db:
        after = {"format": ask.format, "filters": filters.given()}
        await service.record(db, "audit.exported", "audit_logs", after=after)
    return StreamingResponse(
        begun,
        media_type=export.MEDIA_TYPES[ask.format],
        headers={
            "Content-Disposition": f'attachment; filename="{export.file_name(ask.format, now)}"',
            "Cache-Control": "no-store",
        },
    )
