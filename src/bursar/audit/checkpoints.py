"""Signed checkpoints: what the chain was at a moment, kept where the database's owner is not.

A chain does not tell of its own end: whoever owns the database can cut it off, write it anew or put
back last month's copy. A checkpoint says "at seal 1,234 the hash was …" and is signed with a key
that is made from the secret key, so that it holds wherever it lies. It is shipped to a folder or a
bucket, one file each, which is never written a second time.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname
from uuid import UUID

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bursar.core.errors import BursarError
from bursar.core.settings import Settings
from bursar.core.wire import zulu

PURPOSE = b"bursar audit checkpoint"
KIND = "bursar audit checkpoint 1"
NOWHERE = "none"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where the chain of one installation stood."""

    installation: UUID
    seq: int
    hash: bytes
    time: datetime

    @property
    def name(self) -> str:
        """Of its file: in the order of the chain, whoever lists them."""
        return f"{self.installation}/{self.seq:016}.json"


def sign(checkpoint: Checkpoint, secret_keys: Sequence[str]) -> str:
    """One line of JSON, by the newest secret key."""
    key = signing_key(secret_keys[0])
    said = {
        "kind": KIND,
        "installation": str(checkpoint.installation),
        "seq": checkpoint.seq,
        "count": checkpoint.seq,
        "hash": checkpoint.hash.hex(),
        "time": zulu(checkpoint.time),
        "key": key_id(key),
    }
    signature = base64.b64encode(key.sign(to_be_signed(said))).decode()
    return orjson.dumps({**said, "signature": signature}).decode()


class BadCheckpoint(ValueError):
    """Not what this installation signed; the sentence says what is wrong with it."""


class UnknownKey(BadCheckpoint):
    """Signed with a key that is not made from any of the secret keys."""


def read(document: str | bytes, secret_keys: Sequence[str]) -> Checkpoint:
    """The checkpoint, once it is sure that one of these keys has signed it."""
    checkpoint, said, signature = parse(document)
    keys = {key_id(key): key.public_key() for key in map(signing_key, secret_keys)}
    if said["key"] not in keys:
        raise UnknownKey("it is signed with a key that is not made from BURSAR_SECRET_KEY")
    try:
        keys[said["key"]].verify(signature, to_be_signed(said))
    except InvalidSignature:
        raise BadCheckpoint("its signature is wrong") from None
    return checkpoint


def parse(document: str | bytes) -> tuple[Checkpoint, dict[str, Any], bytes]:
    """What it says, nobody having looked at the signature."""
    try:
        said = orjson.loads(document)
        signature = base64.b64decode(said.pop("signature"), validate=True)
        if said["kind"] != KIND or type(said["seq"]) is not int or not isinstance(said["key"], str):
            raise ValueError("another kind")
        checkpoint = Checkpoint(
            UUID(said["installation"]),
            said["seq"],
            bytes.fromhex(said["hash"]),
            datetime.fromisoformat(said["time"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadCheckpoint("it cannot be read as a checkpoint") from None
    return checkpoint, said, signature


def to_be_signed(said: dict[str, Any]) -> bytes:
    return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)


def signing_key(secret: str) -> Ed25519PrivateKey:
    """Of the secret key, so that no second secret has to be handed around."""
    seed = HKDF(algorithm=SHA256(), length=32, salt=None, info=PURPOSE).derive(secret.encode())
    return Ed25519PrivateKey.from_private_bytes(seed)


def key_id(key: Ed25519PrivateKey) -> str:
    raw = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return sha256(raw).hexdigest()[:16]


def place_of(settings: Settings) -> str | None:
    """Where checkpoints go: what is set, or `audit` in the data folder of our own database.

    Beside an external database the data folder may be anywhere and gone tomorrow: then only a place
    that is named will do.
    """
    if settings.audit_checkpoints:
        return None if settings.audit_checkpoints == NOWHERE else settings.audit_checkpoints
    return None if settings.database_url else (settings.data / "audit").as_uri()


class PlaceFails(BursarError, status=503, code="audit.place_fails"):
    """Checkpoints of the audit trail cannot be written to or read from where they are kept."""


class CheckpointConflict(BursarError, status=409, code="audit.checkpoint_conflict"):
    """Another checkpoint of the same number lies there: two databases continue one audit trail, or
    this one was restored from a backup. Verify it, then name a new place."""


async def ship(place: str, name: str, document: str) -> None:
    """Puts it there; there already, it must be the same to the last byte."""
    from obstore.exceptions import AlreadyExistsError

    content = f"{document}\n".encode()
    with explained(place):
        store = open_place(place)
        try:
            await store.put_async(name, content, mode="create")
        except AlreadyExistsError:
            lies_there = bytes(await (await store.get_async(name)).bytes_async())
            if lies_there != content:
                raise CheckpointConflict(
                    f"{name} is at {place} already and says something else: two databases continue "
                    "one audit trail, or this one was restored from a backup. Run `bursar audit "
                    "verify`, then set BURSAR_AUDIT_CHECKPOINTS to a new place."
                ) from None


async def listing(place: str) -> list[str]:
    """The names of all files of checkpoints at the place, oldest first."""
    with explained(place):
        if is_missing_folder(place):
            return []
        store = open_place(place)
        names = [file["path"] async for part in store.list() for file in part]
    return sorted(name for name in names if name.endswith(".json"))


def is_missing_folder(place: str) -> bool:
    """Somebody who only looks makes none."""
    return place.startswith("file:") and not Path(url2pathname(urlsplit(place).path)).exists()


async def fetch(place: str, names: Sequence[str]) -> dict[str, bytes]:
    """What stands in these files; only as much as one of ours can have."""
    found: dict[str, bytes] = {}
    with explained(place):
        store = open_place(place)
        for name in names:
            result = await store.get_async(name)
            small = result.meta["size"] <= MOST_BYTES
            found[name] = bytes(await result.bytes_async()) if small else b""
    return found


MOST_BYTES = 10_000  # of a file; ours have some 400


def open_place(place: str) -> Any:
    """Credentials of a bucket are the environment's, in the names of its maker (AWS_…)."""
    from obstore.store import from_url

    return from_url(place, mkdir=True) if place.startswith("file:") else from_url(place)


class explained:  # noqa: N801 - reads as a word where it is used
    """What goes wrong at the place, in one sentence without anybody's credentials."""

    def __init__(self, place: str) -> None:
        self.place = place

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        from obstore.exceptions import BaseError

        if isinstance(error, BaseError | OSError | ValueError):
            said = str(error).partition("\n")[0][:200]
            raise PlaceFails(
                f"Checkpoints of the audit trail cannot be kept at {self.place}: {said}"
            ) from None
