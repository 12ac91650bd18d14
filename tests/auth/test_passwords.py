"""Passwords: every kind of hash is understood, none is trusted, and no answer tells who exists."""

import asyncio
import statistics
import subprocess
import sys
import threading
import time
import unicodedata
from dataclasses import replace

import pytest

from bursar.auth import hashes, passwords
from bursar.auth.passwords import BadPassword, HashingBusy, Lane, Verdict
from tests.auth.stored_hashes import OLDER, PASSWORD, argon2, bcrypted


async def test_a_new_hash_is_argon2id_with_the_parameters_of_owasp() -> None:
    made = await passwords.hash(PASSWORD)
    assert made.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert made != await passwords.hash(PASSWORD)
    assert await passwords.verify(PASSWORD, made) == Verdict(True)
    assert await passwords.verify(PASSWORD + "x", made) == Verdict(False)


@pytest.mark.parametrize("kind", OLDER)
async def test_an_older_hash_is_understood_and_replaced(kind: str) -> None:
    stored = OLDER[kind](PASSWORD)
    assert passwords.is_known_hash(stored)
    assert await passwords.verify("wrong horse", stored) == Verdict(False)
    verdict = await passwords.verify(PASSWORD, stored)
    assert verdict.right
    assert verdict.replace
    assert await passwords.verify(PASSWORD, verdict.replace) == Verdict(True)


async def test_bcrypt_reads_seventy_two_bytes_once() -> None:
    """Also where the cut goes through the middle of a character."""
    long = "é" * 35 + "xé" + "the rest that bcrypt never read"
    assert len(long.encode()[:72].decode(errors="ignore").encode()) == 71
    verdict = await passwords.verify(long, bcrypted(long))
    assert verdict.right
    assert (await passwords.verify(long + "!", bcrypted(long))).right
    assert not (await passwords.verify(long + "!", verdict.replace)).right
    assert not (await passwords.verify("è" + long, bcrypted(long))).right


COMPOSED, TYPED_APART = "Fußgänger-Café", unicodedata.normalize("NFD", "Fußgänger-Café")


@pytest.mark.parametrize("kind", OLDER)
@pytest.mark.parametrize("stored_as", [COMPOSED, TYPED_APART])
async def test_two_ways_to_type_one_character_are_one_password(kind: str, stored_as: str) -> None:
    assert COMPOSED != TYPED_APART
    stored = OLDER[kind](stored_as)
    replaced = (await passwords.verify(stored_as, stored)).replace
    for typed in (COMPOSED, TYPED_APART):
        assert (await passwords.verify(typed, replaced)) == Verdict(True)


async def test_an_argon2_hash_of_the_raw_text_is_replaced_by_one_of_the_normal_form() -> None:
    verdict = await passwords.verify(TYPED_APART, argon2(TYPED_APART))
    assert verdict.right
    assert await passwords.verify(COMPOSED, verdict.replace) == Verdict(True)


async def test_nobody_is_refused_like_somebody() -> None:
    for password in (PASSWORD, "", "x", "é" * 512, TYPED_APART):
        assert await passwords.verify(password, None) == Verdict(False)


STORED = argon2()


