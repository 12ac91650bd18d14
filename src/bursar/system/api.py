"""What machines ask: is the process alive, may it take traffic."""

from fastapi import APIRouter, Request, Response

from bursar.auth.guard import everyone
from bursar.core.wire import Route
from bursar.system import health
from bursar.system.schemas import Alive, Ready

router = APIRouter(tags=["system"], route_class=Route, dependencies=[everyone])


@router.get("/health")
@router.get("/api/v1/health", operation_id="system_health_api")
async def alive() -> Alive:
    """The process answers; it looks at nothing else."""
    return Alive()


@router.get("/ready", responses={503: {"model": Ready, "description": "Not now."}})
async def ready(request: Request, response: Response) -> Ready:
    """Whether this process may take traffic: database, migrations, worker."""
    answer = await health.ready(request.app.state)
    response.status_code = 200 if answer.status == "ready" else 503
    return answer
