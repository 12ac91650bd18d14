"""Statements in CSV, by the names of their columns: each bank has its own, and its own numbers."""

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import date
from decimal import Decimal
from itertools import islice

from bursar.payments.bank_files import (
    MAX_LINES,
    Dates,
    Hints,
    Line,
    refuse,
    too_many_lines,
)
from bursar.payments.currencies import UnknownCurrency, digits

DELIMITERS = (";", ",", "\t", "|")
HEADER_WITHIN = 40  # rows; banks write about the account first
LONGEST_CELL = 4000
MOST_CELLS = 500  # of a row
MOST_DIGITS = 30
COLUMNS = {
    "date": "buchungstag buchungsdatum buchung bookingdate bookeddate transactiondate posteddate"
    " postingdate dateoperation datedecomptabilisation completeddate fechaoperacion fecha"
    " dataoperazione datum date data",
    "amount": "betrag umsatz amount transactionamount montant importe importo bedrag belopp amt",
    "credit": "credit creditamount paidin moneyin haben gutschrift deposit deposits einnahmen",
    "debit": "debit debitamount paidout moneyout soll belastung withdrawal withdrawals ausgaben",
    "currency": "wahrung waehrung currency devise divisa valuta ccy",
    "name": "nameszahlungsbeteiligten namezahlungsbeteiligter beguenstigterzahlungspflichtiger"
    " begunstigterzahlungspflichtiger auftraggeberempfanger auftraggeber zahlungspflichtiger"
    " zahlungspflichtigerr empfanger counterpartyname counterparty partnername payee payer name"
    " naamtegenpartij",
    "reference": "verwendungszweck paymentreference remittanceinformation reference description"
    " details memo narrative libelle concepto causale mededelingen transactiondescription"
    " buchungsdetails",
    "account": "ibanauftragskonto auftragskonto accountiban accountnumber account iban konto"
    " kontonummer",
    "bank_reference": "transactionid transactionreference bankreference kundenreferenzendtoend"
    " endtoendid referenz id",
    "side": "sollhaben debitcredit creditdebit creditdebitindicator crdr drcr sh",
}
KNOWN = {alias: field for field, names in COLUMNS.items() for alias in names.split()}
RANK = {alias: rank for names in COLUMNS.values() for rank, alias in enumerate(names.split())}
DEBITS = {"s", "soll", "d", "dr", "dbit", "debit", "af"}
IN_HEADER = re.compile(r"\(?\b([A-Z]{3})\b\)?\s*$")


def lines(content: bytes, hints: Hints) -> list[Line]:
    """Every movement, or what is wrong with the file."""
    rows, start, columns = table(decoded(content))
    body = [(number, row) for number, row in rows if number > start and any(map(str.strip, row))]
    movements = [(number, row) for number, row in body if cell(row, columns, "date")]
    header = next(row for number, row in rows if number == start)
    return Reader(columns, header, movements, hints).lines()


def decoded(content: bytes) -> str:
    """UTF-8, UTF-16 where its mark says so, or what Windows in Western Europe writes."""
    if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
        encodings: Sequence[str] = ("utf-16",)
    else:
        encodings = ("utf-8-sig", "cp1252")
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\x00" not in text:
            return text
    raise refuse("The file is no text in UTF-8, UTF-16 or Windows-1252")


Rows = list[tuple[int, list[str]]]


def table(text: str) -> tuple[Rows, int, dict[str, int]]:
    """The rows, where the header is, and which column is what; by the delimiter that knows most."""
    best: tuple[str, int, dict[str, int]] | None = None
    for delimiter in DELIMITERS:
        with suppress(csv.Error):  # another delimiter may make sense of it
            for number, row in islice(split(text, delimiter), HEADER_WITHIN):
                columns = known(row)
                if is_header(columns) and (best is None or len(columns) > len(best[2])):
                    best = delimiter, number, columns
    if best is None:
        raise refuse(
            "No row names its columns: a column of days (date, Buchungstag, …) and one of amounts"
            " (amount, Betrag, … or credit and debit) are needed"
        )
    delimiter, start, columns = best
    try:
        rows = list(islice(split(text, delimiter), MAX_LINES + HEADER_WITHIN + 1))
    except csv.Error as error:
        raise refuse(f"The file cannot be read as CSV: {error}") from None
    if len(rows) > MAX_LINES + HEADER_WITHIN:
        raise too_many_lines()
    return rows, start, columns


