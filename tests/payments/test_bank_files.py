"""Bank statements as files: the same money however a bank writes it, or a refusal that says why."""

import tracemalloc
from contextlib import suppress
from datetime import date
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycamt.parser import Camt053Parser

from bursar.payments import bank_csv, bank_files
from bursar.payments.bank_files import BadStatement, Hints, Line

GERMAN = """Umsatzanzeige;Datei erstellt am 28.11.2026
;
IBAN;DE02 1203 0000 0000 2020 51
Buchungstag;Wertstellung;Auftraggeber/Empfänger;Verwendungszweck;Betrag (EUR);IBAN Auftragskonto
27.11.2026;27.11.2026;Łukasz Müller;INV-2026-17 Danke;1.234,50;DE02120300000000202051
26.11.2026;26.11.2026;Stadtwerke;Abschlag;-89,00;DE02120300000000202051
;;;Saldo;5.000,00;
"""
BRITISH = """Date,Description,Paid in,Paid out,Balance,Currency
27/11/2026,"REF 9912, CARL CARLSON","1,234.50",,5000.00,GBP
26/11/2026,RENT,,89.00,,GBP
"""
AMERICAN = """Posted Date,Payee,Amount,Currency
11/27/2026,Carl Carlson,1234.5,USD
11/26/2026,Rent,(89.00),USD
"""
SWISS = "Date;Text;Amount;Currency;S/H\n2026-11-27;x;1'234.50;CHF;H\n2026-11-26;y;89.00;CHF;S\n"


def read(text: str | bytes, **hints: Any) -> list[Line]:
    content = text.encode() if isinstance(text, str) else text
    return bank_files.read(content, Hints(**hints))[1]


@pytest.mark.parametrize(
    ("text", "currency"),
    [(GERMAN, "EUR"), (BRITISH, "GBP"), (AMERICAN, "USD"), (SWISS, "CHF")],
)
def test_every_bank_writes_the_same_two_movements(text: str, currency: str) -> None:
    came, went = read(text)
    assert (came.booked_on, came.amount) == (date(2026, 11, 27), Decimal("1234.50"))
    assert (went.booked_on, went.amount) == (date(2026, 11, 26), Decimal("-89.00"))
    assert came.currency == went.currency == currency


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
def test_names_survive_the_encoding(encoding: str) -> None:
    text = GERMAN.replace("Łukasz", "Lukas")
    assert read(text.encode(encoding))[0].name == "Lukas Müller"


def test_words_and_account_come_along() -> None:
    line = read(GERMAN)[0]
    assert (line.reference, line.account) == ("INV-2026-17 Danke", "DE02120300000000202051")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No row names its columns"),
        ("a;b\n1;2\n", "No row names its columns"),
        ("Date,Amount\n2026-11-27,5.00\n", "no currency"),
        ("Date,Amount,Currency\n03/04/2026,5.00,USD\n", "two ways"),
        ("Date,Amount,Currency\n2026-11-27,5.001,USD\n", "Nobody can tell"),
        ("Date,Amount,Currency\n2026-11-27,5.001,USD\n2026-11-27,5.01,USD\n", "more digits"),
        ("Date,Amount,Currency\n2026-11-27,5.50,JPY\n", "more digits"),
        ("Date,Amount,Currency\n2026-11-27,five,USD\n", "line 2: 'five' is no amount"),
        ("Date,Amount,Currency\n2026-11-27,NaN,USD\n", "is no amount"),
        ("Date,Amount,Currency\n2026-11-27,1e5,USD\n", "is no amount"),
        ("Date,Amount,Currency\n2026-11-31,5.00,USD\n", "line 2"),
        ("Date,Amount,Currency\n2026-11-27,,USD\n", "no amount"),
        ("Date,Amount,Currency\n2026-11-27,5.00,XYZ\n", "no currency"),
        ("Date;Amount;Currency\n2026-11-27;5,00;USD\n2026-11-27;5.00;USD\n", "decimal point"),
        ("Date;Amount;Currency\n2026-11-27;1,23,4;USD\n", "is no amount"),
        ("Date,Amount,Currency\n2026-11-27,1000000000000,USD\n", "too large"),
        (b"\xff\xfe\x00", "no text"),
        (b"Date,Amount\x00", "no text"),
    ],
)
def test_what_cannot_be_read_in_one_way_is_refused_whole(text: str | bytes, said: str) -> None:
    with pytest.raises(BadStatement) as raised:
        read(text)
    assert said in raised.value.detail


