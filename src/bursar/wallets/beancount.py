"""The books as a file that beancount reads: exact, from one snapshot, piece by piece.

What Bursar counts as a credit is below zero there, as beancount counts. The last lines say what
each account has by its own row; the transfers above must add up to that, which bean-check sees.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from bursar.core import money
from bursar.core.errors import BursarError

AT_ONCE = 1000  # rows that are in memory together
DAY = timedelta(days=1)

PLACES = {
    "clearing": "Assets:Clearing",
    "disputes": "Assets:Disputes",
    "refunds": "Liabilities:Refunds",
    "suspense": "Liabilities:Suspense",
    "revenue": "Income:Revenue",
    "rewards": "Expenses:Rewards",
    "fees": "Expenses:Fees",
    "adjustments": "Equity:Adjustments",
    "exchange": "Equity:Exchange",
}
OPENING = "Equity:Opening-Balances"

BEGINNING = """
  select least((select min(created_at) from accounts), (select min(posted_at) from transfers),
    (select min(created_at) from assets), now())
"""
ENDING = "select greatest((select max(moved_at) from accounts), now())"
ASSETS = "select code, scale, kind from assets order by code"

# The shards of one purpose are one account; each wallet is its own.
ACCOUNTS = """
  select purpose, wallet, array_agg(distinct asset order by asset) as assets,
    min(owner_id::text) as owner
  from (select *, case purpose when 'wallet' then id end as wallet from accounts) as accounts
  group by purpose, wallet order by purpose, wallet
"""
OPERATIONS = """
  select operation_id, posted_at, kind, amount, transfers.asset,
    debit.purpose as debit_purpose, debit_id, credit.purpose as credit_purpose, credit_id
  from transfers
  join accounts as debit on debit.id = debit_id
  join accounts as credit on credit.id = credit_id
  where posted_at >= $1 and posted_at < $2
  order by posted_at, operation_id, transfers.id
"""
# What the accounts say of themselves, less what was posted from a moment on.
BALANCES = """
  with later as (
    select account, sum(delta) as delta from (
      select debit_id as account, -amount as delta from transfers where posted_at >= $1
      union all
      select credit_id, amount from transfers where posted_at >= $1
    ) as entries group by account
  )
  select purpose, wallet, asset, sum(posted - coalesce(delta, 0))::text as balance
  from (select *, case purpose when 'wallet' then id end as wallet from accounts) as accounts
  left join later on account = id
  group by purpose, wallet, asset order by purpose, wallet, asset
"""


class BadPeriod(BursarError, status=422, code="wallet.bad_period"):
    """The last day of a period lies before its first day, or is the last day of the calendar."""


async def books(
    connection: Any, first: date | None = None, last: date | None = None
) -> AsyncIterator[str]:
    """The file in pieces, on a connection of the owner; days are in UTC, both are in it."""
    if first and last and last < first:
        raise BadPeriod("The last day lies before the first.")
    if date.max in (first, last):  # the balances stand on the day after
        raise BadPeriod(f"A period goes to {date.max - DAY} at the latest.")
    transaction = connection.transaction(isolation="repeatable_read", readonly=True)
    await transaction.start()
    try:
        await connection.execute("set local statement_timeout = 0; set local jit = off")
        async for piece in contents(connection, first, last):
            yield piece
    finally:
        await transaction.rollback()


async def contents(connection: Any, first: date | None, last: date | None) -> AsyncIterator[str]:
    beginning = day_of(await connection.fetchval(BEGINNING))
    last = last or max(day_of(await connection.fetchval(ENDING)), first or beginning)
    ended = last + DAY
    opened = min(beginning, first or beginning, ended)  # no balance of an account comes before it
    assets = await connection.fetch(ASSETS)
    scales = {row["code"]: row["scale"] for row in assets}
    yield heading(opened, assets)
    async for piece in pieces(connection, ACCOUNTS, lambda rows: openings(opened, rows)):
        yield piece
    begun = midnight(first or opened)
    if first:
        lines = pieces(connection, BALANCES, lambda rows: brought(first, rows, scales), begun)
        async for piece in lines:
            yield piece
    async for piece in postings(connection, scales, begun, midnight(ended)):
        yield piece
    lines = pieces(
        connection, BALANCES, lambda rows: assertions(ended, rows, scales), midnight(ended)
    )
    async for piece in lines:
        yield piece


def commodity(asset: str) -> str:
    """Three codes that an asset may have are words of beancount's own."""
    return f"{asset}.ASSET" if asset in {"TRUE", "FALSE", "NULL"} else asset


