"""The house keeps its shape: sizes, names and rooms as HOUSE says; exceptions give a reason."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "bursar"
FILES = sorted(SOURCE.rglob("*.py"))
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
    "system": {
        "catalogue": "what may be set, which other domains add to",
        "health": "what is looked at, for /ready and for staff",
    },
}
NO_DOMAINS = {"core", "auth", "commands", "migrations"}
NO_NAMES = re.compile(r"(^|_)(utils?|helpers?|common|constants|managers?|repositor(y|ies))(_|$)")


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", PYTHON, ids=relative)
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