def test_days_in_two_ways_are_read_as_somebody_says() -> None:
    text = "Date,Amount,Currency\n03/04/2026,5.00,USD\n"
    assert read(text, dates="dmy")[0].booked_on == date(2026, 4, 3)
    assert read(text, dates="mdy")[0].booked_on == date(2026, 3, 4)


def test_a_currency_that_is_said_counts_where_none_stands() -> None:
    assert read("Date,Amount\n2026-11-27,5.00\n", currency="USD")[0].currency == "USD"


@given(
    st.decimals(min_value="0.01", max_value="999999999.99", places=2),
    st.sampled_from([".", ","]),
    st.booleans(),
    st.sampled_from(["", "-"]),
)
def test_amounts_are_exact_in_any_dress(
    amount: Decimal, mark: str, grouped: bool, sign: str
) -> None:
    text = f"{amount:,.2f}" if grouped else f"{amount:.2f}"
    if mark == ",":
        text = text.translate(str.maketrans(",.", ".,"))
    assert bank_csv.decimal_mark([text]) == mark
    expected = -amount if sign else amount
    assert bank_csv.number(sign + text, mark) == expected
    assert bank_csv.number(text + sign, mark) == expected


def test_the_same_line_twice_in_a_file_is_two_and_in_two_files_the_same() -> None:
    head = "Date,Amount,Currency\n"
    one = read(head + "2026-11-27,5.00,USD\n")
    two = read(head + "2026-11-27,5.00,USD\n2026-11-27,5.0,USD\n2026-11-28,1,USD\n")
    assert len(set(bank_files.hashes(two))) == 3
    assert set(bank_files.hashes(one)) < set(bank_files.hashes(two))


CAMT = """<?xml version="1.0" encoding="UTF-8"?>
<{p}Document xmlns{x}="urn:iso:std:iso:20022:tech:xsd:camt.053.001.{v}"><{p}BkToCstmrStmt>
<{p}GrpHdr><{p}MsgId>M1</{p}MsgId><{p}CreDtTm>2026-11-28T00:00:00</{p}CreDtTm></{p}GrpHdr>
<{p}Stmt><{p}Id>1</{p}Id><{p}Acct><{p}Id><{p}IBAN>DE02120300000000202051</{p}IBAN></{p}Id></{p}Acct>
{entries}</{p}Stmt></{p}BkToCstmrStmt></{p}Document>"""
ENTRY = """<{p}Ntry><{p}Amt Ccy="EUR">{amount}</{p}Amt><{p}CdtDbtInd>{side}</{p}CdtDbtInd>
<{p}Sts>{status}</{p}Sts><{p}BookgDt><{p}Dt>2026-11-27</{p}Dt></{p}BookgDt>
<{p}AcctSvcrRef>BANK-1</{p}AcctSvcrRef><{p}NtryDtls>{details}</{p}NtryDtls></{p}Ntry>"""
DETAIL = """<{p}TxDtls><{p}Refs><{p}EndToEndId>NOTPROVIDED</{p}EndToEndId></{p}Refs>{amount}
<{p}RltdPties><{p}Dbtr><{p}Nm>Carl Carlson</{p}Nm></{p}Dbtr></{p}RltdPties>
<{p}RmtInf><{p}Ustrd>INV-2026-</{p}Ustrd><{p}Ustrd>17</{p}Ustrd></{p}RmtInf></{p}TxDtls>"""


def camt(
    *amounts: str, prefix: str = "", version: str = "08", status: str = "BOOK", **more: Any
) -> str:
    dress = {"p": f"{prefix}:" if prefix else ""}
    details = "".join(DETAIL.format(**dress, amount=each) for each in more.get("details", ("",)))
    entries = "".join(
        ENTRY.format(
            **dress, amount=each, side=more.get("side", "CRDT"), status=status, details=details
        )
        for each in amounts
    )
    return CAMT.format(**dress, x=f":{prefix}" if prefix else "", v=version, entries=entries)


@pytest.mark.parametrize("version", ["02", "04", "08", "12"])
@pytest.mark.parametrize("prefix", ["", "ns2"])
def test_camt_of_any_version_and_dress(version: str, prefix: str) -> None:
    [line] = read(camt("1234.50", version=version, prefix=prefix))
    assert line == Line(
        date(2026, 11, 27),
        Decimal("1234.50"),
        "EUR",
        "Carl Carlson",
        "INV-2026- 17",
        "BANK-1",
        "DE02120300000000202051",
    )


