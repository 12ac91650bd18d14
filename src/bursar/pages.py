"""The pages that come with the API: its documentation, without any network, and its errors."""

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bursar.auth.guard import everyone
from bursar.client.refusals import REFUSALS, UNREACHABLE
from bursar.core.problems import error_page

router = APIRouter(include_in_schema=False, dependencies=[everyone])

# Swagger UI puts styles on elements and draws its icons from data: URLs.
POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
CACHE = {"Cache-Control": "public, max-age=3600"}

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Bursar API</title>
<link rel="stylesheet" href="/docs/assets/swagger-ui.css">
</head>
<body>
<div id="docs"></div>
<script src="/docs/assets/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""

SCRIPT = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""


@router.get("/")
async def front() -> Response:
    return RedirectResponse("/docs", status_code=302)


@router.get("/docs")
async def documentation() -> Response:
    return HTMLResponse(PAGE, headers={**CACHE, "Content-Security-Policy": POLICY})


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(SCRIPT, media_type="text/javascript", headers=CACHE)


@router.get("/docs/errors")
async def errors() -> Response:
    told_by_middleware = [*REFUSALS.values(), UNREACHABLE]
    return HTMLResponse(error_page(told_by_middleware), headers=CACHE)
