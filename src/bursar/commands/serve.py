"""`bursar serve`: database, API and jobs, started in order and stopped in order."""

import asyncio
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from bursar.commands.place import settings_of
from bursar.commands.terminal import say
from bursar.core.errors import BursarError
from bursar.core.settings import Settings


def run(*, data: Path | None, host: str | None, port: int | None, demo: bool, workers: int) -> None:
    started = monotonic()
    settings = settings_of(data, host=host, port=port)
    if demo:
        settings = with_demo_payments(settings)
    from bursar.server import bind

    with bind(settings.host, settings.port) as sock, database(settings) as url:
        from bursar.commands import processes
        from bursar.core import logs

        logs.configure(settings)
        prepare(url, settings, demo=demo)
        token = None if demo else asyncio.run(first_link(url, settings))

        def announce() -> None:
            tell_addresses(settings, sock, monotonic() - started)
            if demo:
                tell_sign_ins(settings)
            if token:
                tell_first_link(settings, sock, token)

        if workers:
            processes.supervise(settings, url, sock, workers, announce)
        else:
            processes.run_all_in_one(settings, url, sock, announce)
    say("stopped")


def with_demo_payments(settings: Settings) -> Settings:
    """Where nobody said otherwise and none but this machine can pay with nothing."""
    from bursar.core.mail_settings import is_loopback
    from bursar.core.payment_settings import may_show

    said = "demo_payments" in settings.model_fields_set
    if said or not is_loopback(settings.host) or not may_show(dict(settings)):
        return settings
    return settings.model_copy(update={"demo_payments": True})


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The external database, or our own server: for as long as this process serves."""
    if settings.database_url:
        yield settings.database_url.get_secret_value()
        return
    from bursar.core.embedded import Embedded

    say(f"starting the database in {settings.data}")
    with stop_signals(), Embedded(settings.data, say=say, failed=give_up) as server:
        yield server.url()


def give_up(_: BursarError) -> None:
    """The database keeps dying: this process must not go on pretending. Called from a thread."""
    say("stopping, because the database cannot be kept running")
    signal.raise_signal(signal.SIGTERM)


@contextmanager
def stop_signals() -> Iterator[None]:
    """A SIGTERM before the server serves ends the start in order, as Ctrl-C does."""

    def stop(number: int, _: object) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def prepare(url: str, settings: Settings, *, demo: bool) -> None:
    """Our own database is migrated without asking; another one only by `bursar migrate`."""
    asyncio.run(check_or_migrate(url, settings, demo=demo))


async def check_or_migrate(url: str, settings: Settings, *, demo: bool) -> None:
    from bursar.core.migrate import check, look_at, migrate

    if settings.database_url:
        await check(url, settings)
    elif not (await look_at(url, settings)).is_current(settings):
        await migrate(url, settings, say)
    if demo:
        from bursar.core.database import Database
        from bursar.demo import company as demo_data

        say("loading demo data")
        place = Database(url, settings)
        try:
            await demo_data.load(place)
        finally:
            await place.close()


async def first_link(url: str, settings: Settings) -> str | None:
    """Where nobody works yet: what the page for the first owner asks for, new at each start."""
    from bursar.accounts import joining
    from bursar.commands.staff import go_to_door

    return await go_to_door(url, settings, joining.first_link)


def tell_first_link(settings: Settings, sock: socket.socket, token: str) -> None:
    """Only here, where whoever started the server reads it: the log never has it."""
    told = "public_url" in settings.model_fields_set
    base = settings.public_url if told else address(settings.host, sock)
    say("nobody works here yet; the first owner signs up here, once, within a day:")
    say(f"  {base}/first-run?token={token}")


def tell_addresses(settings: Settings, sock: socket.socket, seconds: float) -> None:
    base = address(settings.host, sock)
    say(f"serving after {seconds:.1f} s")
    say(f"  API     {base}/api/v1")
    say(f"  docs    {base}/docs")
    say(f"  health  {base}/ready")


def address(host: str, sock: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{sock.getsockname()[1]}"


def tell_sign_ins(settings: Settings) -> None:
    """The demo sign-ins, and a token for /docs that is good for twelve hours; only where none but
    this machine can use them and the data is our own."""
    if settings.database_url or settings.host not in ("127.0.0.1", "::1", "localhost"):
        say("  sign in with: bursar staff token")
        return
    from bursar.auth.actor import operator
    from bursar.auth.permissions import StaffRole
    from bursar.auth.tokens import Tokens
    from bursar.demo import company as demo

    say(f"  demo sign-ins, all with the password {demo.password(settings)}")
    for email, (_, role) in demo.STAFF.items():
        say(f"    {role:13} {email}")
    say(f"    {'customer':13} {demo.CUSTOMER}")
    token = Tokens(settings.secret_keys).sign(operator(StaffRole.OWNER), lifetime_seconds=12 * 3600)
    say("  a token of the owner for the docs (press Authorize there):")
    say(f"    {token}")
