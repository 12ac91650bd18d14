"""Settings come from arguments, the environment, .env and secret files; secrets are never shown."""

import os
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from bursar.core.settings import PREFIX, BadSettings, Settings, load, secret_fields

KEY = "k" * 32
OTHER = "o" * 32
URL = "postgresql://owner:hunter2@db.example:5433/shop"
Environment = pytest.MonkeyPatch


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: Environment) -> Path:
    """An empty folder to be in, and an environment that sets nothing of ours."""
    for name in [*os.environ]:
        if name.startswith(PREFIX) or name == "DATABASE_URL":
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def url(settings: Settings) -> str | None:
    return settings.database_url.get_secret_value() if settings.database_url else None


# Where they come from


def test_arguments_win_over_the_environment_over_dotenv(
    place: Path, monkeypatch: Environment
) -> None:
    assert load().port == 8000
    (place / ".env").write_text("BURSAR_PORT=1\nBURSAR_HOST='::1'\nSOMETHING_ELSE=5\n")
    assert (load().port, load().host) == (1, "::1")
    monkeypatch.setenv("BURSAR_PORT", "2")
    assert (load().port, load().host) == (2, "::1")
    assert load(port=3, host=None).port == 3


def test_an_empty_value_is_none_at_all(place: Path, monkeypatch: Environment) -> None:
    (place / ".env").write_text("BURSAR_PORT=1\nBURSAR_HOST=\nBURSAR_LOG_LEVEL\n")
    monkeypatch.setenv("BURSAR_PORT", "")
    monkeypatch.setenv("BURSAR_SECRET_KEY", "")
    monkeypatch.setenv("BURSAR_METRICS_PORT", "")
    settings = load()
    assert (settings.port, settings.host, settings.log_level) == (1, "127.0.0.1", "info")
    assert settings.secret_key is None
    assert settings.metrics_port is None


def test_a_list_is_separated_by_commas(monkeypatch: Environment) -> None:
    monkeypatch.setenv("BURSAR_CORS_ORIGINS", "https://a.example, https://b.example,")
    assert load().cors_origins == ("https://a.example", "https://b.example")


def test_the_data_folder_is_absolute(place: Path, monkeypatch: Environment) -> None:
    assert load(data=Path("here")).data == place / "here"
    monkeypatch.setenv("HOME", "/home/somebody")
    assert load(data=Path("~/here")).data == Path("/home/somebody/here")
    usual = "/var/lib/bursar" if os.geteuid() == 0 else "/home/somebody/.local/share/bursar"
    assert load().data == Path(usual)


# The database


def test_a_database_url_of_our_own_wins(place: Path, monkeypatch: Environment) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://other@elsewhere/theirs")
    assert url(load()) == "postgresql://other@elsewhere/theirs"
    (place / ".env").write_text(f"BURSAR_DATABASE_URL={URL}\n")
    assert url(load()) == URL


def test_an_empty_one_of_our_own_does_not_hide_the_other(monkeypatch: Environment) -> None:
    monkeypatch.setenv("BURSAR_DATABASE_URL", "")
    monkeypatch.setenv("DATABASE_URL", URL)
    assert url(load()) == URL


def test_the_environment_names_the_database_before_dotenv(
    place: Path, monkeypatch: Environment
) -> None:
    (place / ".env").write_text("DATABASE_URL=postgresql://other@elsewhere/theirs\n")
    monkeypatch.setenv("DATABASE_URL", URL)
    assert url(load()) == URL


def test_a_direct_address_needs_the_other_one(monkeypatch: Environment) -> None:
    monkeypatch.setenv("BURSAR_DATABASE_DIRECT_URL", URL)
    with pytest.raises(BadSettings, match="DIRECT_URL is not usable: goes with DATABASE_URL"):
        load()
    monkeypatch.setenv("DATABASE_URL", URL)
    assert load().database_direct_url


# Secrets


def oidc_of(who: str) -> dict[str, str]:
    issuer, client = f"BURSAR_{who}_OIDC_ISSUER", f"BURSAR_{who}_OIDC_CLIENT_ID"
    return {issuer: "https://accounts.example.com", client: "bursar"}


