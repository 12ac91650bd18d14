"""Reads of settings and of their history."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.database import Claim, Database
from bursar.core.errors import BursarError, InvalidInput
from bursar.core.paging import Order, Page, PageQuery, fetch
from bursar.system.catalogue import CATALOGUE, Setting
from bursar.system.models import SettingChange, StoredSetting

T = TypeVar("T")

CHANGES = Order(
    {"changed_at": SettingChange.changed_at, "key": SettingChange.key},
    key=SettingChange.id,
    default="-changed_at",
)

ONE = "select value, version, updated_at, updated_by from settings where key = $2"


class UnknownSetting(BursarError, status=404, code="system.unknown_setting"):
    """No setting has this key; GET /api/v1/admin/settings lists them all."""


@dataclass(frozen=True, slots=True)
class SettingView:
    """A declared setting with the value that holds now; version 0: nobody ever set it."""

    key: str
    value: Any
    default: Any
    description: str
    value_schema: dict[str, Any]
    version: int = 0
    updated_at: datetime | None = None
    updated_by: UUID | None = None


async def settings(db: AsyncSession, search: str | None = None) -> list[SettingView]:
    """All declared settings by key, with what is stored laid over the defaults."""
    stored = {row.key: row for row in await db.scalars(select(StoredSetting))}
    return [
        view(declared, facts(stored.get(key)))
        for key, declared in sorted(CATALOGUE.items())
        if not search or search.lower() in f"{key} {declared.description}".lower()
    ]


async def setting(database: Database, claim: Claim, key: str) -> SettingView:
    """One setting, by the short way: one statement, one round trip."""
    return view(find(key), await database.fetch_one(claim, ONE, key))


async def stored(db: AsyncSession, key: str) -> SettingView:
    """One setting as this transaction sees it, its own changes included."""
    return view(find(key), facts(await db.get(StoredSetting, key, populate_existing=True)))


async def value(db: AsyncSession, declared: Setting[T]) -> T:
    """What a setting is now, for code that acts on it."""
    row = await db.get(StoredSetting, declared.key)
    return declared.default if row is None or row.value is None else declared.parse(row.value)


def facts(row: StoredSetting | None) -> Iterable[Any] | None:
    """In the order of ONE."""
    return (row.value, row.version, row.updated_at, row.updated_by) if row else None


def view(declared: Setting[Any], stored: Iterable[Any] | None) -> SettingView:
    value, *about = stored or (None,)
    return SettingView(
        declared.key,
        declared.default if value is None else value,
        declared.default,
        declared.description,
        declared.schema,
        *about,
    )


async def changes(db: AsyncSession, ask: PageQuery, key: str | None = None) -> Page[SettingChange]:
    query = select(SettingChange)
    if key is not None:
        query = query.where(SettingChange.key == known(key))
    return await fetch(db, query, ask, CHANGES)


def find(key: str) -> Setting[Any]:
    if key not in CATALOGUE:
        raise UnknownSetting(f"There is no setting with the key {key[:100]!r}.")
    return CATALOGUE[key]


def known(key: str) -> str:
    """A key to filter by, or the sentence that names those there are."""
    if key not in CATALOGUE:
        allowed = ", ".join(sorted(CATALOGUE))
        raise InvalidInput.at("?key", f"There is no such setting; there are: {allowed}.", "unknown")
    return key
