"""`bursar worker`: jobs only."""

from functools import partial
from pathlib import Path

from bursar.commands.place import migrated_url, settings_of
from bursar.commands.processes import metrics_port, run_jobs, run_until_signal
from bursar.commands.terminal import say
from bursar.core import logs


def run(*, data: Path | None) -> None:
    settings = settings_of(data)
    logs.configure(settings)
    with migrated_url(settings) as direct:
        url = settings.database_url.get_secret_value() if settings.database_url else direct
        announce = partial(say, "running jobs")  # once signals are heard: it can be stopped then
        with metrics_port(settings):
            run_until_signal(lambda stop: run_jobs(settings, url, stop, announce=announce))
    say("stopped")