def test_another_reader_of_camt_finds_the_same() -> None:
    text = camt("1234.50", "7.00")
    peer = Camt053Parser(text.encode()).get_transactions()
    assert [Decimal(each["Amount"]) for each in peer] == [line.amount for line in read(text)]
    assert peer[0]["RemittanceInformationFull"] == read(text)[0].reference


def test_what_went_is_below_zero_and_what_is_not_booked_is_left_out() -> None:
    assert read(camt("5.00", side="DBIT"))[0].amount == -5
    assert read(camt("5.00", status="PDNG")) == []


def test_the_amount_that_came_counts_and_not_the_one_that_was_ordered() -> None:
    """Where pycamt takes the first amount that it finds: 100 in the account's currency."""
    ordered = '<AmtDtls><InstdAmt><Amt Ccy="CHF">100.00</Amt></InstdAmt></AmtDtls>'
    text = camt("95.20", details=(ordered,))
    assert [line.amount for line in read(text)] == [Decimal("95.20")]
    assert Camt053Parser(text.encode()).get_transactions()[0]["Amount"] == "100.00"


def test_a_collective_entry_is_taken_apart_where_it_adds_up() -> None:
    def parts(*amounts: str) -> list[Decimal]:
        details = tuple(f'<Amt Ccy="EUR">{each}</Amt>' for each in amounts)
        return [line.amount for line in read(camt("30.00", details=details))]

    assert parts("10.00", "20.00") == [10, 20]
    assert parts("10.00", "10.00") == [30]


BOMB = "".join(f'<!ENTITY x{n} "{f"&x{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "entity": '<!DOCTYPE d [<!ENTITY e "boo">]>',
    "bomb": f'<!DOCTYPE d [<!ENTITY x0 "boo">{BOMB}]>',
    "outside": '<!DOCTYPE d [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
    "document type": '<!DOCTYPE d SYSTEM "http://127.0.0.1:1/d.dtd">',
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_hostile_xml_is_refused_before_it_is_read(kind: str, encoding: str) -> None:
    declaration, body = camt("5.00").split("\n", 1)
    declaration = declaration.replace("UTF-8", encoding)
    text = f"{declaration}\n{HOSTILE[kind]}{body.replace('Carl', '&e;')}"
    with pytest.raises(BadStatement) as raised:
        read(text.encode(encoding))
    assert "document type" in raised.value.detail


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<html/>", "no camt.053"),
        ("<Document", "cannot be read"),
        (camt("5.00").replace("camt.053", "camt.052"), "no camt.053"),
        (camt("5.001"), "more digits"),
        (camt("-5.00"), "is no amount"),
        (camt("1e3"), "is no amount"),
        (camt("٥"), "is no amount"),
        (camt("5.00").replace('Ccy="EUR"', 'Ccy="XYZ"'), "no currency"),
        (camt("5.00").replace("<CdtDbtInd>CRDT</CdtDbtInd>", ""), "came or went"),
        (camt("5.00").replace("2026-11-27", "27.11.2026"), "entry 1"),
    ],
)
def test_bad_camt_is_refused_with_its_reason(text: str, said: str) -> None:
    with pytest.raises(BadStatement) as raised:
        read(text)
    assert said in raised.value.detail


def test_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_files, "MAX_LINES", 1)
    with pytest.raises(BadStatement, match="more than 1 lines"):
        read(AMERICAN)
    monkeypatch.setattr(bank_files, "MAX_BYTES", 10)
    with pytest.raises(BadStatement, match="more than 10 bytes"):
        read(AMERICAN)


@given(st.binary(max_size=400))
def test_no_bytes_break_the_reader(content: bytes) -> None:
    for start in (b"", b"Date,Amount,Currency\n", b"<"):
        with suppress(BadStatement):
            bank_files.read(start + content, Hints())


def test_a_file_of_empty_rows_takes_no_memory() -> None:
    """A row takes a hundred times the byte that it has in the file."""
    content = b"date,amount,currency\n" + b"\n" * 1_000_000
    tracemalloc.start()
    try:
        assert bank_files.read(content, Hints())[1] == []
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (";" * 10 + "\n", "more than 50000 lines"),
        ("2026-01-01,1.00,USD\n", "more than 50000 lines"),
        (",", "more than 500 cells"),
        ('"', "cannot be read as CSV"),
    ],
)
def test_five_megabytes_are_refused_before_they_are_read(row: str, why: str) -> None:
    head = "date;amount;currency\n" if row.startswith(";") else "date,amount,currency\n"
    content = head + (row + "x" * 5_000_000 if row == '"' else row * (5_000_000 // len(row)))
    with pytest.raises(BadStatement, match=why):
        bank_files.read(content.encode(), Hints())
