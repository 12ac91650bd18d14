"""What accounts are kept in, and how many digits that has: written once, so it is read once."""

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import paging
from bursar.core.database import Claim, Database
from bursar.core.errors import BursarError
from bursar.core.paging import Order, Page, PageQuery
from bursar.wallets.ledger import SENTENCES, UnknownAsset
from bursar.wallets.models import Asset

SCALES: WeakKeyDictionary[Database, dict[str, int]] = WeakKeyDictionary()
ADD = text("select add_asset(:code, :scale, :kind, :address, :request_id)")
THOSE = "select code, scale from assets where code = any($2)"
ASSETS = Order({"code": Asset.code}, key=Asset.code, default="code")


async def asset(db: AsyncSession, code: str) -> Asset:
    found = await db.get(Asset, code)
    if found is None:
        raise unknown()
    return found


async def page(db: AsyncSession, ask: PageQuery) -> Page[Asset]:
    return await paging.fetch(db, select(Asset), ask, ASSETS)


async def all_scales(db: AsyncSession) -> dict[str, int]:
    """Of every asset: there are few."""
    found = await db.execute(select(Asset.code, Asset.scale))
    return {row.code: row.scale for row in found}


class AssetExists(BursarError, status=409, code="wallet.asset_exists"):
    """There is a currency with this code; its digits never change."""


async def add(db: AsyncSession, code: str, scale: int, kind: str) -> Asset:
    """Another currency, with the company's own accounts in it; it is for ever."""
    given = {"code": code, "scale": scale, "kind": kind, **audit.whence(db)}
    if not await db.scalar(ADD, given):
        raise AssetExists(f"There is a currency with the code {code} already.")
    return await asset(db, code)


async def scale(database: Database, claim: Claim, code: str) -> int:
    """For the hot paths: asked of the database once in a process."""
    known = SCALES.get(database)
    if known is None or code not in known:
        known = await scales(database, claim, (code,))
    if code not in known:
        raise unknown()
    return known[code]


async def scales(database: Database, claim: Claim, codes: Iterable[str]) -> dict[str, int]:
    """Those that there are; an unknown one may be there the next time somebody asks."""
    known = SCALES.setdefault(database, {})
    wanted = set(codes) - known.keys()
    if wanted:
        rows = await database.fetch_all(claim, THOSE, list(wanted))
        known.update((row["code"], row["scale"]) for row in rows)
    return known


def unknown() -> UnknownAsset:
    return UnknownAsset(SENTENCES[UnknownAsset])