def split(text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Row by row, so that a file of nothing but empty ones takes no memory."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    for row in reader:
        if len(row) > MOST_CELLS:
            raise refuse(f"Line {reader.line_num} has more than {MOST_CELLS} cells")
        if row:
            yield reader.line_num, row


def known(row: Sequence[str]) -> dict[str, int]:
    """The column of each field; where two names mean the same, the more exact one."""
    found: dict[str, tuple[int, int]] = {}
    for place, title in enumerate(row):
        alias = plain(IN_HEADER.sub("", title) or title)
        if field := KNOWN.get(alias) or KNOWN.get(alias := plain(title)):
            found[field] = min(found.get(field, (999, 0)), (RANK[alias], place))
    return {field: place for field, (_, place) in found.items()}


def plain(title: str) -> str:
    """Letters alone, without accents and case."""
    text = unicodedata.normalize("NFKD", title.casefold())
    return "".join(each for each in text if each.isascii() and each.isalnum())


def is_header(columns: dict[str, int]) -> bool:
    return "date" in columns and ("amount" in columns or {"credit", "debit"} <= set(columns))


def cell(row: Sequence[str], columns: dict[str, int], field: str) -> str:
    place = columns.get(field)
    if place is None or place >= len(row):
        return ""
    return " ".join(row[place].split())[:LONGEST_CELL]


class Reader:
    """How the numbers and days of one file are written, found from all of them together."""

    def __init__(
        self, columns: dict[str, int], header: Sequence[str], rows: Rows, hints: Hints
    ) -> None:
        self.columns, self.rows = columns, rows
        self.currency = self.currency_of(header, hints)
        money = [
            cell(row, columns, field) for _, row in rows for field in ("amount", "credit", "debit")
        ]
        self.decimal_mark = decimal_mark([each for each in money if each])
        self.order = hints.dates or order_of([cell(row, columns, "date") for _, row in rows])

    def currency_of(self, header: Sequence[str], hints: Hints) -> str | None:
        """Of rows that do not name one: what was said, or what stands beside the column's name."""
        if hints.currency:
            return hints.currency
        for field in ("amount", "credit"):
            if field in self.columns and (
                found := IN_HEADER.search(header[self.columns[field]].upper())
            ):
                return found[1] if is_currency(found[1]) else None
        return None

    def lines(self) -> list[Line]:
        found, wrong = [], []
        for number, row in self.rows:
            try:
                found.append(self.line(row))
            except ValueError as error:
                wrong.append(f"line {number}: {error}")
        if wrong:
            raise refuse(*wrong)
        return [line for line in found if line.amount]

    def line(self, row: Sequence[str]) -> Line:
        currency = (self.of(row, "currency") or self.currency or "").upper()
        if not currency:
            raise ValueError("no currency stands there: say which one the account is in")
        if not is_currency(currency):
            raise ValueError(f"{currency[:20]!r} is no currency")
        return Line(
            booked_on=day(self.of(row, "date"), self.order),
            amount=exact(self.signed(row), currency),
            currency=currency,
            name=self.of(row, "name")[:200] or None,
            reference=self.of(row, "reference")[:1000] or None,
            bank_reference=self.of(row, "bank_reference")[:200] or None,
            account=self.of(row, "account")[:100] or None,
        )

    def of(self, row: Sequence[str], field: str) -> str:
        return cell(row, self.columns, field)

    def signed(self, row: Sequence[str]) -> Decimal:
        if text := self.of(row, "amount"):
            amount = number(text, self.decimal_mark)
            side = self.of(row, "side").casefold()
            return -abs(amount) if side in DEBITS else amount
        credit, debit = self.of(row, "credit"), self.of(row, "debit")
        if not credit and not debit:
            raise ValueError("no amount stands there")
        came = abs(number(credit, self.decimal_mark)) if credit else Decimal(0)
        went = abs(number(debit, self.decimal_mark)) if debit else Decimal(0)
        return came - went


def is_currency(code: str) -> bool:
    try:
        digits(code)
    except UnknownCurrency:
        return False
    return True


def exact(amount: Decimal, currency: str) -> Decimal:
    exponent = amount.normalize().as_tuple().exponent
    if isinstance(exponent, int) and -exponent > digits(currency):
        raise ValueError(f"{amount} has more digits than {currency} has")
    if abs(amount) >= 10**12:
        raise ValueError("the amount is too large")
    return amount


AROUND = re.compile("[\\s\u00a0\u202f'\u2019+€$£¥]|\\b[A-Z]{3}\\b")
SHAPE = re.compile(r"[0-9]{1,40}(?:[.,][0-9]{1,40})*")


def bare(text: str) -> tuple[str, bool]:
    """The digits and marks of an amount, and whether it is below zero, in any bank's way."""
    upper = text.upper().replace("\u2212", "-")
    in_brackets = upper.startswith("(") and upper.endswith(")")
    below = in_brackets or upper.startswith("-") or upper.endswith(("-", "DR", " S"))
    for ending in ("CR", "DR", " S", " H"):
        upper = upper.removesuffix(ending)
    return AROUND.sub("", upper).strip("()-"), below


def number(text: str, mark: str) -> Decimal:
    digits_, below = bare(text)
    if not SHAPE.fullmatch(digits_) or len(digits_) > MOST_DIGITS:
        raise ValueError(f"{text[:40]!r} is no amount")
    other = "," if mark == "." else "."
    whole, _, part = digits_.replace(other, "").partition(mark)
    groups = digits_.partition(mark)[0].split(other)
    if mark in part or other in digits_.partition(mark)[2]:
        raise ValueError(f"{text[:40]!r} is no amount")
    if len(groups) > 1 and not all(len(group) == 3 for group in groups[1:]):
        raise ValueError(f"{text[:40]!r} is no amount")
    amount = Decimal(f"{whole}.{part or 0}")
    return -amount if below else amount


def decimal_mark(amounts: Sequence[str]) -> str:
    """Where both marks stand in one amount the last one; one that stands there twice is none; else
    the one that is not before three digits."""
    marks = set()
    for text in amounts:
        digits_, _ = bare(text)
        used = [each for each in digits_ if each in ".,"]
        if len(set(used)) == 2:
            marks.add(used[-1])
        elif len(used) > 1:
            marks.add("," if used[0] == "." else ".")
        elif used and len(digits_.partition(used[0])[2]) != 3:
            marks.add(used[0])
    if len(marks) > 1:
        raise refuse("Some amounts have a decimal point and some a decimal comma")
    if not marks and any(each in ".," for text in amounts for each in bare(text)[0]):
        raise refuse("Nobody can tell whether the mark in these amounts is the decimal mark")
    return marks.pop() if marks else "."


ISO = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:[T ].*)?")
COMPACT = re.compile(r"(20\d{2})(\d{2})(\d{2})")
PARTS = re.compile(r"(\d{1,2})([./-])(\d{1,2})\2(\d{4}|\d{2})(?: .*)?")


def order_of(days: Sequence[str]) -> Dates:
    """Which comes first, where days are written in three parts; a point means the day does."""
    found = [match for each in days if (match := PARTS.fullmatch(each))]
    if any(match[2] == "." or int(match[1]) > 12 for match in found):
        return "dmy"
    if any(int(match[3]) > 12 for match in found):
        return "mdy"
    if found:
        raise refuse(
            f"Days such as {found[0][0]} can be read in two ways: say dates=dmy or dates=mdy"
        )
    return "dmy"


def day(text: str, order: Dates) -> date:
    if match := ISO.fullmatch(text) or COMPACT.fullmatch(text):
        return date(int(match[1]), int(match[2]), int(match[3]))
    match = PARTS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is no day")
    year = int(match[4]) + (2000 if len(match[4]) == 2 else 0)
    first, second = int(match[1]), int(match[3])
    return date(year, second, first) if order == "dmy" else date(year, first, second)
