"""Routes by which a browser exchanges a token for a cookie, and asks who it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Request
from pydantic import Field
from starlette.responses import Response

from roster.gateway.common import ERRORS, JSON
from roster.gateway.encoding import encode
from roster.gateway.problems import Problem, too_many
from roster.gateway.schemas import Shape
from roster.gateway.sessions import COOKIE, LIFETIME, read_cookie
from roster.gateway.tokens import Principal

if TYPE_CHECKING:
    from roster.gateway.core import Gateway


class Login(Shape):
    """A token to be exchanged."""

    token: Annotated[str, Field(min_length=1, max_length=1000)]


class Who(Shape):
    """Who somebody is."""

    authenticated: bool
    name: str | None = None
    role: str | None = None
    tokens: bool = Field(description="Whether this gateway asks for tokens at all.")


def router(gateway: Gateway) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(prefix="/api/v1", tags=["session"])

    def who(principal: Principal | None, cookie: str | None = None) -> Response:
        found = {
            "authenticated": principal is not None,
            "name": principal.name if principal is not None else None,
            "role": principal.role if principal is not None else None,
            "tokens": gateway.tokens is not None,
        }
        headers = {"cache-control": "no-store"}
        if cookie is not None:
            headers["set-cookie"] = cookie
        return Response(encode(found), media_type=JSON, headers=headers)

    @routes.get("/session", response_model=Who, responses=ERRORS(), summary="Who am I?")
    async def get_session(request: Request) -> Response:
        """Who the token or the cookie says that one is. Open to everybody."""
        return who(request.state.principal)

    @routes.post("/session", response_model=Who, responses=ERRORS(), summary="Begin a session")
    async def begin_session(request: Request, login: Login) -> Response:
        """Exchange a token for a cookie, for browsers."""
        if gateway.tokens is None:
            return who(request.state.principal)
        address = request.client.host if request.client is not None else ""
        found = gateway.tokens.find(login.token)
        if found is None or found.expired(time.time()):
            if wait := gateway.failures.take(address):
                raise too_many(wait, "too many wrong tokens came from this address")
            raise Problem(401, "unauthorized", "the token is not known here, or not in force any more")
        # A proxy that ends TLS says so in Origin: then the cookie never travels without it.
        secure = "; Secure" if request.headers.get("origin", "").startswith("https://") else ""
        value = gateway.sessions.begin(found.digest)
        return who(
            found, f"{COOKIE}={value}; Path=/; Max-Age={int(LIFETIME)}; HttpOnly; SameSite=Strict{secure}"
        )

    @routes.delete("/session", response_model=Who, responses=ERRORS(), summary="End the session")
    async def end_session(request: Request) -> Response:
        """End the session of the cookie."""
        value = read_cookie(request.headers.get("cookie", ""))
        if value is not None:
            gateway.sessions.end(value)
        return who(None, f"{COOKIE}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict")

    return routes
