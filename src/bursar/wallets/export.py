"""A wallet's entries as a file, the newest first, read a piece at a time in short transactions.

What is posted after it has begun is not in it: an entry's number says which came first.
"""

from collections.abc import AsyncIterator
from uuid import UUID

from bursar.core import files
from bursar.core.database import Claim, Database
from bursar.core.files import Format
from bursar.core.wire import zulu
from bursar.wallets import queries
from bursar.wallets.queries import Entry, EntryFilters, Wallet
from bursar.wallets.schemas import TransactionOut

PIECE = 1000

COLUMNS = (
    "id", "created_at", "effective_at", "direction", "amount", "balance_after", "currency", "kind",
    "category", "description", "note", "reverses", "hold_id",
)  # fmt: skip


async def stream(
    database: Database,
    claim: Claim,
    user_id: UUID,
    currency: str,
    filters: EntryFilters,
    kind: Format,
) -> AsyncIterator[bytes]:
    """The whole file, of one wallet."""
    async with database.transaction(claim) as db:
        wallet = await queries.wallet(db, user_id, currency)
        after, until = await queries.bounds(db, wallet.row, filters) if wallet else (0, 0)
    head = files.head(kind, COLUMNS)
    while True:
        rows = []
        if wallet:
            async with database.transaction(claim) as db:
                rows = list(await queries.read(db, wallet.row, filters, after, until, PIECE))
        piece = head + files.written(kind, COLUMNS, [values(row, wallet) for row in rows if wallet])
        if piece:
            yield piece
        head = b""
        if len(rows) < PIECE:
            return
        until = rows[-1].seq - 1


def values(entry: Entry, wallet: Wallet) -> list[object]:
    """In the order of COLUMNS."""
    shown = TransactionOut.of(entry, wallet)
    times = {name: zulu(getattr(shown, name)) for name in ("created_at", "effective_at")}
    ids = {"id": str(shown.id), "reverses": text(shown.reverses), "hold_id": text(shown.hold_id)}
    return [({**times, **ids}).get(name, getattr(shown, name)) for name in COLUMNS]


def text(value: UUID | None) -> str | None:
    return str(value) if value else None
