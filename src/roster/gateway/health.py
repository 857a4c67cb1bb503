"""Routes for whoever watches over the gateway itself: `/healthz` and `/readyz`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import Response

from roster.gateway.common import JSON
from roster.gateway.encoding import encode
from roster.gateway.schemas import Health

if TYPE_CHECKING:
    from roster.gateway.core import Gateway


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["health"])
    headers = {"cache-control": "no-store"}

    @routes.get("/healthz", response_model=Health, response_model_exclude_none=True, summary="Does it live?")
    async def healthz() -> Response:
        """200 as long as the process answers. A store that is away does not kill the gateway: its copy goes on serving."""
        return Response(encode({"status": "ok"}), media_type=JSON, headers=headers)

    @routes.get(
        "/readyz",
        response_model=Health,
        response_model_exclude_none=True,
        responses={
            503: {"model": Health, "description": "It has no copy of the registry yet, or is leaving."}
        },
        summary="Is it ready?",
    )
    async def readyz() -> Response:
        """200 when the copy of the registry is there. While the store is away it stays ready: `staleness` says how old the
        copy is."""
        reason = gateway.not_ready
        if reason is not None:
            return Response(
                encode({"status": "not ready", "reason": reason}), 503, media_type=JSON, headers=headers
            )
        found = {
            "status": "ok",
            "staleness": round(gateway.staleness, 3),
            "nodes": len(gateway.registry.informer.catalog.index.by_key),
        }
        return Response(encode(found), media_type=JSON, headers=headers)

    return routes
