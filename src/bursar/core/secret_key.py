"""The secret key: several, while one replaces another; kept in the data folder if none is given."""

import os
from collections.abc import Iterable
from pathlib import Path

from bursar.core.errors import BursarError


class BadSettings(BursarError, status=500, code="settings.invalid", exit_code=2):
    """A setting is unknown, has the wrong type or cannot be read; the sentence names it."""


def split_keys(text: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in text.split(","))


def are_long_enough(keys: Iterable[str]) -> bool:
    return all(len(key) >= 32 for key in keys)


def reason(error: Exception) -> str:
    """What the operating system says, without the path."""
    return (getattr(error, "strerror", None) or "it is not UTF-8 text").lower()


class NoPlaceForSecret(BursarError, status=500, code="settings.data_folder", exit_code=4):
    """The data folder cannot keep the secret key: it is closed to this user, or somebody else's."""


def kept_secret(data: Path) -> str:
    """The secret key of this data folder, made at the first need, readable by its owner alone."""
    path = data / "secret_key"
    advice = "choose another with --data or BURSAR_DATA, or set BURSAR_SECRET_KEY."
    try:
        data.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            if is_foreign(data):
                raise NoPlaceForSecret(f"{data} is not a data folder of Bursar's: {advice}")
            keep_new_secret(path)
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NoPlaceForSecret(
            f"The data folder {data} cannot be used: {reason(error)}; {advice}"
        ) from None
    if not are_long_enough(split_keys(secret)):
        raise BadSettings(f"The secret key in {path} is damaged: restore that file from a backup.")
    return secret


def is_foreign(data: Path) -> bool:
    """Whether the folder holds things, and none of them is ours."""
    names = {entry.name for entry in data.iterdir() if not entry.name.startswith(".")}
    return bool(names - {"lost+found"}) and not names & {"lock", "postgres", "secret_key"}


def keep_new_secret(path: Path) -> None:
    """Written whole beside, then linked: two first starts agree on one key, a crash leaves none."""
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(os.urandom(32).hex() + "\n")
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(draft, path)
    except FileExistsError:
        pass  # another process was first; its key is the key
    finally:
        draft.unlink()
