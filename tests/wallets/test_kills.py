"""Whatever is killed, and whenever: what was answered is in the ledger, once, and stays so."""

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx2
import psutil
import pytest

from tests.programs import Serving, bursar, new_folder, postmaster, remove, until

API = "/api/v1"
CHARGES = f"{API}/admin/wallets/charges"
SERVICE_KILLS = 15  # each needs a start, which takes seconds
BACKEND_KILLS = 31
POSTMASTER_KILLS = 4  # its keeper waits longer before each restart, and gives up after five
CLIENTS = 6
AGAIN = 5  # charges that a client repeats after a trouble
LEDGER = """
  select key, operations.id, transfers.id, amount from operations
  left join transfers on operation_id = operations.id where key like 'killed-%'
"""


class Shop:
    """A service of the business that charges on and on, at whatever server there is."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.answers: dict[str, str] = {}  # the first one to each key
        self.troubles = 0
        self.closing = False
        self.server = Serving("--data", data, "--demo").ready()
        self.base = self.server.base

    def open(self) -> None:
        """A key that may charge, and customers with money."""
        self.headers = self.server.sign_in("olivia")
        found = self.server.get(f"{API}/admin/users?limit=4", **self.headers).json()
        self.customers = [user["id"] for user in found["users"]]
        for customer in self.customers:
            self.make(f"{API}/add-funds", {"user_id": customer, "amount": 100_000})
        asked = {"name": "the shop", "scopes": ["wallets:charge"]}
        made = self.make(f"{API}/admin/api-keys", asked, status=201)
        self.headers = {"authorization": f"Bearer {made['key']}"}

    def make(self, path: str, body: Any, status: int = 200) -> Any:
        made = self.server.client.post(self.base + path, json=body, headers=self.headers)
        assert made.status_code == status, made.text
        return made.json()

    def charge_on(self, client: int) -> None:
        with httpx2.Client(timeout=30, headers=self.headers) as http:
            for number in count():
                if self.closing:
                    return
                troubles = self.troubles
                self.insist(http, client, number)
                if self.troubles > troubles:
                    for earlier in range(max(0, number - AGAIN), number + 1):
                        self.insist(http, client, earlier)

    def insist(self, http: httpx2.Client, client: int, number: int) -> None:
        """Sends the charge until it is answered, with the first answer to it."""
        key = f"killed-{client}-{number}"
        while True:
            with suppress(httpx2.TransportError):
                headers = {"idempotency-key": key}
                told = http.post(self.base + CHARGES, json=self.body(number), headers=headers)
                if told.status_code == 200:
                    assert self.answers.setdefault(key, told.text) == told.text
                    return
                assert told.status_code in (429, 503), told.text
            self.troubles += 1
            until(lambda: self.is_ready(http), "a server that is ready")

    def body(self, number: int) -> dict[str, Any]:
        customer = self.customers[number % len(self.customers)]
        return {"userId": customer, "amount": f"0.0{1 + number % 7}"}

    def is_ready(self, http: httpx2.Client) -> bool:
        with suppress(httpx2.TransportError):
            return http.get(f"{self.base}/ready").status_code == 200
        return False

    def start_again(self) -> None:
        self.server.discard()
        self.server = Serving("--data", self.data).ready()
        self.base = self.server.base

    def check(self) -> None:
        """Each answer is in the ledger, nothing is there twice, and all of it is right."""
        said = bursar("psql", "--data", self.data, "--", "-Atc", LEDGER).stdout.splitlines()
        told = {key: json.loads(text, parse_float=Decimal) for key, text in self.answers.items()}
        assert sorted(said) == sorted(
            f"{key}|{each['operationId']}|{each['transferId']}|{int(each['amount'] * 10**6)}"
            for key, each in told.items()
        )
        for first in range(0, len(told), 500):
            self.ask_again(list(told)[first : first + 500])
        verified = bursar("verify", "--data", self.data)
        assert verified.code == 0, verified
        assert bursar("psql", "--data", self.data, "--", "-Atc", LEDGER).stdout.splitlines() == said

    def ask_again(self, keys: list[str]) -> None:
        charges = [{"key": key, **self.body(int(key.rpartition("-")[2]))} for key in keys]
        told = self.make(f"{CHARGES}/bulk", {"charges": charges})
        repeated = {"status": "charged", "replayed": True}
        assert told["outcomes"] == [
            {"key": key, **repeated, **json.loads(self.answers[key])} for key in keys
        ]


@pytest.fixture
def shop() -> Iterator[Shop]:
    folder = new_folder()
    opened = Shop(folder / "data")
    try:
        opened.open()
        yield opened
    finally:
        opened.server.discard()
        remove(folder)


@pytest.mark.timeout(1800)
def test_fifty_kills_under_load(shop: Shop) -> None:
    kills = [the_service] * SERVICE_KILLS + [a_backend] * BACKEND_KILLS
    kills += [the_postmaster] * POSTMASTER_KILLS
    random.shuffle(kills)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(shop.charge_on, client) for client in range(CLIENTS)]
        try:
            for victim in kills:
                answer_some(shop, clients)
                until(partial(killed, victim, shop), "somebody to kill")
                if victim is the_service:
                    shop.start_again()
            answer_some(shop, clients)
        finally:
            shop.closing = True
        for client in clients:
            client.result()
    assert shop.troubles >= len(kills)
    shop.check()
    assert shop.server.stop().code == 0


def answer_some(shop: Shop, clients: list[Future[None]]) -> None:
    """Until some more are answered: at a moment that nobody can foresee."""
    enough = len(shop.answers) + random.randrange(200)
    until(lambda: len(shop.answers) >= enough or any(each.done() for each in clients), "answers")
    for each in clients:
        if each.done():
            each.result()  # says why it went on no longer


def killed(victim: Callable[[Shop], int], shop: Shop) -> bool:
    """Nobody, while they come back from the kill before."""
    with suppress(psutil.Error, OSError):
        os.kill(victim(shop), signal.SIGKILL)
        return True
    return False


def the_service(shop: Shop) -> int:
    return shop.server.process.pid


def the_postmaster(shop: Shop) -> int:
    process = psutil.Process(postmaster(shop.data))
    if not process.cmdline():  # killed before, and not buried yet
        raise ProcessLookupError
    return int(process.pid)


def a_backend(shop: Shop) -> int:
    """One that charges."""
    children = psutil.Process(postmaster(shop.data)).children()
    charging = [child for child in children if "worker_user" in " ".join(child.cmdline())]
    if not charging:
        raise ProcessLookupError
    return int(random.choice(charging).pid)
