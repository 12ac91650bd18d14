"""The second factor: a code is good once, within a step; a recovery code however it is typed."""

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, unquote, urlsplit

import pyotp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bursar.auth import totp

SECRET = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ"  # of RFC 6238's test vectors
NOW = datetime(2026, 11, 21, 12, 0, 7, tzinfo=UTC)
STEP = int(NOW.timestamp()) // 30


def code_of(step: int) -> str:
    return pyotp.TOTP(SECRET).generate_otp(step)


@pytest.mark.parametrize(
    ("seconds", "code"),
    [(59, "287082"), (1111111109, "081804"), (1234567890, "005924"), (20000000000, "353130")],
)
def test_the_vectors_of_the_rfc(seconds: int, code: str) -> None:
    now = datetime.fromtimestamp(seconds, UTC)
    assert totp.matching_step(SECRET, code, None, now) == seconds // 30


@pytest.mark.parametrize("off", range(-4, 5))
def test_one_step_of_difference_is_forgiven(off: int) -> None:
    found = totp.matching_step(SECRET, code_of(STEP + off), None, NOW)
    assert found == (STEP + off if abs(off) <= 1 else None)


@pytest.mark.parametrize("off", [-1, 0, 1])
def test_a_code_works_once_and_so_does_every_one_before_it(off: int) -> None:
    used = totp.matching_step(SECRET, code_of(STEP + off), None, NOW)
    assert used is not None
    for earlier in range(-1, off + 1):
        assert totp.matching_step(SECRET, code_of(STEP + earlier), used, NOW) is None
    if off < 1:
        assert totp.matching_step(SECRET, code_of(STEP + off + 1), used, NOW) == used + 1
    later = NOW + timedelta(seconds=30)
    assert totp.matching_step(SECRET, code_of(STEP + off), used, later) is None


def test_two_steps_that_share_a_code_do_not_let_it_work_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pyotp.TOTP, "generate_otp", lambda self, step: "123456")
    used = totp.matching_step(SECRET, "123456", None, NOW)
    assert used == STEP + 1
    assert totp.matching_step(SECRET, "123456", used, NOW) is None


@pytest.mark.parametrize("typed", ["{0}{1}{2} {3}{4}{5}", " {0}{1}{2}{3}{4}{5}\n"])
def test_spaces_are_how_authenticators_show_it(typed: str) -> None:
    assert totp.matching_step(SECRET, typed.format(*code_of(STEP)), None, NOW) == STEP


def test_digits_of_other_scripts_and_everything_else_are_refused() -> None:
    code = code_of(STEP)
    arabic = code.translate({ord("0") + digit: 0x660 + digit for digit in range(10)})
    wide = code.translate({ord("0") + digit: 0xFF10 + digit for digit in range(10)})
    for typed in [arabic, wide, "", code[:5], code + "0", f"-{code}", f"{code}.", "\ud800" * 6]:
        assert totp.matching_step(SECRET, typed, None, NOW) is None
    for typed in ["x" * 100_000, code + " " * 1000, f"{code}\0", f"+{code[1:]}", "²²²²²²"]:
        assert totp.matching_step(SECRET, typed, None, NOW) is None


@given(st.text(max_size=12))
def test_no_text_is_a_code_by_luck(typed: str) -> None:
    good = {code_of(STEP + off) for off in (-1, 0, 1)}
    found = totp.matching_step(SECRET, typed, None, NOW)
    assert (found is not None) == ("".join(typed.split()) in good)


def test_a_time_without_a_zone_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="zone"):
        totp.matching_step(SECRET, "123456", None, datetime(2026, 1, 1))


def test_secrets_are_long_and_never_the_same() -> None:
    made = {totp.new_secret() for _ in range(100)}
    assert len(made) == 100
    assert {len(pyotp.TOTP(each).byte_secret()) for each in made} == {20}


@pytest.mark.parametrize("issuer", ["Bursar", "Müller & Söhne", "A:B", "a/b?c=d#e"])
def test_the_address_for_the_authenticator_names_who_and_where(issuer: str) -> None:
    address = totp.uri(SECRET, account="carl+x@example.com", issuer=issuer)
    parsed = urlsplit(address)
    query = parse_qs(parsed.query)
    said = issuer.replace(":", " ")
    assert (parsed.scheme, parsed.netloc) == ("otpauth", "totp")
    assert unquote(parsed.path) == f"/{said}:carl+x@example.com"
    assert query == {"secret": [SECRET], "issuer": [said]}
    again = pyotp.parse_uri(address)
    assert isinstance(again, pyotp.TOTP)
    assert again.generate_otp(STEP) == code_of(STEP)


def test_ten_recovery_codes_that_can_be_read_aloud() -> None:
    codes = totp.new_recovery_codes()
    assert len({totp.recovery_hash(code) for code in codes}) == len(set(codes)) == 10
    for code in codes:
        assert [len(group) for group in code.split("-")] == [4, 4, 4, 4]
        assert set(code) <= set(totp.ALPHABET) | {"-"}


@given(st.data())
def test_a_recovery_code_is_good_however_it_is_typed(data: st.DataObject) -> None:
    code = totp.new_recovery_code()
    signs = st.sampled_from(["", " ", "-", "\N{EN DASH}", "\N{EM DASH}", "\u00a0", "\t", "--"])
    cases = st.sampled_from([str.upper, str.lower])
    typed = "".join(data.draw(cases)(sign) + data.draw(signs) for sign in code.replace("-", ""))
    misread = typed.replace("0", data.draw(st.sampled_from("0oO")))
    misread = misread.replace("1", data.draw(st.sampled_from("1lLiI")))
    assert totp.recovery_hash(misread) == totp.recovery_hash(code) is not None


@pytest.mark.parametrize(
    "typed",
    ["", "-", "abcd", "abcd-efgh-jkmn", "abcd-efgh-jkmn-pqru", "ü" * 16, "a" * 17, "\ud800"],
)
def test_what_cannot_be_one_is_nothing(typed: str) -> None:
    assert totp.recovery_hash(typed) is None
    assert totp.recovery_hash(typed + " " * 100) is None
