"""Makes very many customers fast: without the indexes of their table, which are built afterwards.

Names are as uneven as people's are: a few are had by many, most by few. A quarter has an address
at one provider. The same customers are made in every run.
"""

import random
import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import accumulate, islice, product
from typing import NamedTuple

import asyncpg

PIECE = 20_000
FIRST = (
    "Anna Mary James Wei Mohammed Maria John Fatima Li Jürgen Emine Lian David Sofia Olga Ahmed "
    "Priya Ivan Chloé Björn Aiko Thabo Luca Zoë Annika Hans Ingrid Rahul Mei Carlos Lucía Pierre"
)
LAST = (
    "Smith Nguyen Garcia Müller Kim Li Khan Silva Ivanov Karaoğlu Jones Wang Rossi Dubois Novák "
    "Hansen Okafor Tanaka Sato Haddad Cohen Andersson O'Brien García Lindqvist Anders Martin"
)
SYLLABLES = "ba ka lo mi ra ne tor vin sel dan gu hol per zi mar tal wen jo fer qui"
DOMAINS = ("gmail.com", "outlook.com", "fastmail.com", "example.org")
SHARES = (25, 12, 3, 5)  # per cent; the others have one of very many small domains
STATUSES, STATUS_SHARES = ("active", "suspended", "pending", "deleted"), (90, 3, 5, 2)
TIERS, TIER_SHARES = ("free", "pro", "enterprise"), (85, 13, 2)
ROLES, ROLE_SHARES = ("individual_client", "business_client", "partner"), (80, 18, 2)
START = datetime(2020, 1, 1, tzinfo=UTC)


class Person(NamedTuple):
    """A row as COPY writes it."""

    email: str
    username: str | None
    name: str
    first_name: str
    last_name: str
    tier: str
    status: str
    role: str
    created_at: datetime
    deleted_at: datetime | None  # just now: nobody is erased while the server runs
    email_verified: bool = True


async def fill(url: str, people: int) -> Person:
    """As the superuser; answers one who is there, has a username and is active."""
    connection = await asyncpg.connect(url)
    known: Person | None = None
    try:
        await connection.execute("set session_replication_role = replica")  # no triggers
        await connection.execute("set maintenance_work_mem = '512MB'")
        indexes = await connection.fetch(
            "select indexname, indexdef from pg_indexes where tablename = 'users' "
            "and indexname not in (select conname from pg_constraint)"
        )
        for index in indexes:
            await connection.execute(f"drop index {index['indexname']}")
        everybody = crowd(people)
        for _ in range(0, people, PIECE):
            rows = [*islice(everybody, PIECE)]
            await connection.copy_records_to_table("users", records=rows, columns=Person._fields)
            known = known or next(r for r in rows if r.username and r.status == "active")
        for index in indexes:
            await connection.execute(index["indexdef"])
        await connection.execute("vacuum (analyze) users")
    finally:
        await connection.close()
    if known is None:
        raise ValueError("nobody was made")
    return known


def crowd(people: int) -> Iterator[Person]:
    chance = random.Random(7)
    now, syllables = datetime.now(UTC), SYLLABLES.split()
    firsts, lasts = names(chance, FIRST.split(), 400, 2), names(chance, LAST.split(), 6_000, 3)
    for number in range(people):
        first, last = firsts(), lasts()
        local = ascii_letters(f"{first}.{last}")
        domain = chance.choices(
            (*DOMAINS, f"{chance.choice(syllables)}{number % 20_000}.example.com"),
            (*SHARES, 100 - sum(SHARES)),
        )[0]
        status = chance.choices(STATUSES, STATUS_SHARES)[0]
        yield Person(
            f"{local}{number}@{domain}",
            f"{local[:3]}_{number:x}" if chance.random() < 0.6 else None,
            f"{first} {last}",
            first,
            last,
            chance.choices(TIERS, TIER_SHARES)[0],
            status,
            chance.choices(ROLES, ROLE_SHARES)[0],
            START + timedelta(seconds=number * 150 + chance.randrange(3_600)),
            now if status == "deleted" else None,
        )


def ascii_letters(text: str) -> str:
    """As people write their names in addresses."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return plain.replace("'", "")


class names:  # noqa: N801 - reads as what it gives
    """Names by how common they are: the tenth is had by a tenth of those who have the first."""

    def __init__(self, chance: random.Random, real: list[str], number: int, syllables: int) -> None:
        made = [
            "".join(parts).capitalize() for parts in product(SYLLABLES.split(), repeat=syllables)
        ]
        self.chance = chance
        self.all = real + chance.sample(made, min(number, len(made)))
        self.weights = [*accumulate(1 / (rank + 3) for rank in range(len(self.all)))]

    def __call__(self) -> str:
        return self.chance.choices(self.all, cum_weights=self.weights)[0]
