"""A domain in miniature, which the tests of core stand on: notes that belong to customers.

It is written as HOUSE says a domain is, all layers in one file, and mounted into the real
application beside the real routes. Its table is made in the test's own database.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import islice
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx2
from fastapi import APIRouter, Query, Request, Response
from sqlalchemy import FetchedValue, Table, func, select, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from bursar.app import know_routes
from bursar.audit import service as audit
from bursar.auth.actor import Actor
from bursar.auth.guard import customer
from bursar.core import etag
from bursar.core.database import Base, Claim, Database, Db
from bursar.core.errors import NotFound
from bursar.core.etag import IfMatch
from bursar.core.hot import hot
from bursar.core.paging import Order, PageFields, PageQuery, fetch
from bursar.core.wire import JSON, Moment, Route, Wire
from tests.conftest import Live
from tests.databases import raw

SQL = """
create table notes (
  id uuid not null default uuid7() primary key,
  owner uuid not null default current_subject(),
  body text not null,
  rank numeric not null default 0,
  version integer not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
create index on notes (owner, rank, id);
call lock_down('notes');
call let_owner('notes', 'select, insert, update, delete', its => 'owner');
create trigger touch before update on notes for each row execute function touch();
"""


class NotesBase(DeclarativeBase):
    """A metadata of its own: the table is not Bursar's."""

    type_annotation_map = Base.type_annotation_map


class Note(NotesBase):
    __tablename__ = "notes"
    __table__: Table

    id: Mapped[UUID] = mapped_column(primary_key=True, server_default=text("uuid7()"))
    owner: Mapped[UUID] = mapped_column(server_default=text("current_subject()"))
    body: Mapped[str]
    rank: Mapped[int] = mapped_column(server_default=text("0"))
    version: Mapped[int] = mapped_column(server_default=text("1"), server_onupdate=FetchedValue())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(
        server_default=func.now(), server_onupdate=FetchedValue()
    )


class NoteIn(Wire):
    body: str
    rank: int = 0


class NoteOut(Wire):
    id: UUID
    owner: UUID
    body: str
    rank: int
    version: int
    created_at: Moment


class NoteList(PageFields, Wire):
    notes: list[NoteOut]


NOTES = Order({"rank": Note.rank, "created_at": Note.created_at}, key=Note.id, default="rank")
ONE = "select id, owner, body, rank::int, version, created_at from notes where id = $2"
router = APIRouter(tags=["notes"], route_class=Route)


@router.post("/notes", status_code=201, dependencies=[customer])
async def add_note(db: Db, note: NoteIn, response: Response) -> NoteOut:
    row = Note(body=note.body, rank=note.rank)
    db.add(row)
    await db.flush()
    await db.refresh(row)
    await audit.record(db, "notes.added", "note", row.id, after={"body": row.body})
    response.headers["ETag"] = etag.of(row.version)
    return NoteOut.model_validate(row)


@router.get("/notes", dependencies=[customer])
async def list_notes(db: Db, ask: Annotated[PageQuery, Query()]) -> NoteList:
    page = await fetch(db, select(Note), ask, NOTES)
    return NoteList.of(page, notes=list(page.items))


@router.get("/notes/{note_id}", dependencies=[customer])
async def read_note(db: Db, note_id: UUID, response: Response) -> NoteOut:
    row = await find(db, note_id)
    response.headers["ETag"] = etag.of(row.version)
    return NoteOut.model_validate(row)


@router.put("/notes/{note_id}", dependencies=[customer])
async def change_note(db: Db, note_id: UUID, note: NoteIn, if_match: IfMatch = None) -> NoteOut:
    row = await find(db, note_id)
    etag.check(if_match, row.version)
    before = row.body
    row.body, row.rank = note.body, note.rank
    await db.flush()
    await db.refresh(row)
    after = {"body": row.body}
    await audit.record(db, "notes.changed", "note", row.id, before={"body": before}, after=after)
    return NoteOut.model_validate(row)


@router.get("/hot-notes/{note_id}", response_model=NoteOut)
@hot
async def read_hot_note(
    request: Request, actor: Annotated[Actor, customer], note_id: UUID
) -> Response:
    row = await request.app.state.database.fetch_one(actor.claim, ONE, note_id)
    if row is None:
        raise NotFound("There is no such note.")
    body = NoteOut.model_validate(dict(row)).model_dump_json()
    return Response(body, media_type=JSON, headers={"ETag": etag.of(row["version"])})


async def find(db: AsyncSession, note_id: UUID) -> Note:
    row = await db.get(Note, note_id)
    if row is None:
        raise NotFound("There is no such note.")
    return row


async def install(live: Live) -> None:
    """Makes the table and mounts the routes."""
    await make_table(live.url)
    mount(live.app)


async def make_table(url: str) -> None:
    owner = await asyncpg.connect(raw(url))
    try:
        await owner.execute(SQL)
    finally:
        await owner.close()


def mount(app: Any) -> None:
    app.include_router(router, prefix="/api/v1")
    know_routes(app)
    app.openapi_schema = None


@asynccontextmanager
async def held(url: str) -> AsyncIterator[None]:
    """Whoever adds a note waits until the block ends; to read them is free."""
    owner = await asyncpg.connect(raw(url))
    try:
        limit = f"alter role app_user in database {make_url(url).database} set lock_timeout = 0"
        await owner.execute(limit)  # for connections that are made from now on
        async with owner.transaction():
            await owner.execute("lock table notes in share mode")
            yield
    finally:
        await owner.close()


async def sent_at_once(url: str, api: httpx2.AsyncClient, body: Any) -> list[httpx2.Response]:
    """One note six times; the first of them is at work until all others have their answer."""
    async with held(url):
        asked = [asyncio.create_task(api.post("/api/v1/notes", json=body)) for _ in range(6)]
        for answered in islice(asyncio.as_completed(asked), 5):
            await answered
    return await asyncio.gather(*asked)


async def write(database: Database, claim: Claim, *bodies: str) -> list[UUID]:
    """Adds notes for somebody, past the API."""
    async with database.transaction(claim) as db:
        rows = [Note(body=body) for body in bodies]
        db.add_all(rows)
        await db.flush()
        return [row.id for row in rows]