def day_of(moment: datetime) -> date:
    return moment.astimezone(UTC).date()


def midnight(day: date) -> datetime:
    return datetime.combine(day, time(), UTC)


def heading(day: date, assets: list[Any]) -> str:
    lines = ['option "title" "Bursar"']
    lines += [
        f'option "operating_currency" "{commodity(row["code"])}"'
        for row in assets
        if row["kind"] == "currency"
    ]
    for row in assets:
        lines += ["", f"{day} commodity {commodity(row['code'])}", f"  digits: {row['scale']}"]
    return "\n".join([*lines, "", f"{day} open {OPENING}"]) + "\n"


async def pieces(connection: Any, query: str, write: Any, *given: Any) -> AsyncIterator[str]:
    """What `write` makes of the rows, some at a time."""
    cursor = await connection.cursor(query, *given)
    while rows := await cursor.fetch(AT_ONCE):
        yield "".join(write(rows))


def name_of(purpose: str, account_id: UUID | None) -> str:
    """A part begins with a capital or a digit, which a UUID in capitals does."""
    if purpose == "wallet":
        return f"Liabilities:Customers:{str(account_id).upper()}"
    if purpose in PLACES:
        return PLACES[purpose]
    words = (part.replace("_", "-").strip("-") for part in purpose.split("."))
    return ":".join(["Equity", "Other", *(word.capitalize() for word in words if word)])


def openings(day: date, rows: list[Any]) -> Iterator[str]:
    for row in rows:
        assets = ",".join(map(commodity, row["assets"]))
        yield f"{day} open {name_of(row['purpose'], row['wallet'])} {assets}\n"
        if row["owner"]:
            yield f'  customer: "{row["owner"]}"\n'


def brought(day: date, rows: list[Any], scales: dict[str, int]) -> Iterator[str]:
    """Where each account stood before the first day."""
    for row in rows:
        if balance := int(row["balance"]):
            yield f'\n{day} * "brought forward"\n'
            yield posting(name_of(row["purpose"], row["wallet"]), -balance, row["asset"], scales)
            yield posting(OPENING, balance, row["asset"], scales)


async def postings(
    connection: Any, scales: dict[str, int], begun: datetime, ended: datetime
) -> AsyncIterator[str]:
    """One transaction for each operation that moved money."""
    cursor = await connection.cursor(OPERATIONS, begun, ended)
    operation: list[Any] = []
    while rows := await cursor.fetch(AT_ONCE):
        lines: list[str] = []
        for row in rows:
            if operation and operation[0]["operation_id"] != row["operation_id"]:
                lines += entry(operation, scales)
                operation = []
            operation.append(row)
        yield "".join(lines)
    if operation:
        yield "".join(entry(operation, scales))


def entry(rows: list[Any], scales: dict[str, int]) -> Iterator[str]:
    moment = rows[0]["posted_at"].astimezone(UTC)
    kinds = ", ".join(sorted({row["kind"] for row in rows}))
    yield f'\n{moment.date()} * "{kinds}"\n'
    yield f'  operation: "{rows[0]["operation_id"]}"\n'
    yield f'  kind: "{kinds}"\n'
    yield f'  posted: "{moment:%Y-%m-%dT%H:%M:%S.%fZ}"\n'
    for row in rows:
        debit = name_of(row["debit_purpose"], row["debit_id"])
        credit = name_of(row["credit_purpose"], row["credit_id"])
        yield posting(debit, row["amount"], row["asset"], scales)
        yield posting(credit, -row["amount"], row["asset"], scales)


def posting(account: str, amount: int, asset: str, scales: dict[str, int]) -> str:
    return f"  {account}  {money.decimal(amount, scales[asset]):f} {commodity(asset)}\n"


def assertions(day: date, rows: list[Any], scales: dict[str, int]) -> Iterator[str]:
    """beancount looks at them when the day begins. By itself it would forgive one unit."""
    yield "\n"
    for row in rows:
        name = name_of(row["purpose"], row["wallet"])
        balance = money.decimal(-int(row["balance"]), scales[row["asset"]])
        yield f"{day} balance {name}  {balance:f} ~ 0 {commodity(row['asset'])}\n"
