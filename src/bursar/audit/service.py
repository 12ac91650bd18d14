"""The verbs of the audit trail: record what was done in its transaction, seal, make a checkpoint.

    from bursar.audit import service as audit

    await audit.record(db, "users.suspended", "user", user.id,
                       before={"status": "active"}, after={"status": "suspended"})

Who did it is known from the transaction. `actor=` is for what shows only during the request, as at
sign-in. A write that found nothing to change says so: `audit.nothing_changed(db)`; a person's write
that does neither is not committed (core/database.py, UnauditedWrite).
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import chain, checkpoints, queries, redaction
from bursar.audit.models import AuditCheckpoint
from bursar.auth.actor import SYSTEM, Actor, Origin
from bursar.core.settings import Settings

RECORD = text("""
  select record_audit(
    :event_type, :target_type, :target_id, cast(:before as json), cast(:after as json),
    :actor_kind, cast(:actor_id as uuid), cast(:on_behalf_of as uuid),
    cast(:impersonator_id as uuid), :address, :request_id)
""")
UNKNOWN = Origin(SYSTEM)  # a job or a command, which no person stands behind


async def record(
    db: AsyncSession,
    event_type: str,
    target_type: str | None = None,
    target_id: object = None,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    actor: Actor | None = None,
) -> UUID:
    """Writes down who did what, in the transaction of the deed, and answers the row's id.

    Given both sides, only what differs is kept. Secrets are left out (audit/redaction.py).
    """
    origin = db.info.get("origin") or UNKNOWN
    who: Actor = actor or origin.actor
    old, new = redaction.encode(*redaction.changes(before, after))
    row = {
        "event_type": event_type,
        "target_type": target_type,
        "target_id": None if target_id is None else str(target_id),
        "before": old,
        "after": new,
        "actor_kind": who.kind.value,
        "actor_id": who.id,
        "on_behalf_of": who.on_behalf_of,
        "impersonator_id": who.impersonator,
        "address": origin.address,
        "request_id": origin.request_id,
    }
    recorded: UUID = (await db.execute(RECORD, row)).scalar_one()
    db.info["audited"] = True
    return recorded


def whence(db: AsyncSession) -> dict[str, str | None]:
    """Where the request came from, for a function of the database that audits what it does."""
    origin = db.info.get("origin") or UNKNOWN
    return {"address": origin.address, "request_id": origin.request_id}


def nothing_changed(db: AsyncSession) -> None:
    """For a write that found everything as it was to be: no row is owed for it."""
    db.info["audited"] = True


BATCH = 10_000
MOST_BATCHES = 50  # of one transaction; what is left has its turn a minute later

# A row that only the worker may lock: anybody could hold an advisory lock, and nothing was sealed.
LOCK = text("select installation from audit_chains for update skip locked")

# Behind the oldest open transaction nothing can appear any more, so what is seen there is all there
# will be, in its order for good. A row from the future is one of a dump restored into a younger
# server, and nothing in a dump is unfinished.
DUE = text(f"""
  select waiting.xid, waiting.log_id, {chain.CANONICAL}
  from audit_unsealed as waiting join audit_logs as log on log.id = waiting.log_id
  where waiting.xid < pg_snapshot_xmin(pg_current_snapshot())::text::bigint
    or (waiting.xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint
      and waiting.xid is distinct from pg_current_xact_id_if_assigned()::text::bigint)
  order by waiting.xid, waiting.log_id
  limit :batch
""")  # noqa: S608 - its own text
ADD_SEALS = text("""
  insert into audit_seals (seq, log_id, digest, hash)
  select * from unnest(
    cast(:seqs as bigint[]), cast(:ids as uuid[]),
    cast(:digests as bytea[]), cast(:hashes as bytea[]))
""")
TAKE_OFF = text("""
  delete from audit_unsealed using unnest(cast(:xids as bigint[]), cast(:ids as uuid[]))
    as sealed (xid, log_id)
  where (audit_unsealed.xid, audit_unsealed.log_id) = (sealed.xid, sealed.log_id)
""")


async def seal(db: AsyncSession, *, batch: int = BATCH, most_batches: int = MOST_BATCHES) -> int:
    """Seals what waits, in order, as the worker; answers how many. One sealer at a time.

    Writers never wait for it, nor it for them: a row joins the chain once every transaction that
    could still put one before it has ended.
    """
    if not await db.scalar(LOCK):
        return 0
    sealed = 0
    for _ in range(most_batches):
        number = await seal_batch(db, batch)
        sealed += number
        if number < batch:
            break
    return sealed


async def seal_batch(db: AsyncSession, batch: int) -> int:
    rows = (await db.execute(DUE, {"batch": batch})).all()
    if not rows:
        return 0
    seq, before = await queries.head(db)
    digests = [chain.digest(tuple(row[2:])) for row in rows]
    hashes: list[bytes] = []
    for digest in digests:
        before = chain.link(before, digest)
        hashes.append(before)
    ids = [row[1] for row in rows]
    seqs = list(range(seq + 1, seq + 1 + len(rows)))
    await db.execute(ADD_SEALS, {"seqs": seqs, "ids": ids, "digests": digests, "hashes": hashes})
    await db.execute(TAKE_OFF, {"xids": [row[0] for row in rows], "ids": ids})
    return len(rows)


async def make_checkpoint(db: AsyncSession) -> bool:
    """Signs where the chain stands, unless that is signed already; in the seal's transaction."""
    seq, hash_ = await queries.head(db)
    newest = select(AuditCheckpoint.seq).order_by(AuditCheckpoint.seq.desc()).limit(1)
    if seq <= (await db.scalar(newest) or 0):
        return False
    settings: Settings = db.info["settings"]
    checkpoint = checkpoints.Checkpoint(
        installation=await queries.installation(db), seq=seq, hash=hash_, time=datetime.now(UTC)
    )
    document = checkpoints.sign(checkpoint, settings.secret_keys)
    db.add(AuditCheckpoint(seq=seq, document=document))
    await db.flush()
    return True
