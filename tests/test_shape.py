"""The house keeps its shape: sizes, names and rooms as HOUSE says; exceptions give a reason."""

import ast
import re
from collections.abc import Iterator
from configparser import ConfigParser
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "bursar"
FILES = sorted(SOURCE.rglob("*.py"))
SQL = sorted(SOURCE.rglob("*.sql"))
ROOMS = ("src", "tests", "bench", "docs")
PYTHON = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
TEXTS = [*PYTHON, *ROOT.glob("*.lock"), *ROOT.glob("*.toml"), *ROOT.glob("docs/**/*.md")]

LONGEST_FILE = 400
LONGEST_FUNCTION = 60
LONG_FILES: dict[str, str] = {}  # path: the reason
LONG_FUNCTIONS: dict[str, str] = {}  # path:name: the reason

DOMAIN_FILES = {
    "__init__", "models", "schemas", "queries", "service", "api", "admin", "tasks", "database.sql",
}  # fmt: skip
ROOMS_OF_DOMAINS = {
    "accounts": {
        "customer_door": "the routes by which customers come in",
        "emails": "the one form of an address that is stored",
        "enrolment": "how staff get, change and lose a second factor",
        "erasure": "what is left of a deleted account",
        "first_run": "the page for the first owner",
        "impersonation": "staff who act as a customer",
        "import_files": "the files of older systems, line by line",
        "import_people": "what a line has to be, and why one is rejected",
        "importing": "the verb of the import, which is no request",
        "joining": "how somebody comes to the staff",
        "letters": "the mails, each with its link",
        "oidc": "sign-in with a provider: begun, finished, and as whom",
        "oidc_api": "its routes, for customers and for staff",
        "oidc_provider": "what is asked of a provider, and what of it is believed",
        "recovery": "passwords and addresses, changed by a link or by the old password",
        "rules": "lifetimes and locks, and what staff may set of them",
        "second_factor": "codes, each used up once; sign-in asks it",
        "sign_in": "coming in, staying in and going, for customers and staff alike",
        "strangers": "what an unknown address is checked against",
        "staff": "the verbs of staff, beside those of customers in service",
        "staff_admin": "the routes for staff, beside those for customers in admin",
        "staff_door": "the routes by which staff come in",
        "staff_schemas": "staff over the wire, beside customers in schemas",
    },
    "audit": {
        "chain": "what of a row is hashed, and how seals follow each other",
        "checkpoints": "what is signed, and where it is shipped",
        "export": "the trail as a file, a piece at a time",
        "redaction": "what never stands in a row",
        "verification": "is all of it what it was",
        "walk": "the chain, made again link by link",
        "witnesses": "the chain beside its checkpoints",
    },
    "booking": {
        "appointments_admin": "the routes for everybody's appointments, beside offers in admin",
        "guards.sql": "what the database refuses, whoever asks",
        "letters": "the mails, each once",
        "offer": "the verbs of providers, hours and services, beside appointments in service",
        "paying": "what bookings cost, and what a payment does to them",
        "pricing": "prices with the digits of their currency",
        "records": "rows that people edit, of five kinds alike",
        "refusals": "what the database refuses, in the words of the API",
        "releasing": "what is not paid for in time is free again",
        "rules": "what staff may set, which the database reads too",
        "staff_schemas": "booking as staff see it, beside customers' in schemas",
        "times.sql": "when a provider can be booked",
        "training_api": "customers' routes for trainings",
        "trainings": "the verbs of trainings",
        "trainings.sql": "what the database refuses of trainings, which are never overbooked",
        "trainings_admin": "staff's routes for trainings",
    },
    "billing": {
        "charging": "usage that is paid for as it happens",
        "invoices.sql": "invoices as the database keeps them: settled once, by all of their money",
        "invoicing": "a month of usage becomes an invoice",
        "looks": "how far a job has looked for usage that has changed",
        "months": "how a month is written, and when it is over",
        "paying": "how an invoice is paid",
        "reopening": "an invoice whose money is gone is open again",
        "rules": "what staff may set of billing",
        "stops": "whose calls are refused until they have paid",
        "waits": "what cannot be billed as it is, and when it is looked at again",
        "waits_schemas": "the same over the wire",
        "ways": "how an open invoice will be paid",
    },
    "payments": {
        "applied": "what applying a fact has done",
        "around.sql": "what the database keeps around payments",
        "around_models": "their tables: receipts, top-ups, reconciliation, the bank",
        "asking": "calls to providers, between short transactions",
        "automatic": "wallets that are filled by themselves",
        "bank": "statements of the bank, and which line is which payment",
        "bank_admin": "the routes for statements of the bank",
        "bank_camt": "statements in camt.053",
        "bank_csv": "statements in the CSV of many banks",
        "bank_files": "what a statement has to be, whatever its form",
        "cards": "what looks like a card's number, which never gets in",
        "comparisons": "the statements that find what does not agree",
        "currencies": "amounts and the digits of their currency",
        "demo_page": "the page of the provider for show",
        "disputes": "what providers tell about disputes",
        "funds": "add-funds: at once by staff, a payment by a customer",
        "happenings": "the events that tell the rest of Bursar",
        "inbox": "webhooks: kept once, read by a job, parked, replayed",
        "methods": "saved ways to pay",
        "methods_api": "the routes for what customers have saved and set",
        "methods_schemas": "saved methods and automatic top-ups over the wire",
        "intake": "webhooks that come at once, written together",
        "posting": "where the money of payments goes in the ledger",
        "purposes": "what a payment may be for, which rooms above add to",
        "receipt_mail": "who gets a receipt by mail, once",
        "receipt_pdf": "a receipt as PDF",
        "receipt_sheet": "the page of a receipt as PDF, in the letters that its font has",
        "receipts": "what stands on a receipt, and its number",
        "receipts_api": "the routes for receipts",
        "reconciliation": "the providers' books beside ours",
        "reconciliation_admin": "the routes for differences",
        "refunding": "what providers tell about refunds",
        "refunds": "the verb of refunds, beside those of payments in service",
        "rules": "what staff may set of payments",
        "settling": "each fact has one effect, whoever tells it",
        "staff_schemas": "payments as staff see them, beside customers' in schemas",
        "webhooks": "the routes where providers tell",
    },
    "keys": {
        "keyring": "keys that a process knows by heart",
        "leaks": "what is done about a key that was found in public",
        "rules": "which scopes there are, and how many keys",
        "secret": "how a key is written, and told from what is none",
    },
    "metering": {
        "desk": "keys that are shown together go as one statement",
        "export": "a customer's calls as a file, a piece at a time",
        "event_schemas": "calls that are reported over the wire, also as CloudEvents",
        "events": "an event of usage, and by what it is known again",
        "ingest.sql": "events that were reported, each counted once",
        "keyed": "reports with an Idempotency-Key: counted and answered in one transaction",
        "latency": "percentiles from counted response times",
        "outcome_schemas": "outcomes of calls over the wire",
        "outcomes": "how calls ended that were counted before",
        "pace": "our own routes are limited by rate, too",
        "rules": "what each tier may use, and how long usage is kept",
        "settle.sql": "outcomes filled in once, and the sums with them",
        "verify.sql": "keys verified and calls counted, many in one statement",
        "verifying": "the routes by which services ask of a key and tell how the call ended",
    },
    "rewards": {
        "earning": "points for what was spent, each charge once",
        "rules": "how many points for what, and what staff may set",
    },
    "wallets": {
        "answers": "amounts as numbers with all their digits",
        "assets": "what accounts are kept in, and its digits",
        "beancount": "the books in the words of another program",
        "books": "the routes for the books of the whole company",
        "charge_schemas": "charges and holds over the wire",
        "charges": "the routes by which services of the business charge and hold",
        "export": "a wallet's entries as a file, a piece at a time",
        "followers": "who reads the entries of accounts, each once and in order",
        "guards.sql": "what the database refuses, whoever asks",
        "in_turn.sql": "the long way of a posting: one request after the other",
        "ledger": "what is said to the ledger, and every refusal",
        "moments.sql": "where an account stood at a moment",
        "plain.sql": "the short way of a posting: new transfers that are all covered",
        "posting.sql": "the one function through which money moves",
        "staff.sql": "what staff do in the ledger, whose tables no login role writes",
        "rules": "what customers may send, as staff have set it",
        "spending": "what a wallet spent, by category and by day",
        "staff_schemas": "wallets as staff see them, beside customers' in schemas",
        "statements": "reads for staff: statements, holds, adjustments",
        "till": "charges that arrive together go as one statement",
        "till_link": "its connection, and what is sent again when that is lost",
        "verification": "is every number of the books what it should be",
    },
    "webhooks": {
        "addresses": "where a webhook may go",
        "delivering": "turns: what is due is claimed, sent, and written down",
        "letters": "the mail to whoever answers for an endpoint",
        "sending": "one request to one endpoint",
        "signing": "secrets and signatures",
    },
    "system": {
        "catalogue": "what may be set, which other domains add to",
        "health": "what is looked at, for /ready and for staff",
    },
}
NO_DOMAINS = {"core", "auth", "client", "commands", "demo", "migrations"}
NO_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|constants|managers?|repositor(y|ies))(_|$)")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", [*PYTHON, *SQL], ids=relative)
def test_no_file_is_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= LONGEST_FILE or relative(path) in LONG_FILES


