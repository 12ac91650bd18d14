"""PayPal's report of transactions in the words of the reconciliation, each line once.

A month is asked for at a time, as PayPal allows, a page at a time; what is too much for one report
is asked for in halves. What is denied or pending has moved no money, and what only goes between our
own balances, our bank and PayPal is nobody's payment: neither is told.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from bursar.payments.providers import Booked, NotShown
from bursar.payments.providers.paypal_api import Api, Refused
from bursar.payments.providers.paypal_facts import moment

PATH = "/v1/reporting/transactions"
LONGEST = timedelta(days=31)  # of one report
SHORTEST = timedelta(seconds=2)  # PayPal counts in seconds, and both ends are part of a report
TOO_MUCH = "RESULTSET_TOO_LARGE"
NOT_BOOKED = ("D", "P")
FEES = ("T1108", "T1109")  # given back
OUR_OWN = (
    *("T02", "T03", "T04", "T17"),  # conversion, and to and from the bank
    *("T1105", "T13", "T15", "T20", "T21", "T22", "T98"),  # holds, reserves, authorizations
)
NO_LEAVE = (
    "PayPal does not show its transactions to this app: switch on 'Transaction search' for it under"
    " Apps & Credentials. PayPal needs up to nine hours for that."
)


async def lines(api: Api, since: datetime, until: datetime) -> AsyncIterator[Booked]:
    """What was booked from one moment to before another; NotShown where PayPal refuses."""
    waiting = [(since, min(until, datetime.now(UTC)))]
    while waiting:
        begin, end = waiting.pop()
        if begin >= end:
            continue
        if end - begin > LONGEST:
            waiting += [(begin + LONGEST, end), (begin, begin + LONGEST)]
            continue
        told = False
        try:
            async for entry in entries(api, begin, end):
                told = True
                line = read(entry)
                if line is not None and begin <= line.booked_at < end:
                    yield line
        except Refused as refused:
            if refused.issue != TOO_MUCH or told or end - begin < SHORTEST:
                raise NotShown(why(refused)) from refused
            middle = begin + (end - begin) / 2
            waiting += [(middle, end), (begin, middle)]


def why(refused: Refused) -> str:
    if refused.status == 403:
        return NO_LEAVE
    return f"PayPal refuses its report: {refused.issue}, {refused.description}"


async def entries(api: Api, begin: datetime, end: datetime) -> AsyncIterator[Mapping[str, Any]]:
    page, pages = 1, 1
    while page <= pages:
        report = await api.report(
            PATH,
            start_date=said(begin),
            end_date=said(end + timedelta(microseconds=999_999)),
            fields="transaction_info",
            balance_affecting_records_only="Y",
            page_size="500",
            page=str(page),
        )
        for each in report.get("transaction_details") or ():
            yield each
        page, pages = page + 1, int(report.get("total_pages") or 1)


def said(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")


def read(entry: Mapping[str, Any]) -> Booked | None:
    """One line; None where it is nobody's payment."""
    try:
        info = entry["transaction_info"]
        code = str(info["transaction_event_code"])
        if info.get("transaction_status") in NOT_BOOKED or code.startswith(OUR_OWN):
            return None
        return booked(info, code)
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        kind = type(error).__name__
        raise NotShown(f"PayPal's report has a line that cannot be read: {kind} {error}") from None


def booked(info: Mapping[str, Any], code: str) -> Booked:
    """PayPal's codes: T00xx is paid, T1107 given back, other T11xx and T12xx are disputes, holds
    for them and what is taken back; the rest, such as fees of PayPal's own, keeps its code."""
    what = code
    if code.startswith("T00"):
        what = "captured"
    elif code == "T1107":
        what = "refunded"
    elif code in FEES:
        what = "fee"
    elif code.startswith(("T11", "T12")):
        what = "disputed"
    amount = info["transaction_amount"]
    when = moment(info.get("transaction_initiation_date"))
    if when is None:
        raise ValueError("its date is missing")
    return Booked(
        object_id=str(info["transaction_id"]),
        what=what,
        amount=number(amount),
        currency=str(amount["currency_code"]),
        fee=-number(info["fee_amount"]) if info.get("fee_amount") else Decimal(0),
        booked_at=when,
        payment=references(info, what),
    )


def references(info: Mapping[str, Any], what: str) -> dict[str, str]:
    """The capture that it is or is about, or its order; and our own id, which PayPal keeps."""
    found = {}
    if what == "captured":
        found["paypal_payment_id"] = str(info["transaction_id"])
    elif reference := info.get("paypal_reference_id"):
        kind = info.get("paypal_reference_id_type") or "TXN"
        names = {"TXN": "paypal_payment_id", "ODR": "paypal_order_id"}
        found |= {names[kind]: str(reference)} if kind in names else {}
    custom = str(info.get("custom_field") or "")
    if custom.startswith("payment:"):
        found["id"] = custom.removeprefix("payment:")
    return found


def number(amount: Mapping[str, Any]) -> Decimal:
    value = Decimal(str(amount["value"]))
    if not value.is_finite():
        raise ValueError("an amount is no number")
    return value
