"""The doors: what every request passes before it reaches a route, whatever the route."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

if TYPE_CHECKING:
    from roster.gateway.core import Gateway


class Doors:
    """Wraps the application.

    Args:
        app: what is behind the doors.
        gateway: whose settings hold.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        await self._app(scope, receive, send)
