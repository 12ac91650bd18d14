"""Reads of settings, in a transaction that is rolled back."""

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from bursar.core.paging import PageQuery
from bursar.system import queries, service
from bursar.system.catalogue import CACHE_TTL_SECONDS, COMPANY_NAME
from tests.system.factories import make_setting


async def test_a_value_is_the_stored_one_or_the_default(db: AsyncSession) -> None:
    assert await queries.value(db, COMPANY_NAME) == "Bursar"
    await make_setting(db, "company_name", "Tern")
    assert await queries.value(db, COMPANY_NAME) == "Tern"
    await service.put_back(db, "company_name")
    assert await queries.value(db, COMPANY_NAME) == "Bursar"


async def test_search_looks_at_key_and_description(db: AsyncSession) -> None:
    found = await queries.settings(db, "DASHBOARD")
    assert [view.key for view in found] == [CACHE_TTL_SECONDS.key]


async def test_changes_of_one_setting_only(db: AsyncSession) -> None:
    await make_setting(db, "company_name")
    await make_setting(db, "cache_ttl_seconds", 60)
    page = await queries.changes(db, PageQuery(), "cache_ttl_seconds")
    assert [(change.old, change.new) for change in page.items] == [(None, 60)]


async def test_nothing_is_left_of_another_test(db: AsyncSession) -> None:
    assert (await queries.changes(db, PageQuery())).total == 0


async def test_a_whole_number_may_be_written_with_a_point(db: AsyncSession) -> None:
    assert (await make_setting(db, "cache_ttl_seconds", 60)).value == 60
    with pytest.raises(queries.UnknownSetting):
        await service.put_back(db, "colour")
