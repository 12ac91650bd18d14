"""The verbs of settings: change some at once, change one, put one back to its default."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.audit import service as audit
from bursar.core import etag, events
from bursar.core.errors import InvalidInput
from bursar.system import queries
from bursar.system.catalogue import CATALOGUE, BadValue
from bursar.system.models import StoredSetting


class SettingsChanged(events.Event, name="settings.changed"):
    """Staff gave these settings another value, or put them back to their default."""

    keys: list[str]


async def change(db: AsyncSession, values: Mapping[str, Any]) -> None:
    """Sets every value or none."""
    parsed = check(values)
    changed = []
    for key in sorted(parsed):  # one order for everybody: two writers never wait in a circle
        before = await lock(db, key, None)
        if await store(db, key, parsed[key], before):
            changed.append(key)
    if changed:
        await events.publish(db, SettingsChanged(keys=changed))


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values in their types, or all that is wrong with them at once."""
    if not values:
        raise InvalidInput.at("", "Name at least one setting.", "missing")
    parsed: dict[str, Any] = {}
    errors: list[dict[str, Any]] = []
    for key, value in values.items():
        if key not in CATALOGUE:
            detail = f"There is no such setting; there are: {', '.join(sorted(CATALOGUE))}."
            errors.append({"pointer": f"/{key[:100]}", "detail": detail, "code": "unknown_setting"})
            continue
        try:
            parsed[key] = CATALOGUE[key].parse(value)
        except BadValue as error:
            errors += error.errors or []
    if errors:
        raise InvalidInput(f"{len(errors)} of {len(values)} settings cannot be set.", errors=errors)
    return parsed


async def change_one(
    db: AsyncSession, key: str, value: Any, *, if_match: str | None = None
) -> None:
    """Sets one; with If-Match only if nobody else did since that version was read."""
    parsed = queries.find(key).parse(value, pointer="/value")
    before = await lock(db, key, if_match)
    if await store(db, key, parsed, before):
        await events.publish(db, SettingsChanged(keys=[key]))


async def put_back(db: AsyncSession, key: str, *, if_match: str | None = None) -> None:
    """Back to the default. The row stays, so that its version is never used a second time."""
    stored = await lock(db, queries.find(key).key, if_match)
    if stored and await store(db, key, None, stored):
        await events.publish(db, SettingsChanged(keys=[key]))


async def lock(db: AsyncSession, key: str, if_match: str | None) -> StoredSetting | None:
    """Holds the key, also one without a row, until the transaction ends."""
    name = func.hashtextextended(f"setting {key}", 0)
    await db.execute(select(func.pg_advisory_xact_lock(name)))
    stored = await db.get(StoredSetting, key, with_for_update=True, populate_existing=True)
    etag.check(if_match, stored.version if stored else 0)
    return stored


async def store(db: AsyncSession, key: str, value: Any, before: StoredSetting | None) -> bool:
    """Whether that was a change; null stands for the default, in the audit as well."""
    old = before.value if before else None
    row = insert(StoredSetting).values(key=key, value=value)
    row = row.on_conflict_do_update(
        index_elements=[StoredSetting.key],
        set_={"value": row.excluded.value},
        where=StoredSetting.value.is_distinct_from(row.excluded.value),
    )
    if await db.scalar(row.returning(StoredSetting.key)) is None:
        audit.nothing_changed(db)
        return False
    await audit.record(
        db, "settings.changed", "setting", key, before={key: old}, after={key: value}
    )
    return True
