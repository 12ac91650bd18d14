"""A worker as a process of its own: tests kill it, freeze it and stop it.

python -m tests.worker_program '{"url": "postgresql://…", "pace": {…}, "settings": {…}}'
"""

import asyncio
import json
import logging
import signal
import sys
from typing import Any

from bursar.core import jobs
from bursar.core.database import Database
from bursar.core.settings import Settings
from bursar.worker import Pace, Worker
from tests import jobs_world


async def main(options: dict[str, Any]) -> None:
    if not options.get("cron"):
        del jobs.registry[jobs.names_of[jobs_world.every_second]]
    settings = Settings(**options["settings"])
    database = Database(options["url"], settings)
    stop = asyncio.Event()

    def stop_it() -> None:
        stop.set()
        print("stopping", flush=True)  # noqa: T201

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop_it)
    await Worker(database, settings, Pace(**options["pace"])).run(stop)
    await database.close()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(main(json.loads(sys.argv[1])))
