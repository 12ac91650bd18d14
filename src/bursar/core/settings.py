"""What the operator may set, from BURSAR_* variables, a .env file or secret files; all typed."""

import difflib
import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import (
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from bursar.core import mail_settings, oidc_settings, payment_settings
from bursar.core.mail_settings import MailAddress, MailHost, PublicUrl, Security
from bursar.core.oidc_settings import ClientId, ClientSecret, Issuer, Scopes
from bursar.core.payment_settings import PaymentSettings
from bursar.core.secret_key import BadSettings as BadSettings
from bursar.core.secret_key import are_long_enough, kept_secret, reason, split_keys

PREFIX = "BURSAR_"
RESERVED = "BURSAR_TEST_"  # read by the test suite alone
DATA_OF_ROOT = Path("/var/lib/bursar")


class Settings(PaymentSettings):
    """Each field is a variable: `port` is BURSAR_PORT. The description is its line in the docs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    data: Path = Field(
        Path("~/.local/share/bursar"),
        description="The data folder: database, secrets, lock, logs. "
        "Where root runs Bursar, the default is /var/lib/bursar.",
    )
    database_url: SecretStr | None = Field(
        None,
        description="An external PostgreSQL (15 or newer), signed in as the role that owns the "
        "database and may create roles; DATABASE_URL is read too. Without it Bursar runs its own.",
    )
    database_direct_url: SecretStr | None = Field(
        None,
        description="The same database past a pooler, for migrations and LISTEN, "
        "where DATABASE_URL names PgBouncer.",
    )
    database_unnamed_statements: bool = Field(
        False, description="For PgBouncer before 1.21 in transaction mode: no named statements."
    )
    database_pool_size: int = Field(
        5, ge=1, le=200, description="Connections per process and role that requests share."
    )
    database_hot_pool_size: int = Field(
        5, ge=1, le=200, description="Connections per process and role kept for the hot paths."
    )
    database_pool_timeout_seconds: float = Field(
        2,
        gt=0,
        le=60,
        description="How long a request waits for a connection before it gets a 503.",
    )
    database_statement_timeout_seconds: float = Field(
        15, gt=0, le=3600, description="The longest that one SQL statement of a request may take."
    )
    database_lock_timeout_seconds: float = Field(
        5, gt=0, le=3600, description="The longest that a statement waits for a lock."
    )
    database_idle_timeout_seconds: float = Field(
        15, gt=0, le=3600, description="How long a transaction may sit idle before it is ended."
    )
    secret_key: SecretStr | None = Field(
        None,
        description="Signs tokens and derives the passwords of the login roles: 32 characters or "
        "more; several, separated by commas, while one replaces another (the first one signs). "
        "Without it a random one is kept in the data folder.",
    )
    audit_checkpoints: str | None = Field(
        None,
        pattern=r"^(none|file:///.+|(s3|gs|az|abfss?)://.+)$",
        description="Where signed checkpoints of the audit trail go: file:///folder, s3://bucket/… "
        "(with AWS_* for the key), gs://, az://, or none. Without it the folder audit in the data "
        "folder; beside an external database nowhere.",
    )
    host: str = Field("127.0.0.1", description="The address that the server listens on.")
    port: int = Field(8000, ge=0, le=65535, description="The port that the server listens on.")
    public_url: PublicUrl = Field(
        "http://127.0.0.1:8000", description="Where people reach Bursar: links in mails begin so."
    )
    smtp_host: MailHost | None = Field(
        None, description="The server that takes mails; without it they are kept and not sent."
    )
    smtp_port: int = Field(
        587, ge=1, le=65535, description="Its port: mostly 587 for starttls and 465 for tls."
    )
    smtp_security: Security = Field(
        Security.STARTTLS,
        description="starttls or tls, both with a certificate that is checked; "
        "none only for a server that is near.",
    )
    smtp_username: str | None = Field(None, description="Who signs in there, if anybody has to.")
    smtp_password: SecretStr | None = Field(
        None, validate_default=True, description="The password of that user."
    )
    smtp_timeout_seconds: float = Field(
        60, gt=0, le=240, description="The longest that handing over one mail may take."
    )
    mail_from: MailAddress | None = Field(
        None,
        validate_default=True,
        description="The address that mails are from, needed with BURSAR_SMTP_HOST; the name "
        "beside it is the company's.",
    )
    customer_oidc_issuer: Issuer = oidc_settings.issuer_for("customers")
    customer_oidc_client_id: ClientId = oidc_settings.client_id_for("customers")
    customer_oidc_client_secret: ClientSecret = oidc_settings.client_secret_for("customers")
    staff_oidc_issuer: Issuer = oidc_settings.issuer_for("staff")
    staff_oidc_client_id: ClientId = oidc_settings.client_id_for("staff")
    staff_oidc_client_secret: ClientSecret = oidc_settings.client_secret_for("staff")
    oidc_scopes: Scopes = oidc_settings.SCOPES
    demo_payments: bool = payment_settings.DEMO
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="Web origins whose pages may call the API, separated by commas."
    )
    trusted_proxies: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Addresses of proxies whose X-Forwarded-For is believed, separated by commas.",
    )
    max_body_bytes: int = Field(
        1_048_576, ge=1024, le=1_073_741_824, description="The largest body of a request."
    )
    max_batch_bytes: int = Field(
        4_194_304,
        ge=1024,
        le=1_073_741_824,
        description="The largest body of a request with many items: events and outcomes of usage, "
        "and charges. The default, 4 MiB, holds 1,000 events with every field at its greatest "
        "length. Whoever may not send one is refused before it is read.",
    )
    max_in_flight: int = Field(
        256, ge=1, le=100_000, description="Requests at work at once; one more gets a 503 at once."
    )
    max_connections: int = Field(
        4096, ge=1, le=1_000_000, description="Open client connections per process."
    )
    head_timeout_seconds: float = Field(
        10, gt=0, le=600, description="How long a client may take to send the head of a request."
    )
    body_timeout_seconds: float = Field(
        30, gt=0, le=3600, description="How long a client may take to send the body of a request."
    )
    write_timeout_seconds: float = Field(
        30, gt=0, le=3600, description="How long a client may leave an answer unread."
    )
    keep_alive_seconds: float = Field(
        30, gt=0, le=3600, description="How long an idle connection stays open."
    )
    drain_seconds: float = Field(
        1, ge=0, le=600, description="How long a stopping server goes on taking connections."
    )
    shutdown_seconds: float = Field(
        20, gt=0, le=3600, description="How long a stopping server waits for requests and jobs."
    )
    worker_concurrency: int = Field(
        10, ge=1, le=1000, description="Jobs that one worker runs at once."
    )
    metrics_port: int | None = Field(
        None, ge=1, le=65535, description="Serve /metrics on this port of its own, without a token."
    )
    metrics_host: str = Field(
        "127.0.0.1", description="The address of that port; whoever reaches it reads the figures."
    )
    metrics_token: SecretStr | None = Field(
        None, description="Serve /metrics beside the API to whoever sends this bearer token."
    )
    webhooks_allow_private: bool = Field(
        False,
        description="For development and tests alone: webhooks may go to http:// and to private "
        "addresses, also to this machine.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least important log line that is written."
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="json for machines, text for people."
    )

    @model_validator(mode="before")
    @classmethod
    def place_for_root(cls, values: dict[str, Any]) -> dict[str, Any]:
        # Root's home is closed to the ordinary user that PostgreSQL runs as then.
        return {"data": DATA_OF_ROOT, **values} if os.geteuid() == 0 else values

    @field_validator("cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def split_commas(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("data")
    @classmethod
    def absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def postgresql(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not is_address(value.get_secret_value()):
            raise ValueError("must look like postgresql://user:password@host:5432/database")
        return value

    @field_validator("database_direct_url")
    @classmethod
    def beside_another(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value and "database_url" in info.data and not info.data["database_url"]:
            raise ValueError("goes with DATABASE_URL, which is not set")
        return value

    @field_validator("secret_key")
    @classmethod
    def long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value and not are_long_enough(split_keys(value.get_secret_value())):
            raise ValueError("must have 32 characters or more; try: openssl rand -hex 32")
        return value

    @field_validator("smtp_password")
    @classmethod
    def sent_safely(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        mail_settings.check_password(value, info.data)
        return value

    @field_validator("mail_from")
    @classmethod
    def given_with_server(cls, value: str | None, info: ValidationInfo) -> str | None:
        mail_settings.check_sender(value, info.data)
        return value

    @field_validator("demo_payments")
    @classmethod
    def only_for_show(cls, value: bool, info: ValidationInfo) -> bool:
        return payment_settings.check_demo(value, info.data)

    @cached_property
    def secret_keys(self) -> tuple[str, ...]:
        """The first one signs, all of them verify."""
        text = self.secret_key.get_secret_value() if self.secret_key else kept_secret(self.data)
        return split_keys(text)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)  # load() below reads the rest, so that it can name what is unknown


def is_address(text: str) -> bool:
    """postgresql://, with a user and a database, a port that there is, and no line breaks."""
    try:
        parts = urlsplit(text)
        port = 5432 if parts.port is None else parts.port
    except ValueError:
        return False
    known = parts.scheme in ("postgresql", "postgres") and text.isprintable()
    return known and port > 0 and bool(parts.username and parts.path.strip("/"))


def load(**given: Any) -> Settings:
    """The settings of this process: arguments first, then the environment, then .env."""
    arguments = {field: value for field, value in given.items() if value is not None}
    try:
        return Settings(**{**variables(), **arguments})
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        name = f"--{field}" if field in arguments else PREFIX + field.upper()
        message = first["msg"].removeprefix("Value error, ")
        raise BadSettings(f"{name} is not usable: {message[0].lower()}{message[1:]}.") from None


def variables() -> dict[str, str]:
    """What the environment and .env say, by field; of each source only what is not empty."""
    found: dict[str, str] = {}
    elsewhere: dict[str, str] = {}
    for source in (dotenv(), os.environ):
        given = {name: value for name, value in source.items() if value != ""}
        found |= ours(given)
        if url := given.get("DATABASE_URL"):
            elsewhere["database_url"] = url
    return elsewhere | found  # a name of our own is meant for us, wherever it stands


def ours(source: Mapping[str, str]) -> dict[str, str]:
    """The fields that this source sets; BURSAR_X_FILE names a file that holds X."""
    found: dict[str, str] = {}
    for name, value in source.items():
        if not name.startswith(PREFIX) or name.startswith(RESERVED):
            continue
        field = name.removeprefix(PREFIX).lower()
        if field in Settings.model_fields:
            found[field] = value
        elif field.removesuffix("_file") in secret_fields():
            found.setdefault(field.removesuffix("_file"), read_secret(name, Path(value)))
        else:
            raise unknown(name)
    return found


def dotenv() -> dict[str, str]:
    """The .env file of the folder that the command was started in."""
    try:
        return {name: value or "" for name, value in dotenv_values(".env").items()}
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"The file .env cannot be read: {reason(error)}.") from None


def secret_fields() -> set[str]:
    """The settings that must not be printed, and may stand in a file."""
    return {
        name
        for name, field in Settings.model_fields.items()
        if "SecretStr" in str(field.annotation)
    }


def read_secret(name: str, path: Path) -> str:
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSettings(f"The file that {name} names cannot be read: {reason(error)}.") from None
    if not secret:
        raise BadSettings(f"The file that {name} names is empty.")
    return secret


def unknown(name: str) -> BadSettings:
    known = [PREFIX + field.upper() for field in Settings.model_fields]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else "docs/reference/settings.md lists them all."
    return BadSettings(f"There is no setting {name}; {hint}")