@pytest.mark.parametrize("path", PYTHON, ids=relative)
def test_no_function_is_too_long(path: Path) -> None:
    for name, lines in functions(path):
        assert lines <= LONGEST_FUNCTION or f"{relative(path)}:{name}" in LONG_FUNCTIONS, name


def functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or 0) - node.lineno + 1


@pytest.mark.parametrize("path", [p for p in PYTHON if p.read_text().strip()], ids=relative)
def test_a_module_opens_with_one_line_that_says_what_it_guarantees(path: Path) -> None:
    document = ast.get_docstring(ast.parse(path.read_text()))
    assert document, "no docstring"
    first = document.splitlines()[0]
    assert first.endswith((".", ":")), first


def test_a_domain_has_only_the_files_that_house_knows() -> None:
    for domain in sorted(path for path in SOURCE.iterdir() if (path / "__init__.py").exists()):
        if domain.name in NO_DOMAINS:
            continue
        names = {path.stem if path.suffix == ".py" else path.name for path in domain.glob("*.*")}
        assert names - DOMAIN_FILES <= set(ROOMS_OF_DOMAINS.get(domain.name, {})), domain.name


WIRE = re.compile(r"^(from|import) (fastapi|starlette)|import (\w+, )*\w*schemas|_?schemas import")