BESIDE = {  # settings that are only taken together
    "smtp_password": {
        "BURSAR_SMTP_HOST": "mail.example.com",
        "BURSAR_SMTP_USERNAME": "bursar",
        "BURSAR_MAIL_FROM": "hello@example.com",
    },
    "paypal_client_secret": {"BURSAR_PAYPAL_CLIENT_ID": "bursar"},
    "customer_oidc_client_secret": oidc_of("CUSTOMER"),
    "staff_oidc_client_secret": oidc_of("STAFF"),
}


@pytest.mark.parametrize("field", sorted(secret_fields()))
def test_each_secret_may_stand_in_a_file(field: str, place: Path, monkeypatch: Environment) -> None:
    secret = URL if field.endswith("url") else KEY
    (place / "secret").write_text(f"{secret}\n")
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv(f"BURSAR_{field.upper()}_FILE", str(place / "secret"))
    for name, value in BESIDE.get(field, {}).items():
        monkeypatch.setenv(name, value)
    found = getattr(load(), field)
    assert isinstance(found, SecretStr)
    assert found.get_secret_value() == secret


def test_a_file_in_the_environment_wins_over_a_value_in_dotenv(
    place: Path, monkeypatch: Environment
) -> None:
    (place / "secret").write_text(KEY)
    (place / ".env").write_text(f"BURSAR_SECRET_KEY={OTHER}\n")
    monkeypatch.setenv("BURSAR_SECRET_KEY_FILE", str(place / "secret"))
    assert load().secret_keys == (KEY,)
    monkeypatch.setenv("BURSAR_SECRET_KEY", "")
    assert load().secret_keys == (KEY,)
    monkeypatch.setenv("BURSAR_SECRET_KEY_FILE", "")
    assert load().secret_keys == (OTHER,)


def test_a_file_that_is_no_secret_is_refused(place: Path, monkeypatch: Environment) -> None:
    for content, hint in {b"": "is empty", b" \n": "is empty", b"\xff\xfe": "not utf-8"}.items():
        (place / "secret").write_bytes(content)
        monkeypatch.setenv("BURSAR_SECRET_KEY_FILE", str(place / "secret"))
        with pytest.raises(BadSettings, match=hint):
            load()


def test_several_keys_while_one_replaces_another(monkeypatch: Environment) -> None:
    monkeypatch.setenv("BURSAR_SECRET_KEY", f"{KEY}, {OTHER}")
    assert load().secret_keys == (KEY, OTHER)
    for bad in (f"{KEY},", f"{KEY}, short", f"{KEY},{' ' * 40}"):
        monkeypatch.setenv("BURSAR_SECRET_KEY", bad)
        with pytest.raises(BadSettings, match="32 characters or more") as caught:
            load()
        assert KEY not in caught.value.detail


def test_a_secret_is_made_once_and_kept(place: Path) -> None:
    first, second = load(data=place / "data"), load(data=place / "data")
    assert first.secret_keys == second.secret_keys
    kept = place / "data" / "secret_key"
    assert kept.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in (place / "data").iterdir()] == ["secret_key"]


def test_secrets_are_never_shown(monkeypatch: Environment) -> None:
    monkeypatch.setenv("DATABASE_URL", URL)
    monkeypatch.setenv("BURSAR_SECRET_KEY", KEY)
    monkeypatch.setenv("BURSAR_METRICS_TOKEN", "m3trics")
    settings = load()
    assert settings.secret_keys == (KEY,)
    for shown in (repr(settings), str(settings), f"{settings}", str(settings.model_dump())):
        assert "hunter2" not in shown
        assert KEY not in shown
        assert "m3trics" not in shown


BAD: dict[str, Any] = {
    "database_url": "mysql://owner:hunter2@db/shop",
    "secret_key": "hunter2",
    "metrics_port": "hunter2",
    "log_level": "hunter2",
    "database_pool_size": "hunter2",
    "cors_origins": 5,
}


@pytest.mark.parametrize("field", BAD)
def test_what_was_wrong_is_named_and_not_repeated(field: str) -> None:
    with pytest.raises(BadSettings) as caught:
        load(**{field: BAD[field]})
    assert caught.value.detail.startswith(f"--{field} is not usable: ")
    assert "hunter2" not in f"{caught.value} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_type_and_a_line(name: str) -> None:
    field = Settings.model_fields[name]
    assert field.annotation is not None
    assert not field.is_required()
    assert field.description
    assert field.description.endswith(".")


def test_what_only_tests_read_is_left_alone(monkeypatch: Environment) -> None:
    monkeypatch.setenv("BURSAR_TEST_ANYTHING", "1")
    load()
