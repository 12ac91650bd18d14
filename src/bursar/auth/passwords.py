"""Passwords: hashed with Argon2id, checked in bounded memory, told from nothing by nobody's clock.

Whether an account exists cannot be read from the time an answer takes: with no hash to check, the
same work is done on a decoy. (A hash of an older kind takes its own time until it is replaced; what
that would tell is hidden by accounts/strangers.py.)
"""

import asyncio
import os
import re
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import ParamSpec, TypeVar

from bursar.auth import hashes
from bursar.core.errors import BursarError

P = ParamSpec("P")
T = TypeVar("T")

FEWEST_CHARACTERS = 8
MOST_BYTES = 1024

MOST_AT_ONCE = 4  # 19 MiB each; a processor of its own each, or all of them take longer
MOST_WAITING = 100  # about a second and a half of work for two processors
MOST_HEAVY_WAITING = 10


class HashingBusy(BursarError, status=503, code="auth.busy"):
    """More people sign in at once than passwords can be checked; try again after `Retry-After`."""


class Lane:
    """Threads for work that takes long and lets go of the GIL; one too many is refused at once."""

    def __init__(self, name: str, *, at_once: int, waiting: int) -> None:
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=f"passwords-{name}")
        self._places = threading.BoundedSemaphore(at_once + waiting)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        if not self._places.acquire(blocking=False):
            raise HashingBusy(
                "Too many people sign in at this moment; try again in a second.",
                headers={"Retry-After": "1"},
            )
        try:
            future = self._threads.submit(work, *args, **kwargs)
        except BaseException:
            self._places.release()
            raise
        # Not when the caller stops waiting: a thread that was begun works on, in its memory.
        future.add_done_callback(lambda _: self._places.release())
        return await asyncio.wrap_future(future)


def processors() -> int:
    """Those that this process may use, which in a container are fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


ordinary = Lane("ordinary", at_once=min(processors(), MOST_AT_ONCE), waiting=MOST_WAITING)
heavy = Lane("heavy", at_once=1, waiting=MOST_HEAVY_WAITING)  # up to 128 MiB, so one at a time
DECOY = hashes.decoy()


async def hash(password: str) -> str:  # noqa: A001 - `passwords.hash` is what it is
    """The hash to store for a new password; `check` has said before that it is a good one."""
    return await ordinary.run(hashes.new, Typed.of(password).normal)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether it was the password, and the hash to store from now on where the old one is dated."""

    right: bool
    replace: str | None = None


async def verify(password: str, stored: str | None) -> Verdict:
    """Whether this is the password; None, and what is no hash, is a hash that nothing matches."""
    typed = Typed.of(password)
    known = hashes.known(stored) if stored else None
    lane = heavy if known and known.heavy else ordinary
    return await lane.run(examine, typed, known or DECOY)


def is_known_hash(text: str) -> bool:
    """Whether somebody with this stored hash, from an older system, could sign in here."""
    return hashes.known(text) is not None


class BadPassword(BursarError, status=422, code="auth.bad_password"):
    """The password cannot be taken; `errors` says why."""

    @classmethod
    def because(cls, detail: str, pointer: str = "/password") -> "BadPassword":
        error = {"pointer": pointer, "detail": detail, "code": "bad_password"}
        return cls(detail, errors=[error])


@dataclass(frozen=True, slots=True)
class Typed:
    """A password as bytes, as it was typed and as it is hashed.

    We hash the NFC form, as RFC 8265 (OpaqueString) has it: an é is one code point from one
    keyboard and two from another, and both are the same password. NFKC would go further and make
    different characters equal (² and 2), which weakens passwords and helps nobody to type them.
    Older systems mostly hashed what was typed, so with their hashes that is tried first.
    """

    raw: bytes
    normal: bytes

    @classmethod
    def of(cls, password: str, pointer: str = "/password") -> "Typed":
        """Or BadPassword, before any work was done and for every account alike."""
        try:
            raw = password[: MOST_BYTES + 1].encode()
        except UnicodeEncodeError:
            raise BadPassword.because("The password holds half a character.", pointer) from None
        if len(raw) > MOST_BYTES:
            detail = f"The password has more than {MOST_BYTES} bytes; choose a shorter one."
            raise BadPassword.because(detail, pointer)
        if b"\0" in raw:  # C libraries of older systems stopped reading there
            raise BadPassword.because("The password holds a NUL character.", pointer)
        return cls(raw, unicodedata.normalize("NFC", password).encode())

    def forms(self, *, raw_first: bool) -> list[bytes]:
        forms = [self.raw, self.normal] if raw_first else [self.normal, self.raw]
        return list(dict.fromkeys(forms))


def examine(typed: Typed, known: hashes.Known) -> Verdict:
    """In a thread: how often it hashes depends on what was typed, not on whose account it is."""
    for form in typed.forms(raw_first=known.raw):
        if known.matches(form):
            as_new = known.ours and form == typed.normal
            return Verdict(True, None if as_new else hashes.new(typed.normal))
    return Verdict(False)


def check(password: str, *, about: Iterable[str] = (), pointer: str = "/password") -> None:
    """BadPassword unless it will do; `about` is what others know: e-mail address, name, company."""
    text = Typed.of(password, pointer).normal.decode()
    if len(text) < FEWEST_CHARACTERS:
        detail = f"The password has fewer than {FEWEST_CHARACTERS} characters; choose a longer one."
        raise BadPassword.because(detail, pointer)
    guesses = set(what_it_comes_down_to(text))
    if len(set(text)) <= 2 or guesses & common():
        detail = "The password is one of the first that anybody would try; choose another."
        raise BadPassword.because(detail, pointer)
    if guesses & set(what_others_know(about)):
        detail = "The password is your e-mail address or name; choose another."
        raise BadPassword.because(detail, pointer)


INSTEAD = str.maketrans("@4310$57", "aaeiosst")
ENDING = re.compile(r"[\W\d_]{1,6}$")


def what_it_comes_down_to(text: str) -> Iterator[str]:
    """As those who guess see it: `P@ssw0rd2026!` is `password` with an ending."""
    text = text.casefold()
    for form in (text, ENDING.sub("", text)):
        yield form
        yield form.translate(INSTEAD)
        yield squeezed(form)


def what_others_know(about: Iterable[str]) -> Iterator[str]:
    for text in about:
        plain = unicodedata.normalize("NFC", text).casefold().strip()
        parts = [plain, *re.split(r"[\s@]+", plain), *re.split(r"[\W_]+", plain)]
        yield from (part for part in parts if part)
        yield from (squeezed(part) for part in parts if squeezed(part))


def squeezed(text: str) -> str:
    return re.sub(r"[\W_]+", "", text)


@cache
def common() -> frozenset[str]:
    """What is tried first, made by us from what leaks have in common; lower case, one a line."""
    return frozenset((resources.files("bursar.auth") / "common_passwords.txt").read_text().split())
