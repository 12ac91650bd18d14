"""Files that are hardly files, and lines that are none: each is said, and the others are taken."""

import pytest

from bursar.accounts.import_files import LONGEST_LINE, BadImport, Format
from bursar.accounts.import_people import Rejected
from tests.accounts.imports import CARL, line, read


@pytest.mark.parametrize("kind", list(Format))
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "The file is empty"),
        ("email\nx".encode("utf-16"), "save it as UTF-8"),
        ("email\nx".encode("utf-32"), "save it as UTF-8"),
    ],
)
def test_a_file_that_is_none(kind: Format, content: bytes, reason: str) -> None:
    with pytest.raises(BadImport, match=reason):
        read(content, kind)


@pytest.mark.parametrize(
    "content",
    [b"name,age\nCarl,44\n", b'"email', b"\n", b"x" * 2 * LONGEST_LINE, b'{"email": "a@b.c"}\n'],
)
def test_a_first_line_that_is_no_header(content: bytes) -> None:
    with pytest.raises(BadImport, match="names no column `email`"):
        read(content)


def test_a_header_that_is_not_utf8() -> None:
    with pytest.raises(BadImport, match="not written in UTF-8"):
        read("email,prénom\n".encode("latin-1"))


def test_json_that_is_one_array() -> None:
    with pytest.raises(BadImport, match="jq -c"):
        read('[{"email": "a@example.com"}]', Format.JSONL)


def test_a_header_alone_is_nobody() -> None:
    assert read("email,name\n") == []
    assert read("\n\n", Format.JSONL) == []


OTHERS = "anna@example.com,Anna\n{}zoe@example.com,Zoe\n"


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (f"{CARL},Carl,3\n", "there are 3 fields, and the first line names 2"),
        (f"{CARL}\n", "there are 1 fields, and the first line names 2"),
        (f'{CARL},"Carl" x\n', "a quote stands in the middle of a field"),
        (f"{CARL},{'x' * 200_000}\n", "a field has more than 131,072 characters"),
        (f"{CARL},{'x' * 10_000_000}\n", "the line has more than 1,048,576 bytes"),
        (f"{CARL},Car\udce9l\n", "the text is not UTF-8"),
    ],
)
def test_one_bad_line_leaves_the_others(between: str, reason: str) -> None:
    content = f"email,name\n{OTHERS.format(between)}".encode(errors="surrogateescape")
    anna, carl, zoe = read(content)
    assert (anna.email, anna.line, zoe.email, zoe.line) == (
        "anna@example.com",
        2,
        "zoe@example.com",
        4,
    )
    assert isinstance(carl, Rejected)
    assert (carl.line, carl.last_line) == (3, 3)
    assert carl.reasons[0].startswith(reason)


def test_a_quote_that_is_never_closed_says_which_lines_are_lost() -> None:
    content = f'email,name\nanna@example.com,Anna\n{CARL},"Carl\nzoe@example.com,Zoe\n'
    _, lost = read(content)
    assert isinstance(lost, Rejected)
    assert (lost.line, lost.last_line) == (3, 4)
    assert lost.reasons == ["a quote is opened and never closed"]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (b"{", "the line is not JSON"),
        (b'{"email": "\\ud800@example.com"}', "the line is not JSON"),
        (b"[" * 100_000, "the line is not JSON"),
        (b"7", "the line is not a JSON object"),
        (b'{"email": "' + b"x" * 10_000_000 + b'"}', "the line has more than 1,048,576 bytes"),
        (b'{"email": "c\xe9@example.com"}', "the text is not UTF-8"),
    ],
)
def test_one_bad_line_of_json_leaves_the_others(between: bytes, reason: str) -> None:
    content = line(email="anna@example.com").encode() + between + b"\r\n\n"
    anna, carl, zoe = read(content + line(email="zoe@example.com").encode(), Format.JSONL)
    assert isinstance(carl, Rejected)
    assert (anna.line, carl.line, zoe.line) == (1, 2, 4)
    assert carl.reasons == [reason]
