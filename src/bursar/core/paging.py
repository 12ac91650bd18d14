"""Lists by page, by offset or by cursor: one answer, one order, no row twice and none missed.

Every list has a total order: the field asked for, then the primary key. A cursor holds the last
row's place in that order, so that its page costs the same wherever it lies, and rows that come and
go elsewhere move nothing. It carries the total as well, counted once for the first page.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from sqlalchemy import Select, func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from bursar.core.errors import InvalidInput

Row = TypeVar("Row")
MOST_ROWS = 2**53
MAX_PAGE, MAX_SIZE = 1000, 100
MAX_OFFSET = MAX_PAGE * MAX_SIZE  # beyond that only a cursor goes: an offset reads what it skips


class PageQuery(BaseModel):
    """What a client may say about the page it wants; a list adds its filters by inheritance.

    FastAPI takes a whole query from one model or none: `ask: Annotated[PageQuery, Query()]`.
    """

    model_config = ConfigDict(extra="ignore")

    page: int = Field(1, ge=1, le=MAX_PAGE, description="1 is the first; beyond, use the cursor.")
    per_page: int = Field(20, ge=1, le=MAX_SIZE)
    limit: int | None = Field(
        None, ge=1, le=MAX_SIZE, description="With offset, instead of per_page."
    )
    offset: int | None = Field(
        None, ge=0, le=MAX_OFFSET, description="Rows to leave out, instead of page."
    )
    cursor: str | None = Field(None, max_length=2000, description="next_cursor of the page before.")
    sort: str | None = Field(None, max_length=100, description="A field; -field for descending.")

    @property
    def size(self) -> int:
        return self.limit or self.per_page

    @property
    def start(self) -> int:
        return (self.page - 1) * self.size if self.offset is None else self.offset


@dataclass(frozen=True, slots=True)
class Order:
    """How a list may be sorted: columns that are never null, and the key that breaks ties."""

    columns: dict[str, InstrumentedAttribute[Any]]
    key: InstrumentedAttribute[Any]
    default: str

    def __post_init__(self) -> None:
        """A row without a value would be before none and after none, and be missed."""
        for column in (*self.columns.values(), self.key):
            if column.property.columns[0].nullable:
                raise TypeError(f"{column} may be null, so no list can be sorted by it")

    @property
    def names(self) -> list[str]:
        return [sign + name for name in self.columns for sign in ("", "-")]

    def resolve(self, sort: str | None) -> "Direction":
        sort = sort or self.default
        column = self.columns.get(sort.removeprefix("-"))
        if column is None:
            allowed = ", ".join(self.names)
            raise InvalidInput.at("?sort", f"Sort takes one of: {allowed}.", "unknown_sort")
        return Direction(sort, column, self.key, descending=sort.startswith("-"))


def sort_field(order: Order) -> Any:
    """The `sort` of a list's query, with the names that it takes for the documents."""
    return Field(None, max_length=100, json_schema_extra={"enum": [*order.names]})


@dataclass(frozen=True, slots=True)
class Direction:
    """One way through a list."""

    name: str
    column: InstrumentedAttribute[Any]
    key: InstrumentedAttribute[Any]
    descending: bool

    def apply(self, query: Select[Any]) -> Select[Any]:
        parts = (self.column, self.key)
        return query.order_by(*(part.desc() if self.descending else part.asc() for part in parts))

    def after(self, place: list[Any]) -> Any:
        row, last = tuple_(self.column, self.key), tuple_(*place)
        return row < last if self.descending else row > last

    def place(self, row: Any) -> list[Any]:
        return [getattr(row, self.column.key), getattr(row, self.key.key)]

    def parse(self, place: list[Any]) -> list[Any]:
        kinds = (self.column.type.python_type, self.key.type.python_type)
        try:
            return [
                TypeAdapter(kind).validate_python(v) for kind, v in zip(kinds, place, strict=True)
            ]
        except ValidationError:
            raise bad_cursor() from None


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of rows with everything that the contract says about it."""

    items: Sequence[Row]
    total: int
    limit: int
    offset: int
    next_cursor: str | None
    total_exact: bool = True

    @property
    def page(self) -> int:
        return self.offset // self.limit + 1

    @property
    def pages(self) -> int:
        return -(-self.total // self.limit)


class PageFields(BaseModel):
    """The fields beside the items; a list's answer inherits them and names its items."""

    total: int
    total_exact: bool = Field(description="False: there are more than `total`, uncounted.")
    page: int
    per_page: int
    pages: int
    limit: int
    offset: int
    next_cursor: str | None

    @classmethod
    def of(cls, page: Page[Any], **items: Any) -> Self:
        return cls(
            total=page.total,
            total_exact=page.total_exact,
            page=page.page,
            per_page=page.limit,
            pages=page.pages,
            limit=page.limit,
            offset=page.offset,
            next_cursor=page.next_cursor,
            **items,
        )


