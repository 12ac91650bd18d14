"""Statements in camt.053 of ISO 20022, whichever version; what is not booked yet is left out.

A transfer in another currency has two amounts: what was ordered, and what came. Only what came
counts, so an entry that stands for one transfer has the entry's own amount. One that stands for
several is taken apart where their amounts are in the account's currency and add up to it.
"""

from collections.abc import Iterator
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any

from defusedxml import DefusedXmlException, ElementTree  # type: ignore[import-untyped]

from bursar.payments.bank_csv import exact, is_currency
from bursar.payments.bank_files import Line, refuse

SPACE = "{*}"


def lines(content: bytes) -> list[Line]:
    """Every booked movement of all statements of the file, or what is wrong with it."""
    root = parsed(content)
    statements = root.findall(f".//{SPACE}Stmt") if "camt.053" in root.tag else []
    if not statements:
        raise refuse("This XML is no camt.053 statement")
    found: list[Line] = []
    wrong: list[str] = []
    for statement in statements:
        account = said(statement, "Acct/Id/IBAN") or said(statement, "Acct/Id/Othr/Id")
        for number, entry in enumerate(statement.findall(f"{SPACE}Ntry"), start=1):
            try:
                found += of_entry(entry, account)
            except (ValueError, InvalidOperation) as error:
                wrong.append(f"entry {number}: {error or 'it cannot be read'}")
    if wrong:
        raise refuse(*wrong)
    return [line for line in found if line.amount]


def parsed(content: bytes) -> Any:
    """Without document types, entities and anything from outside."""
    try:
        return ElementTree.fromstring(content, forbid_dtd=True)
    except DefusedXmlException:
        raise refuse("The XML has a document type or entities, which no bank writes") from None
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise refuse(f"The XML cannot be read: {str(error)[:100]}") from None


def at(element: Any, path: str) -> Any:
    return element.find("/".join(SPACE + name for name in path.split("/")))


def said(element: Any, path: str) -> str:
    found = at(element, path)
    return " ".join((found.text or "").split()) if found is not None else ""


def of_entry(entry: Any, account: str) -> Iterator[Line]:
    if (said(entry, "Sts/Cd") or said(entry, "Sts")) not in ("BOOK", ""):
        return
    currency, whole = amount_of(at(entry, "Amt"))
    day, sign = booked_on(entry), side(entry)
    details = entry.findall(f"{SPACE}NtryDtls/{SPACE}TxDtls")
    parts = apart(details, currency, whole) if len(details) > 1 else None
    taken = [([each], part) for each, part in zip(details, parts, strict=True)] if parts else None
    for its_details, amount in taken or [(details, whole)]:
        name, words, reference = about(entry, its_details, sign)
        yield Line(day, sign * amount, currency, name, words, reference, account[:100] or None)


def amount_of(element: Any) -> tuple[str, Decimal]:
    if element is None:
        raise ValueError("it has no amount")
    currency = str(element.get("Ccy", ""))
    if not is_currency(currency):
        raise ValueError(f"{currency[:20]!r} is no currency")
    text = (element.text or "").strip()
    if not text.replace(".", "", 1).isdecimal() or not text.isascii() or len(text) > 40:
        raise ValueError(f"{text[:40]!r} is no amount")
    return currency, exact(Decimal(text), currency)


def side(entry: Any) -> int:
    indicator = said(entry, "CdtDbtInd")
    if indicator not in ("CRDT", "DBIT"):
        raise ValueError("it does not say whether money came or went")
    return 1 if indicator == "CRDT" else -1


def booked_on(entry: Any) -> date:
    text = next(
        (
            found
            for path in ("BookgDt/Dt", "BookgDt/DtTm", "ValDt/Dt", "ValDt/DtTm")
            if (found := said(entry, path))
        ),
        "",
    )
    return date.fromisoformat(text[:10])


def apart(details: list[Any], currency: str, whole: Decimal) -> list[Decimal] | None:
    """The amount of each transfer of a collective entry; None where they do not add up to it."""
    parts = []
    for detail in details:
        found = at(detail, "Amt")
        found = at(detail, "AmtDtls/TxAmt/Amt") if found is None else found
        if found is None or found.get("Ccy") != currency:
            return None
        parts.append(amount_of(found)[1])
    return parts if sum(parts) == whole else None


def about(entry: Any, details: list[Any], sign: int) -> tuple[str | None, str | None, str | None]:
    """Who paid, or was paid, and what they wrote."""
    party = "Dbtr" if sign > 0 else "Cdtr"
    names, words = [], []
    for detail in details:
        names.append(
            said(detail, f"RltdPties/{party}/Nm") or said(detail, f"RltdPties/{party}/Pty/Nm")
        )
        for path in ("RmtInf/Ustrd", "RmtInf/Strd/CdtrRefInf/Ref", "RmtInf/Strd/AddtlRmtInf"):
            paths = "/".join(SPACE + name for name in path.split("/"))
            words += [each.text or "" for each in detail.findall(paths)]
        end_to_end = said(detail, "Refs/EndToEndId")
        words += [end_to_end] if end_to_end != "NOTPROVIDED" else []
    if not any(words):
        words = [said(entry, "AddtlNtryInf")]
    bank = said(details[0], "Refs/AcctSvcrRef") if len(details) == 1 else ""
    return (
        ", ".join(filter(None, names))[:200] or None,
        " ".join(" ".join(words).split())[:1000] or None,
        (bank or said(entry, "AcctSvcrRef"))[:200] or None,
    )