def test_every_module_of_payments_is_the_wire_or_held_off_it() -> None:
    """A new one that knows neither FastAPI nor schemas is named in a contract that keeps it so."""
    contracts = ConfigParser()
    contracts.read(ROOT / ".importlinter")
    named = " ".join(
        contracts[f"importlinter:contract:{which}"]["source_modules"]
        for which in ("service", "queries", "models")
    )
    for path in (SOURCE / "payments").glob("*.py"):
        is_wire = any(WIRE.search(line) for line in path.read_text().splitlines())
        if is_wire or path.stem in DOMAIN_FILES or path.stem == "tasks":
            continue
        assert f"bursar.payments.{path.stem}" in named.split(), path.stem


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_no_room_is_a_drawer_for_everything(path: Path) -> None:
    assert not NO_NAMES.search(path.stem)


def test_commit_stands_in_one_place() -> None:
    places = {relative(path) for path in FILES if ".commit()" in path.read_text()}
    assert places == {"src/bursar/core/database.py"}


@pytest.mark.parametrize("path", [p for p in PYTHON if p.name != "test_shape.py"], ids=relative)
def test_nothing_is_left_for_later(path: Path) -> None:
    assert not re.search(r"\b(TODO|FIXME|XXX|HACK)\b|pragma: no cover", path.read_text())


def test_the_source_names_no_index_and_no_home() -> None:
    words = re.compile("pythonhoste[d]|pyp[i].org|npm[j]s|/wor[k]/")
    assert [relative(path) for path in TEXTS if words.search(path.read_text())] == []
