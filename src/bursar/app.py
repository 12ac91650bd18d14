"""Builds the ASGI application: the only file that knows every router."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.staticfiles import StaticFiles
from starlette.types import ASGIApp

import bursar
from bursar import pages
from bursar.accounts import admin as accounts_admin
from bursar.accounts import api as accounts_api
from bursar.accounts import (
    customer_door,
    first_run,
    oidc_api,
    oidc_provider,
    staff_admin,
    staff_door,
)
from bursar.audit import admin as audit_admin
from bursar.auth.endings import Endings
from bursar.auth.guard import Identify
from bursar.auth.tokens import Tokens
from bursar.billing import admin as billing_admin
from bursar.billing import api as billing_api
from bursar.billing import paying as billing_paying
from bursar.booking import admin as booking_admin
from bursar.booking import api as booking_api
from bursar.booking import appointments_admin, training_api, trainings_admin
from bursar.booking import paying as booking_paying
from bursar.core import hot, metrics, openapi, problems
from bursar.core.database import Database
from bursar.core.edge import Edge
from bursar.core.hot import ShortWays, TakeShortWays
from bursar.core.limits import Limits
from bursar.core.notices import Notices
from bursar.core.seal import Seal
from bursar.core.settings import Settings
from bursar.keys import admin as keys_admin
from bursar.keys import api as keys_api
from bursar.keys.keyring import Keyring
from bursar.metering import admin as metering_admin
from bursar.metering import api as metering_api
from bursar.metering import verifying
from bursar.metering.desk import Desk
from bursar.metering.pace import Pace
from bursar.payments import admin as payments_admin
from bursar.payments import api as payments_api
from bursar.payments import (
    bank_admin,
    demo_page,
    funds,
    methods_api,
    receipts_api,
    reconciliation_admin,
)
from bursar.payments import webhooks as payments_webhooks
from bursar.payments.intake import Intake
from bursar.payments.providers import registry
from bursar.rewards import admin as rewards_admin
from bursar.rewards import api as rewards_api
from bursar.system import admin as system_admin
from bursar.system import api as system
from bursar.wallets import admin as wallets_admin
from bursar.wallets import api as wallets_api
from bursar.wallets.till import Till
from bursar.webhooks import admin as webhooks_admin

PURPOSES = (billing_paying, booking_paying)  # importing them says what payments may be for

EVERYBODYS_ROUTERS = (
    system.router,
    metrics.router,
    pages.router,
    first_run.router,
    demo_page.router,
    receipts_api.page_router,
)
CUSTOMER_ROUTERS = (
    customer_door.router,
    oidc_api.router,
    accounts_api.router,
    wallets_api.router,
    rewards_api.router,
    payments_webhooks.router,
    payments_api.router,
    funds.router,
    booking_api.router,
    training_api.router,
    keys_api.router,
    verifying.router,
    billing_api.router,
    metering_api.router,
    receipts_api.router,
    methods_api.router,
)
STAFF_ROUTERS = (
    staff_door.router,
    oidc_api.staff_router,
    staff_admin.router,
    accounts_admin.router,
    audit_admin.router,
    webhooks_admin.router,
    wallets_admin.router,
    rewards_admin.router,
    payments_admin.router,
    booking_admin.router,
    appointments_admin.router,
    trainings_admin.router,
    keys_admin.router,
    metering_admin.router,
    billing_admin.router,
    receipts_api.staff_router,
    methods_api.staff_router,
    reconciliation_admin.router,
    bank_admin.router,
    system_admin.router,
)


class Application(FastAPI):
    """FastAPI without what it puts around our own middleware: Edge is the last resort of a request,
    Limits bound its body, and both cost it less."""

    def build_middleware_stack(self) -> ASGIApp:
        stack: Any = super().build_middleware_stack()
        while not isinstance(stack, Edge):
            stack = stack.app
        return stack


def create_app(settings: Settings, database_url: str) -> FastAPI:
    """The whole API over one database; nothing is opened before the first request."""
    app = Application(
        title="Bursar",
        version=bursar.__version__,
        description="The back office for a product that takes money.",
        docs_url=None,
        redoc_url=None,
        openapi_url="/openapi.json",
        redirect_slashes=False,
        lifespan=lifespan,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # ours is core/metrics.py
    )
    app.state.settings = settings
    app.state.database = Database(database_url, settings)
    app.state.stopping = asyncio.Event()
    problems.install(app)
    app.state.seal = Seal(settings.secret_keys, "idempotency")
    app.state.ways = ShortWays()
    app.state.tokens = Tokens(settings.secret_keys)
    app.state.oidc_providers = oidc_provider.providers(settings)
    app.state.notices = Notices(app.state.database)
    app.state.endings = Endings(app.state.database)
    app.state.endings.watch(app.state.notices)
    app.state.keyring = Keyring(app.state.database, app.state.notices)
    app.state.till = Till(app.state.database)
    app.state.providers = registry.providers(settings)
    app.state.desk = Desk(app.state.database)
    app.state.intake = Intake(app.state.database)
    install_middleware(app, settings)
    install_routes(app)
    know_routes(app)
    openapi.install(app)
    return app


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with app.state.notices.listening():
        yield
    await app.state.till.close()
    await app.state.intake.close()
    await app.state.providers.close()
    await app.state.desk.close()
    await app.state.database.close()


def install_middleware(app: FastAPI, settings: Settings) -> None:
    """The last one added is the first one that a request meets."""
    app.add_middleware(TakeShortWays, ways=app.state.ways)
    app.add_middleware(Pace, desk=app.state.desk)
    app.add_middleware(
        Identify,
        tokens=app.state.tokens,
        endings=app.state.endings,
        keyring=app.state.keyring,
    )
    app.add_middleware(
        Limits,
        max_in_flight=settings.max_in_flight,
        max_body_bytes=settings.max_body_bytes,
        max_batch_bytes=settings.max_batch_bytes,
        batch_paths=app.state.ways.batch_paths,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=[
                "Authorization",
                "Content-Type",
                "Idempotency-Key",
                "If-Match",
                "If-None-Match",
                "X-API-Key",
                "X-Request-Id",
            ],
            expose_headers=[
                "ETag",
                "X-Request-Id",
                "Idempotent-Replayed",
                "RateLimit",
                "RateLimit-Policy",
                "Retry-After",
            ],
        )
    app.add_middleware(Edge)


def install_routes(app: FastAPI) -> None:
    app.router.routes.extend(every_route().routes)
    assets = Path(fastapi_offline.__file__).parent / "static"
    app.mount("/docs/assets", StaticFiles(directory=assets))


@cache
def every_route() -> APIRouter:
    """The same for every application: FastAPI takes long to work them out, a test makes many."""
    router = APIRouter(redirect_slashes=False, generate_unique_id_function=operation_id)
    for open_to_all in EVERYBODYS_ROUTERS:
        router.include_router(open_to_all)
    for of_customers in CUSTOMER_ROUTERS:
        router.include_router(of_customers, prefix="/api/v1")
    for of_staff in STAFF_ROUTERS:
        router.include_router(of_staff, prefix="/api/v1/admin")
    return router


def know_routes(app: FastAPI) -> None:
    """What is asked of a route at every call, worked out once."""
    contexts = list(iter_route_contexts(app.routes))
    app.state.route_paths = {id(each.original_route): each.path_format for each in contexts}
    app.state.guards = {
        id(each.original_route): [
            inner.call for inner in each.dependant.dependencies if hot.is_guard(inner.call)
        ]
        for each in contexts
        if isinstance(each.original_route, APIRoute)
    }
    app.state.ways.collect(app)


def operation_id(route: APIRoute) -> str:
    """Stable for generated clients: area, then the name of the function."""
    area = "admin" if "/admin/" in route.path else "".join(str(tag) for tag in route.tags[:1])
    return f"{area}_{route.name}"
