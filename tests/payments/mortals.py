"""Requests to a Bursar that is killed at any of its moments: tests/payments/mortal_program.py."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
MOST_MOMENTS = 40
Asked = tuple[str, str, Any, str]  # who, the path, the body, the key


class Mortal:
    """The program that is killed; a child for each request."""

    def __init__(self, **environment: str) -> None:
        self.url, self.settings = "", {"": ""}
        self._program = subprocess.Popen(
            [sys.executable, "-m", "tests.payments.mortal_program"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
            text=True,
        )

    def at(self, url: str, **settings: str) -> None:
        """On which database, and with which provider."""
        self.url, self.settings = url, settings

    def kill_everywhere(self, asked: Callable[[int], Asked]) -> list[Asked]:
        """One request for each moment, killed there, and the last one not at all."""
        sent = []
        for moment in range(1, MOST_MOMENTS):
            sent.append(asked(moment))
            if answered := self.post(*sent[-1], kill_at=moment):
                assert answered in ("200", "201")
                return sent
        raise AssertionError("there are more moments than were expected")

    def post(self, who: str, path: str, body: Any, key: str, *, kill_at: int) -> str | None:
        """What was answered, or None where it was killed."""
        order = {
            "url": self.url,
            "settings": self.settings,
            "who": who,
            "path": path,
            "body": body,
            "headers": {"Idempotency-Key": key} if key else {},
            "kill_at": kill_at,
        }
        assert self._program.stdin
        assert self._program.stdout
        self._program.stdin.write(json.dumps(order) + "\n")
        self._program.stdin.flush()
        said = self._program.stdout.readline().split()
        assert said, "the program has ended"
        if said == ["killed"]:
            return None
        return said[1]

    def end(self) -> None:
        self._program.communicate()
