"""Signs people in over HTTP as fast as the server lets them, and checks every answer.

    python -m bench.knock < job.json      # {"port": …, "people": …, "first": …, "clients": …}

A process of its own, as `bench.load`, whose clients these are. Each sign-in is of another person
from another address (X-Forwarded-For), so what stops those who guess stops nobody here.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import islice

from bench.load import Ask, Job, Outcome, WrongAnswer, run
from bench.programs import ROOT, BenchFailed

LOGIN = "/api/v1/auth/login"
PASSWORD = "a boat full of otters"


@dataclass(frozen=True)
class Knocks:
    """Who comes, how hard, and how long: by time, by number, or until the first of both."""

    port: int
    people: int
    clients: int
    seconds: float
    first: int = 0
    requests: int = sys.maxsize


def email(number: int) -> str:
    return f"customer{number:06}@example.com"


def address(number: int) -> str:
    return f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


def body(address: str, password: str) -> bytes:
    return json.dumps({"email": address, "password": password}).encode()


@dataclass(frozen=True)
class SignIn(Ask):
    """One person with the right password."""

    number: int = 0

    def wire(self) -> bytes:
        content = body(email(self.number), PASSWORD)
        lines = [f"POST {self.path} HTTP/1.1", "Host: 127.0.0.1", "Accept: */*"]
        lines += [f"X-Forwarded-For: {address(self.number)}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(content)}", "", ""]
        return "\r\n".join(lines).encode() + content


def knock(knocks: Knocks) -> Outcome:
    """Runs the generator in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.knock"],
        input=json.dumps(asdict(knocks)),
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=knocks.seconds + 60,
        check=False,
    )
    if done.returncode:
        raise BenchFailed(done.stderr.strip())
    return Outcome(**json.loads(done.stdout))


def main() -> None:
    given = Knocks(**json.loads(sys.stdin.read()))
    numbers = (number % given.people for number in range(given.first, given.first + given.people))
    asks: list[Ask] = [
        SignIn(LOGIN, f'"email":"{email(number)}"', number=number)
        for number in islice(numbers, given.people)
    ]
    try:
        answer = run(Job(given.port, asks, given.clients, given.seconds, given.requests))
    except (WrongAnswer, OSError) as error:
        sys.exit(f"bench.knock: {error}")
    print(json.dumps(asdict(answer)))


if __name__ == "__main__":
    main()
