"""How calls ended is told to Bursar afterwards, many at once: it never holds up a call.

The call itself was counted before it was made. What is lost here is its status and its time, never
that it counts; what is sent again is filled in once.
"""

import asyncio
import logging
import time
from collections import deque
from contextlib import suppress
from contextvars import Context
from itertools import islice
from typing import Any

from bursar.client.line import Line, Unreachable

log = logging.getLogger("bursar.client")

MOST_IN_BATCH = 500
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
WARN_EVERY_SECONDS = 10.0
REFUSED_AS_A_WHOLE = (400, 404, 405, 413, 422)  # the same batch would be refused again


class Outcomes:
    """A bounded queue. Its task works while something waits."""

    def __init__(self, line: Line, *, most_waiting: int, flush_seconds: float) -> None:
        self._line = line
        self._most_waiting, self._flush_seconds = most_waiting, flush_seconds
        self._waiting: deque[dict[str, Any]] = deque()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._warned_at = -WARN_EVERY_SECONDS
        self.told = 0
        self.dropped = 0

    def add(self, outcome: dict[str, Any]) -> None:
        if len(self._waiting) >= self._most_waiting:
            self._drop(1, "too many wait")
            return
        self._waiting.append(outcome)
        if len(self._waiting) >= MOST_IN_BATCH:
            self._wake.set()
        if self._task is None:  # in a context of its own: the work is not this caller's alone
            self._task = asyncio.get_running_loop().create_task(self._work(), context=Context())

    def _drop(self, number: int, why: str) -> None:
        self.dropped += number
        if time.monotonic() - self._warned_at >= WARN_EVERY_SECONDS:
            self._warned_at = time.monotonic()
            log.warning(
                "outcomes of calls are dropped, %s so far: %s; the calls are counted all the same",
                self.dropped,
                why,
            )

    async def _work(self) -> None:
        failures = 0
        try:
            while self._waiting:
                await self._rest(failures)
                batch = list(islice(self._waiting, MOST_IN_BATCH))
                if await self._told(batch):
                    failures = 0
                    for _ in batch:
                        self._waiting.popleft()
                else:
                    failures += 1
        finally:
            self._task = None

    async def _rest(self, failures: int) -> None:
        """Until there is a batch, or it is time; longer and longer while nobody takes it."""
        if failures and self._closing.is_set():
            await asyncio.sleep(FIRST_PAUSE_SECONDS)
        elif failures:
            pause = FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 10)
            await happens(self._closing, min(pause, LONGEST_PAUSE_SECONDS))
        elif len(self._waiting) < MOST_IN_BATCH and not self._closing.is_set():
            self._wake.clear()
            await happens(self._wake, self._flush_seconds)

    async def _told(self, batch: list[dict[str, Any]]) -> bool:
        try:
            status, answer = await self._line.post("/usage/outcomes", {"outcomes": batch})
        except Unreachable:
            return False
        if status == 200 and isinstance(answer, dict) and {"refused", "outcomes"} <= answer.keys():
            self.told += len(batch) - answer["refused"]
            if answer["refused"]:
                codes = {each["code"] for each in answer["outcomes"] if each.get("code")}
                self._drop(answer["refused"], ", ".join(sorted(codes)))
            return True
        if status in REFUSED_AS_A_WHOLE:
            self._drop(len(batch), f"Bursar has answered {status}")
            return True
        return False

    async def close(self, seconds: float) -> None:
        """Tells what still waits, for so long at most."""
        self._closing.set()
        self._wake.set()
        if task := self._task:
            _, slow = await asyncio.wait([task], timeout=seconds)
            for each in slow:
                each.cancel()
            await asyncio.gather(*slow, return_exceptions=True)
        if self._waiting:
            self._drop(len(self._waiting), "Bursar was not reachable in time")
            self._waiting.clear()
        self._closing.clear()


async def happens(event: asyncio.Event, within_seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(within_seconds):
            await event.wait()
