"""Numbers and times on the wire: exact both ways, and nothing else passes for one."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import pytest
from fastapi import APIRouter
from fastapi.responses import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, TypeAdapter, ValidationError

from bursar.auth.guard import everyone
from bursar.core import exact
from bursar.core.money import Amount
from bursar.core.wire import WHOLE, Moment, Route, Time, Wire, answer
from tests.conftest import Live

DIGITS = Decimal("12345678901234567890.123456789012345600")


async def test_every_route_answers_exact_numbers(live_db: Live) -> None:
    """Its status and headers are as the endpoint says, its fields as the model says."""
    router = APIRouter(route_class=Route, dependencies=[everyone])

    @router.get("/model", status_code=202)
    async def model(response: Response) -> Shop:
        response.headers["ETag"] = '"1"'
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        return WealthyShop(join_date=moment, monthly_volume=DIGITS, secret="hidden")

    @router.get("/anything")
    async def anything(response: Response) -> dict[str, Any]:
        response.status_code = 203
        return {"deep": [{"amount": DIGITS, "at": datetime(2026, 1, 2, tzinfo=UTC)}]}

    @router.get("/nothing", status_code=204)
    async def nothing() -> None: ...

    live_db.app.include_router(router)
    async with live_db.api() as api:
        of_model, deep = await api.get("/model"), await api.get("/anything")
        empty = await api.get("/nothing")
    assert (of_model.status_code, of_model.headers["etag"]) == (202, '"1"')
    assert of_model.text == f'{{"join_date":"2026-01-02T03:04:05.000Z","monthly_volume":{DIGITS}}}'
    assert (deep.status_code, deep.headers["content-type"]) == (203, "application/json")
    assert deep.text == f'{{"deep":[{{"amount":{DIGITS},"at":"2026-01-02T00:00:00.000Z"}}]}}'
    assert (empty.status_code, empty.content) == (204, b"")


class Shop(Wire):
    """As everybody sees it."""

    join_date: Moment
    monthly_volume: Decimal


class WealthyShop(Shop):
    """More than its route says."""

    secret: str


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6))
def test_an_answer_made_by_hand_keeps_every_digit(number: Decimal) -> None:
    body = answer({"amount": number}).body
    assert exact.loads(bytes(body))["amount"] == number
    assert b'"' not in bytes(body).partition(b":")[2]


@pytest.mark.parametrize("said", [1, True, Decimal("1.5"), "1767225600", "now", 10**400])
def test_a_number_is_no_time(said: Any) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Time).validate_python(said)


def test_a_time_without_a_zone_is_one_in_utc() -> None:
    read = TypeAdapter(Time).validate_python
    assert read("2026-01-02") == datetime(2026, 1, 2, tzinfo=UTC)
    assert read("2026-01-02T03:00:00+02:00") == datetime(2026, 1, 2, 1, tzinfo=UTC)


def test_a_whole_number_may_have_a_point_and_is_neither_true_nor_text() -> None:
    count: TypeAdapter[int] = TypeAdapter(Annotated[int, Field(ge=0, strict=True), WHOLE])
    assert [count.validate_python(each) for each in (7, Decimal("600.0"))] == [7, 600]
    for wrong in (True, "7", Decimal("1.5"), -1):
        with pytest.raises(ValidationError):
            count.validate_python(wrong)


def test_true_is_no_amount() -> None:
    amount: TypeAdapter[Decimal] = TypeAdapter(Amount)
    assert amount.validate_python(1) == 1
    with pytest.raises(ValidationError):
        amount.validate_python(True)
