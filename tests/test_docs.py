"""What the documents say is what the code does."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bursar.core import events, jobs
from bursar.core.errors import BursarError

ROOT = Path(__file__).parent.parent
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")


def load_writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("writer", ROOT / "docs" / "write_reference.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


PAGES = load_writer().pages()


@pytest.mark.parametrize("name", PAGES)
def test_the_reference_is_what_the_code_says(name: str) -> None:
    """Settings, errors, events, jobs, commands, permissions: `make fix` writes them again."""
    assert (ROOT / "docs" / "reference" / name).read_text() == PAGES[name]


def test_every_error_event_and_job_says_what_it_means() -> None:
    things = [*BursarError.registry.items(), *events.registry.items()]
    things += [(name, function) for function, name in jobs.names_of.items()]
    unsaid = [name for name, thing in things if ours(thing) and not said(thing)]
    assert unsaid == []


def ours(thing: Any) -> bool:
    return str(thing.__module__).startswith("bursar.")


def said(thing: Any) -> bool:
    return (thing.__doc__ or "").strip().endswith(".")


@pytest.mark.parametrize("path", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=str)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in LINK.findall(path.read_text()):
        assert (path.parent / target).exists(), target


def test_every_decision_is_numbered_and_listed_once() -> None:
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [name[:4] for name in names] == [f"{n:04}" for n in range(1, len(names) + 1)]


def test_every_command_of_the_readme_exists() -> None:
    readme = (ROOT / "README.md").read_text()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([a-z-]+)", readme):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    commands = PAGES["commands.md"]
    for command in re.findall(r"`bursar ([a-z]+)", readme):
        assert f"bursar {command}" in commands, command
