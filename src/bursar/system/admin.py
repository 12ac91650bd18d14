"""Staff read and change settings, and look at the health of the whole."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from bursar.auth.actor import Actor
from bursar.auth.guard import staff
from bursar.auth.permissions import Permission
from bursar.core import etag
from bursar.core.database import Db
from bursar.core.errors import InvalidInput
from bursar.core.etag import IfMatch, PreconditionFailed
from bursar.core.hot import hot
from bursar.core.paging import PageQuery, of_list, sort_field
from bursar.core.problems import documented
from bursar.core.wire import Route, answer
from bursar.system import health, queries, service
from bursar.system.catalogue import CATALOGUE, BadValue
from bursar.system.queries import UnknownSetting
from bursar.system.schemas import (
    Health,
    SettingChangeList,
    SettingIn,
    SettingList,
    SettingOut,
    SettingsChangedOut,
    SettingValues,
)

router = APIRouter(tags=["system"], route_class=Route)

READ = staff(Permission.SETTINGS_READ)
WRITE = staff(Permission.SETTINGS_WRITE)


class SettingsQuery(PageQuery):
    """A page of settings, perhaps only those that a word finds."""

    search: str | None = Field(None, max_length=100)
    sort: Literal["key"] | None = None


def only_known(schema: dict[str, Any]) -> None:
    """When the document is made: by then every domain has declared its settings."""
    schema["enum"] = sorted(CATALOGUE)


class ChangesQuery(PageQuery):
    """A page of changes, perhaps only those of one setting."""

    key: str | None = Field(None, max_length=100, json_schema_extra=only_known)
    sort: str | None = sort_field(queries.CHANGES)


@router.get("/settings", dependencies=[READ])
async def list_settings(db: Db, ask: Annotated[SettingsQuery, Query()]) -> SettingList:
    """Every setting with its value, default and limits."""
    page = of_list(await queries.settings(db, ask.search), ask)
    return SettingList.of(page, settings=list(page.items))


@router.put("/settings", dependencies=[WRITE], responses=documented(InvalidInput))
async def change_settings(db: Db, values: SettingValues) -> SettingsChangedOut:
    """Sets all of the values, or none."""
    wanted = values.by_key()
    await service.change(db, wanted)
    views = await queries.settings(db)
    now = {view.key: view.value for view in views if view.key in wanted}
    return SettingsChangedOut(settings=now)


@router.get("/setting-changes", dependencies=[READ], responses=documented(InvalidInput))
async def list_setting_changes(db: Db, ask: Annotated[ChangesQuery, Query()]) -> SettingChangeList:
    """Who changed what and when, the newest first."""
    page = await queries.changes(db, ask, ask.key)
    return SettingChangeList.of(page, changes=list(page.items))


@router.get("/settings/{key}", response_model=SettingOut, responses=documented(UnknownSetting))
@hot
async def read_setting(request: Request, actor: Annotated[Actor, READ], key: str) -> Response:
    """One setting; the ETag is its version."""
    view = await queries.setting(request.app.state.database, actor.claim, key)
    return answer(SettingOut.model_validate(view), headers={"ETag": etag.of(view.version)})


@router.put(
    "/settings/{key}",
    dependencies=[WRITE],
    responses=documented(UnknownSetting, BadValue, PreconditionFailed),
)
async def change_setting(
    db: Db, response: Response, key: str, body: SettingIn, if_match: IfMatch = None
) -> SettingOut:
    """Sets one value; with If-Match only if it is still the version that you read."""
    await service.change_one(db, key, body.value, if_match=if_match)
    return await changed(db, response, key)


@router.delete(
    "/settings/{key}",
    dependencies=[WRITE],
    responses=documented(UnknownSetting, PreconditionFailed),
)
async def put_back_setting(
    db: Db, response: Response, key: str, if_match: IfMatch = None
) -> SettingOut:
    """Puts one setting back to its default."""
    await service.put_back(db, key, if_match=if_match)
    return await changed(db, response, key)


async def changed(db: Db, response: Response, key: str) -> SettingOut:
    view = await queries.stored(db, key)
    response.headers["ETag"] = etag.of(view.version)
    return SettingOut.model_validate(view)


@router.get("/health", dependencies=[staff(Permission.HEALTH_READ)])
async def read_health(request: Request) -> Health:
    """Each part of Bursar that can fail, looked at now."""
    return await health.examine(request.app.state)
