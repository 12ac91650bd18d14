"""`bursar doctor`: looks at each thing that can be wrong and says what to do about it."""

import asyncio
import shutil
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from bursar.accounts import second_factor
from bursar.commands.place import owner_url, settings_of
from bursar.commands.terminal import answer, answer_json
from bursar.core.database import DOOR, WORKER, Database
from bursar.core.errors import BursarError
from bursar.core.migrate import check
from bursar.core.seal import Seals
from bursar.core.settings import Settings
from bursar.system import health
from bursar.webhooks import signing

ENOUGH_BYTES = 1_000_000_000


@dataclass
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool
    detail: str


def run(*, data: Path | None, json: bool) -> None:
    findings = examine(data)
    if json:
        answer_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            answer(f"{'ok  ' if finding.ok else 'FAIL'} {finding.name}: {finding.detail}")
    if not all(finding.ok for finding in findings):
        sys.exit(1)


def examine(data: Path | None) -> list[Finding]:
    findings = [look("python", lambda: sys.version.split()[0])]
    try:
        settings = settings_of(data)
    except BursarError as error:
        return [*findings, Finding("settings", False, error.detail)]
    findings.append(Finding("settings", True, f"data in {settings.data}"))
    findings.append(look("secret key", lambda: secret_key(settings)))
    findings.append(disk(settings))
    try:
        with owner_url(settings) as url:
            findings += asyncio.run(parts(url, settings))
    except BursarError as error:
        findings.append(Finding("database", False, error.detail))
    return findings


def look(name: str, work: Callable[[], str]) -> Finding:
    try:
        return Finding(name, True, work())
    except BursarError as error:
        return Finding(name, False, error.detail)


def secret_key(settings: Settings) -> str:
    """A look must not make one."""
    if settings.secret_key or (settings.data / "secret_key").exists():
        return f"{len(settings.secret_keys)} in use"
    return "none yet, the first start makes one"


def disk(settings: Settings) -> Finding:
    folder = next(path for path in (settings.data, *settings.data.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    detail = f"{free / 1e9:.1f} GB free"
    return Finding("disk", free > ENOUGH_BYTES, detail)


async def parts(url: str, settings: Settings) -> list[Finding]:
    """What the server itself would say, once it is sure that it could run at all."""
    await check(url, settings)
    database = Database(url, settings)
    try:
        found = await health.look(database)
        async with database.transaction(DOOR) as db:
            factors = await second_factor.seals(db, settings)
        async with database.transaction(WORKER) as db:
            secrets = await signing.seals(db, settings)
    finally:
        await database.close()
    named = [Finding(name, part.status == "healthy", part.detail) for name, part in found.items()]
    return [
        *named,
        sealed("second factors", factors, "let an owner reset them"),
        sealed("webhook secrets", secrets, "rotate them"),
    ]


def sealed(name: str, seals: Seals, remedy: str) -> Finding:
    """What no key opens any more is of no use, and nothing else would tell before."""
    detail = f"{seals.all} sealed, all with the newest secret key"
    if seals.older:
        detail = f"{seals.older} of {seals.all} need an older secret key: run `bursar migrate`"
    if seals.lost:
        detail = f"{seals.lost} of {seals.all} open with no secret key that is set: put the old "
        detail += f"one back behind the new one, or {remedy}"
    return Finding(name, not seals.lost, detail)
