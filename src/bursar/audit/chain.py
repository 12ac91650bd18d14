"""The chain of seals: what of a row is hashed, and how each seal holds all seals before it.

The digest of a row is the SHA-256 of a JSON array of strings and nulls, written without spaces and
with the fewest escapes (RFC 8785): a label, then each column in this order. Anybody can make it
again, in any language, whatever the settings of the database are: ids and numbers as PostgreSQL
writes them, times as whole microseconds since 1970 in UTC, JSON as the text that was stored.

A seal's hash is the SHA-256 of the hash before it and the digest. The first one follows the hash of
the installation's id, so that a chain cannot be passed off as another installation's.
"""

from collections.abc import Sequence
from hashlib import sha256
from uuid import UUID

import orjson

LABEL = "bursar audit 1"

CANONICAL = f"""
  '{LABEL}', log.id::text, log.event_type, log.actor_kind, log.actor_id::text,
  log.on_behalf_of::text, log.impersonator_id::text, log.target_type, log.target_id,
  log.before::text, log.after::text, log.address, log.request_id,
  (extract(epoch from log.occurred_at) * 1000000)::bigint::text,
  log.login_role, log.subject::text, log.xid::text"""  # read from `audit_logs as log`

WIDTH = 17
ID, OCCURRED_AT = 1, 13  # where they stand in it


def digest(row: Sequence[str | None]) -> bytes:
    """What a seal says about one row: the values of CANONICAL, in a tuple."""
    return sha256(orjson.dumps(row)).digest()


def link(before: bytes, digest: bytes) -> bytes:
    """The hash of the seal that follows `before`."""
    return sha256(before + digest).digest()


def beginning(installation: UUID) -> bytes:
    """What stands before the first seal."""
    return sha256(b"bursar audit chain " + installation.bytes).digest()