@pytest.mark.parametrize(
    "password", ["\0", "long\0enough", "x" * 1025, "é" * 513, "\ud800" * 8], ids=range(5)
)
@pytest.mark.parametrize("stored", [None, STORED], ids=["nobody", "somebody"])
async def test_what_cannot_be_a_password_is_refused_before_any_work(
    password: str, stored: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_work(*_: object) -> None:
        raise AssertionError("it was hashed")

    monkeypatch.setattr(Lane, "run", no_work)
    for attempt in (passwords.verify(password, stored), passwords.hash(password)):
        with pytest.raises(BadPassword):
            await attempt
    with pytest.raises(BadPassword):
        passwords.check(password)


async def test_a_megabyte_costs_nothing() -> None:
    started = time.process_time()
    with pytest.raises(BadPassword):
        await passwords.verify("x" * 10_000_000, None)
    assert time.process_time() - started < 0.1


async def test_known_and_unknown_are_the_same_work() -> None:
    """Processor time of interleaved runs: neighbours on this machine do not count."""
    stored = await passwords.hash(PASSWORD)
    known = hashes.known(stored)
    assert known
    typed = passwords.Typed.of("not the password")
    for _ in range(3):  # a noisy machine may have a bad moment, a leak has it each time
        times: dict[bool, list[float]] = {True: [], False: []}
        for number in range(60):
            started = time.thread_time()
            passwords.examine(typed, known if number % 2 else passwords.DECOY)
            times[bool(number % 2)].append(time.thread_time() - started)
        ratio = statistics.median(times[True]) / statistics.median(times[False])
        if 0.8 < ratio < 1.25:
            return
    pytest.fail(f"a known account takes {ratio:.2f} times as long as an unknown one")


async def test_the_decoy_is_checked_as_often_as_a_hash() -> None:
    """A password in another form is tried twice, whoever is asked for."""

    def tries(known: hashes.Known) -> int:
        tried: list[bytes] = []
        watched = replace(known, matches=lambda form: tried.append(form) or False)
        passwords.examine(passwords.Typed.of(TYPED_APART), watched)
        return len(tried)

    assert [tries(hashes.known(STORED)), tries(passwords.DECOY)] == [2, 2]
    assert passwords.DECOY.ours


async def test_one_too_many_is_refused_at_once_and_places_come_free() -> None:
    lane, hold = Lane("test", at_once=1, waiting=2), threading.Event()
    at_work = [asyncio.create_task(lane.run(hold.wait)) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(HashingBusy) as caught:
        await lane.run(int)
    assert (caught.value.status, caught.value.headers) == (503, {"Retry-After": "1"})
    at_work[2].cancel()  # it left while it waited: its place is free
    await asyncio.gather(at_work[2], return_exceptions=True)
    at_work[0].cancel()  # it left while it was hashed: its thread is still at work
    await asyncio.gather(at_work[0], return_exceptions=True)
    waiting = asyncio.create_task(lane.run(int))
    await asyncio.sleep(0)
    with pytest.raises(HashingBusy):
        await lane.run(int)
    hold.set()
    assert await waiting == 0
    assert await at_work[1] is True


async def test_a_failure_gives_its_place_back() -> None:
    lane = Lane("test", at_once=1, waiting=0)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            await lane.run(divmod, 1, 0)


async def test_the_loop_is_not_held_up() -> None:
    """While 16 are checked, something else gets its turns."""
    turns, tasks = 0, [asyncio.create_task(passwords.verify("x", None)) for _ in range(16)]
    while not all(task.done() for task in tasks):
        turns += 1
        await asyncio.sleep(0.001)
    assert turns > 16


async def test_what_wants_much_memory_goes_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes: list[Lane] = []
    run = Lane.run
    monkeypatch.setattr(
        Lane, "run", lambda self, *given: (lanes.append(self), run(self, *given))[1]
    )
    for stored in (argon2(memory=32_768), argon2(passes=5), STORED, bcrypted(), None):
        await passwords.verify(PASSWORD, stored)
    heavy, ordinary = passwords.heavy, passwords.ordinary
    assert lanes == [heavy, heavy, ordinary, ordinary, ordinary]


SIXTY_FOUR = """
import asyncio, threading, psutil
from bursar.auth import passwords
process, peak, done = psutil.Process(), 0, threading.Event()
def watch():
    global peak
    while not done.wait(0.002):
        peak = max(peak, process.memory_info().rss)
async def main():
    stored = await passwords.hash("correct horse")
    before = process.memory_info().rss
    threading.Thread(target=watch).start()
    try:
        logins = [passwords.verify("correct horse", stored) for _ in range(64)]
        answers = await asyncio.gather(*logins)
    finally:
        done.set()
    assert all(answer.right for answer in answers)
    print(before, peak)
asyncio.run(main())
"""


def test_sixty_four_at_once_stay_small() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SIXTY_FOUR], capture_output=True, text=True, check=True, timeout=120
    )
    before, peak = (int(number) for number in done.stdout.split())
    assert peak - before < 200_000_000
    assert peak < 300_000_000


ABOUT = ["carl.miller@widgets.example", "Carl Miller", "Müller & Söhne"]


@pytest.mark.parametrize(
    ("password", "says"),
    [
        ("", "fewer than 8"),
        ("1234567", "fewer than 8"),
        ("a\u0301" * 4 + "xyz", "fewer than 8"),  # 11 code points as typed, 7 characters
        ("password", "first that anybody"),
        ("PassWord", "first that anybody"),
        ("P@ssw0rd2026!", "first that anybody"),
        ("pa$$word", "first that anybody"),
        ("sunshine-1", "first that anybody"),
        ("12345678", "first that anybody"),
        ("qwertyuiop", "first that anybody"),
        ("aaaaaaaaaaaaaaaa", "first that anybody"),
        ("abababababab", "first that anybody"),
        ("        ", "first that anybody"),
        ("carl.miller@widgets.example", "e-mail address or name"),
        ("Carl.Miller@Widgets.Example", "e-mail address or name"),
        ("carl.miller", "e-mail address or name"),
        ("carl miller", "e-mail address or name"),
        ("CarlMiller", "e-mail address or name"),
        ("miller2026!", "e-mail address or name"),
        ("widgets-99", "e-mail address or name"),
        ("Mu\u0308ller1999", "e-mail address or name"),
    ],
)
def test_a_bad_password_is_told_why_and_where(password: str, says: str) -> None:
    with pytest.raises(BadPassword, match=says) as caught:
        passwords.check(password, about=ABOUT, pointer="/new_password")
    assert (caught.value.status, caught.value.code) == (422, "auth.bad_password")
    assert caught.value.errors
    assert caught.value.errors[0]["pointer"] == "/new_password"
    assert PASSWORD not in caught.value.detail


@pytest.mark.parametrize(
    "password",
    [PASSWORD, "xk7#mQ2p", "пароль-и-ещё", "🦉🦔🦊🐝🐢🦀🐙🦑", "x" * 1000 + "yz", "millers mill"],
)
def test_a_good_one_is_taken(password: str) -> None:
    passwords.check(password, about=[*ABOUT, "", " ", "@"])
    passwords.check(password)


def test_the_list_is_lower_case_sorted_and_of_use() -> None:
    listed = sorted(passwords.common())
    assert all(each == each.casefold() for each in listed)
    assert sum(len(each) >= passwords.FEWEST_CHARACTERS for each in listed) > 500
    for each in listed:
        if len(each) >= passwords.FEWEST_CHARACTERS:
            with pytest.raises(BadPassword):
                passwords.check(each)
