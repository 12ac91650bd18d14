"""What Prometheus reads: requests by route and status, how long they took, what is at work."""

import hmac
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from socketserver import TCPServer, ThreadingMixIn
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from fastapi import APIRouter, Request
from fastapi.responses import Response
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
    multiprocess,
)

from bursar.core.errors import BursarError, NotFound
from bursar.core.settings import Settings

log = logging.getLogger("bursar.metrics")

MAX_SCRAPES = 8  # at once
SCRAPE_SECONDS = 10
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)

requests_total = Counter(
    "bursar_requests_total", "Answered requests.", ("method", "route", "status")
)
request_seconds = Histogram(
    "bursar_request_seconds", "Time from head to last byte.", ("route",), buckets=BUCKETS
)
requests_in_flight = Gauge(
    "bursar_requests_in_flight",
    "Requests at work, without those that wait for their client.",
    multiprocess_mode="livesum",
)
refused_total = Counter(
    "bursar_refused_total",
    "Requests refused before the application saw them, so not in bursar_requests_total.",
    ("reason",),
)

router = APIRouter(include_in_schema=False)
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def count(method: str, route: str, status: int, seconds: float) -> None:
    """One answered request."""
    method = method if method in METHODS else "other"  # a caller may make up methods without end
    total, histogram = figures(method, route, status)
    total.inc()
    histogram.observe(seconds)


@cache
def figures(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    """As many as there are routes and statuses; `labels` would lock and check each time."""
    return requests_total.labels(method, route, status), request_seconds.labels(route)


def count_refused(reason: str) -> None:
    """One request that the server itself turned away."""
    refused_total.labels(reason).inc()


class MetricsHidden(BursarError, status=401, code="metrics.token_needed"):
    """/metrics beside the API is for whoever sends BURSAR_METRICS_TOKEN as a bearer token."""


@router.get("/metrics")
async def read_metrics(request: Request) -> Response:
    settings: Settings = request.app.state.settings
    if settings.metrics_token is None:
        raise NotFound("Metrics are off here; set BURSAR_METRICS_TOKEN or BURSAR_METRICS_PORT.")
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    token = settings.metrics_token.get_secret_value().encode()
    same = hmac.compare_digest(sent.strip(" ").encode("latin-1"), token)
    if scheme.lower() != "bearer" or not same:
        raise MetricsHidden(
            "Send the metrics token as a bearer token.", headers={"WWW-Authenticate": "Bearer"}
        )
    return Response(render(), media_type=CONTENT_TYPE_LATEST)


def render() -> bytes:
    """This process's figures, or those of all workers where several share a folder."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def forget_process(pid: int) -> None:
    """What a process of several had at work is gone with it; what it counted stays."""
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        multiprocess.mark_process_dead(pid)  # type: ignore[no-untyped-call]


def serve_alone(host: str, port: int) -> WSGIServer:
    """On a port of its own, in threads: no token, so the port is for the inside only."""
    try:
        server = Exporter(host, port)
    except (OSError, UnicodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise MetricsPort(
            f"Port {port} for metrics cannot be used ({why}): set BURSAR_METRICS_PORT."
        ) from None
    server.set_app(answer_alone)
    Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server


class MetricsPort(BursarError, status=503, code="metrics.port", exit_code=5):
    """The port of BURSAR_METRICS_PORT cannot be used."""


class Exporter(ThreadingMixIn, WSGIServer):
    """Few scrapes at once and none for long: a client that stays silent keeps nobody out."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        found = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        first = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        self.address_family = first[0]
        self.since: dict[Any, float] = {}
        super().__init__(first[4], Silent)  # type: ignore[arg-type]

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # the one between asks the name service who we are
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        self.setup_environ()

    def process_request(self, request: Any, client_address: Any) -> None:
        if len(self.since) >= MAX_SCRAPES:
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\n\r\n")
            self.shutdown_request(request)
            return
        self.since[request] = time.monotonic()
        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Twice a second: a time-out of each read alone would let a client drip for ever."""
        for request, since in list(self.since.items()):
            if time.monotonic() - since > SCRAPE_SECONDS:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)  # its thread wakes up and ends

    def shutdown_request(self, request: Any) -> None:
        self.since.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.info("a scrape broke off", exc_info=True)


class Silent(WSGIRequestHandler):
    """No line per scrape."""

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name it has there
        return


def answer_alone(environment: dict[str, Any], start: Callable[..., Any]) -> list[bytes]:
    if environment["PATH_INFO"] != "/metrics":
        start("404 Not Found", [("Content-Type", "text/plain")])
        return [b"Metrics are at /metrics.\n"]
    start("200 OK", [("Content-Type", CONTENT_TYPE_LATEST)])
    return [render()]
