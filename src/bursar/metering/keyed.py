"""Reports with an Idempotency-Key: what they count and their answer are kept in one transaction."""

from collections.abc import Awaitable, Callable

from fastapi import Request, Response

from bursar.core import idempotency
from bursar.core.database import WORKER, Database, Within
from bursar.core.seal import Seal
from bursar.metering.desk import KeyedQuestion

Counts = Callable[[Database | Within], Awaitable[Response]]


async def once(request: Request, counts: Counts) -> Response:
    """Without a key it is one statement, by itself: events that have ids need none."""
    if "idempotency-key" not in request.headers:
        return await counts(request.app.state.database)

    async def in_transaction(request: Request) -> Response:
        return await counts(Within(request.state.db))

    return await idempotency.kept(request, in_transaction, WORKER)


async def question(request: Request) -> KeyedQuestion | None:
    """What keys/verify keeps of a key: that it was used for this request, and not its answer. Who
    asks again is told what holds now, or a key that has ended since would go on being good."""
    if (key := idempotency.given_key(request)) is None:
        return None
    seal: Seal = request.app.state.seal
    content = await idempotency.content_of(request)
    return KeyedQuestion(idempotency.whose(request), key, seal.marks(content), seal.close(b""))