async def fetch(
    db: AsyncSession,
    query: Select[Row],
    ask: PageQuery,
    order: Order,
    *,
    count_to: int = MOST_ROWS,
) -> Page[Row]:
    """The page that was asked for, in at most two statements.

    `count_to` is for lists so long that counting them would take longer than reading the page.
    """
    direction = order.resolve(ask.sort)
    if ask.cursor:
        offset, total, place = unpack(ask.cursor, direction.name, places=2)
        query = query.where(direction.after(direction.parse(place)))
    else:
        keys = query.with_only_columns(order.key, maintain_column_froms=True)
        total, offset = None, ask.start
        query = query.offset(offset)
    rows = (await db.scalars(direction.apply(query).limit(ask.size + 1))).all()
    items, more = rows[: ask.size], len(rows) > ask.size
    if total is None:  # what is all on the first page is counted already
        total = await count(db, keys, count_to) if more or offset else len(items)
    next_cursor = None
    if more:
        seen = offset + len(items)
        next_cursor = pack(direction.name, seen, total, direction.place(items[-1]))
    exact = total <= count_to
    return Page(items, min(total, count_to), ask.size, offset, next_cursor, exact)


def only(query: Select[Row], wanted: Mapping[InstrumentedAttribute[Any], Any]) -> Select[Row]:
    """Those rows that are what was asked for; where None is, nothing was."""
    asked = {column: value for column, value in wanted.items() if value is not None}
    return query.where(*(column == value for column, value in asked.items()))


def of_list(rows: Sequence[Row], ask: PageQuery) -> Page[Row]:
    """The same answer for a short list that lives in memory; its cursor is a place in it."""
    start = unpack(ask.cursor, IN_MEMORY, places=0)[0] if ask.cursor else ask.start
    items = rows[start : start + ask.size]
    end = start + len(items)
    next_cursor = pack(IN_MEMORY, end, len(rows), []) if end < len(rows) else None
    return Page(items, len(rows), ask.size, start, next_cursor)


async def count(db: AsyncSession, query: Select[Any], count_to: int) -> int:
    """One more than `count_to` stands for any number beyond it.

    Of keys alone: whoever lists may not be allowed to see every column.
    """
    rows = query.order_by(None)
    if count_to < MOST_ROWS:
        rows = rows.limit(count_to + 1)
    return await db.scalar(select(func.count()).select_from(rows.subquery())) or 0


IN_MEMORY = "in memory"


def pack(order: str, seen: int, total: int, place: list[Any]) -> str:
    """A cursor: the order it belongs to, how many rows lie before, the total, the last row."""
    raw = orjson.dumps([order, seen, total, *place], default=str)
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def unpack(cursor: str, order: str, *, places: int) -> tuple[int, int, list[Any]]:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        name, seen, total, *place = orjson.loads(raw)
        counts = all(type(n) is int and 0 <= n < MOST_ROWS for n in (seen, total))
        if name != order or not counts or len(place) != places:
            raise ValueError("another order")
        return seen, total, place
    except (binascii.Error, ValueError, TypeError):
        raise bad_cursor() from None


def bad_cursor() -> InvalidInput:
    detail = "This cursor is not one of ours for this order; start again without it."
    return InvalidInput.at("?cursor", detail, "bad_cursor")
