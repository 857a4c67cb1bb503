"""Puts the routes together to one ASGI application, with its description and its errors."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roster._text import safe
from roster._version import __version__
from roster.errors import RosterError
from roster.gateway import (
    call_routes,
    capabilities,
    changes,
    graph_routes,
    health,
    lookups,
    member_routes,
    nodes,
    run_routes,
    session_routes,
)
from roster.gateway.common import ERRORS
from roster.gateway.core import Gateway
from roster.gateway.doors import COMMANDS, Doors
from roster.gateway.problems import Problem, problem_of
from roster.gateway.schemas import ProblemShape

logger = logging.getLogger("roster.gateway")

STATIC = Path(__file__).parent / "static"
_MAX_FAULTS = 50
_ABOUT = """Nodes, capabilities, calls and runs of a team of AI agents.

Every error is an RFC 9457 problem document. Lists come in pages (`limit`, `page`, `next`). Answers carry weak ETags.
`GET /api/v1/watch` tells what changes, as server-sent events."""


def create_app(gateway: Gateway) -> ASGIApp:
    """Return the application of an open gateway, doors included."""
    api = create_api(gateway)
    return Doors(Heads(Quick(GZipMiddleware(api, minimum_size=1024, compresslevel=5), gateway)), gateway)


class Heads:
    """Answers HEAD as GET without its content, but where a GET takes a command from a node's queue.

    Source: RFC 9110, section 9.3.2.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["method"] != "HEAD" or COMMANDS.fullmatch(scope["path"]):
            await self._app(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            # All is said with the head: the server then tells a stream that its reader is gone.
            if message["type"] == "http.response.start":
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        asked = {**scope, "method": "GET"}
        try:
            await self._app(asked, receive, sending)
        finally:
            # The metrics count by it.
            scope.setdefault("route", asked.get("route"))


class Quick:
    """Answers the plainest lookup, `find` by capability, as the route does and without the way there, which is longer than
    the lookup: it is what orchestrators ask all the time (`make bench`).
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["path"] == "/api/v1/find" and scope["method"] == "GET" and not self._gateway.not_ready:
            plain = lookups.plain_query(scope["query_string"])
            # Whoever wants it compressed goes the long way.
            if plain is not None and not any(
                name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"]
            ):
                scope["route"] = _FIND
                response = await lookups.look_up(self._gateway, Request(scope), *plain)
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Fresh(StaticFiles):
    """The dashboard's files: asked for anew each time (304 mostly), so that an upgrade never mixes old modules with new."""

    def file_response(self, *args: Any, **options: Any) -> Response:
        """Return a file."""
        response = super().file_response(*args, **options)
        response.headers["cache-control"] = "no-cache"
        return response


class _Find:
    path = "/api/v1/find"


_FIND = _Find()


def create_api(gateway: Gateway) -> FastAPI:
    """Return the application without its doors: whoever reaches it is let in."""
    app = FastAPI(
        title="Roster",
        version=__version__,
        description=_ABOUT,
        openapi_url=None,  # our own route below: the description is made once
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    for module in (
        health,
        session_routes,
        nodes,
        changes,
        member_routes,
        capabilities,
        lookups,
        call_routes,
        run_routes,
        graph_routes,
    ):
        app.include_router(module.router(gateway))
    description: list[dict[str, Any]] = []

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        from roster.gateway.encoding import encode

        if not description:
            description.append(describe(app))
        return Response(encode(description[0]), media_type="application/json")

    @app.get(
        "/metrics",
        tags=["health"],
        summary="Metrics for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}, **ERRORS()},
    )
    async def metrics() -> Response:
        """Prometheus' text format; the names are in docs/gateway.md."""
        return Response(
            gateway.metrics.text(), media_type=CONTENT_TYPE_LATEST, headers={"cache-control": "no-store"}
        )

    app.mount("/static", Fresh(directory=STATIC), name="static")

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html; charset=utf-8")

    _add_errors(app)
    return app


def describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI 3.1 description."""
    found = get_openapi(
        title=app.title,
        version=app.version,
        openapi_version="3.1.0",
        description=app.description,
        routes=app.routes,
    )
    components = found.setdefault("components", {})
    shapes = components.setdefault("schemas", {})
    problem = ProblemShape.model_json_schema(ref_template="#/components/schemas/{model}")
    shapes.update(problem.pop("$defs", {}))
    shapes["ProblemShape"] = problem
    for unused in ("HTTPValidationError", "ValidationError"):
        shapes.pop(unused, None)
    components["securitySchemes"] = {
        "token": {
            "type": "http",
            "scheme": "bearer",
            "description": "A token of the token file, see docs/gateway.md.",
        }
    }
    found["security"] = [{"token": []}]
    return found


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(_: Request, problem: Problem) -> Response:
        return problem.response()

    @app.exception_handler(RosterError)
    async def on_error(request: Request, error: RosterError) -> Response:
        problem = problem_of(error)
        if problem.status == 500:
            logger.error("%s %s failed", request.method, safe(request.url.path), exc_info=error)
        return problem.response()

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: RequestValidationError) -> Response:
        faults = [
            {"path": ".".join(map(str, fault["loc"])), "message": str(fault["msg"])}
            for fault in error.errors()[:_MAX_FAULTS]
        ]
        if any(fault["type"] == "json_invalid" for fault in error.errors()):
            return Problem(400, "invalid-json", "the body is not JSON", errors=faults).response()
        said = "; ".join(f"{fault['path']}: {fault['message']}" for fault in faults[:3])
        return Problem(422, "invalid-request", f"the request is wrong: {said}", errors=faults).response()

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        words = {404: "not-found", 405: "method-not-allowed"}
        detail = f"{request.method} {request.url.path}: {error.detail}"
        return Problem(
            error.status_code, words.get(error.status_code, "http-error"), detail, headers=error.headers
        ).response()

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        logger.error("%s %s failed", request.method, safe(request.url.path), exc_info=error)
        return Problem(
            500, "internal", "the gateway failed; this is a defect in Roster, its log says more"
        ).response()
