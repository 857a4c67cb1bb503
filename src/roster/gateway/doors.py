"""The doors: what every request passes before it reaches a route, whatever the route."""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from typing import TYPE_CHECKING

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from roster._clock import boottime
from roster._text import safe
from roster.gateway.problems import Problem, too_many
from roster.gateway.rates import Rates
from roster.gateway.sessions import read_cookie
from roster.gateway.tokens import ANYBODY, Principal

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

logger = logging.getLogger("roster.gateway")

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    # In the browser itself no text can become markup: no way in through innerHTML and the like.
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = [
    (b"content-security-policy", CSP.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_JSON = frozenset({"application/json", "application/merge-patch+json"})
_PROBES = frozenset({"/healthz", "/readyz"})
_OPEN = _PROBES | {"/", "/openapi.json", "/favicon.ico"}
SESSION = "/api/v1/session"
COMMANDS = re.compile(r"/api/v1/nodes/[^/]+/[^/]+/(?:commands(?:/.*)?|heartbeat)")
_OWN_NODE = re.compile(r"/api/v1/nodes(?:/[^/]+/[^/]+(?:/(?:drain|undrain|heartbeat|commands(?:/.*)?))?)?")
_CALLS = re.compile(r"/api/v1/calls?(?:/[^/]+)?")


class _GoneError(Exception):
    """The client is gone, or was too slow."""


class Doors:
    """Wraps the application. In order: host, origin, rate, token, role, kind and size of the body.

    Args:
        app: what is behind the doors.
        gateway: whose settings hold.
    """

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        settings = gateway.settings
        self._limits = limits = settings.limits
        self._names = {"localhost", settings.host.lower(), *(name.lower() for name in settings.names)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.origins}
        self._rates = Rates(limits.rate, limits.burst)
        self._failures = gateway.failures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            return  # there is no other kind here; uvicorn is told so, too
        began = boottime()
        status = 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        try:
            headers = Headers(scope=scope)
            try:
                principal = self._enter(scope, headers)
                scope.setdefault("state", {})["principal"] = principal
                if scope["method"] not in _SAFE:
                    receive = await self._body(headers, receive)
            except Problem as problem:
                self._refused(scope, problem)
                # What is left of the body is not read: the connection ends with this answer.
                problem.headers["connection"] = "close"
                await problem.response()(scope, receive, sending)
                return
            except _GoneError:
                return  # before it had said what it wanted; there is nobody to answer
            await self._app(scope, receive, sending)
        finally:
            self._gateway.metrics.request(scope, status, boottime() - began)

    def _refused(self, scope: Scope, problem: Problem) -> None:
        self._gateway.metrics.refused(problem.type)
        client = scope.get("client") or ("?", 0)
        logger.info(
            "refused %s %s of %s: %s", scope["method"], safe(scope["path"][:200]), client[0], problem.type
        )

    # -- who, and from where -----------------------------------------------------------------------

    def _enter(self, scope: Scope, headers: Headers) -> Principal | None:
        path, method = scope["path"], scope["method"]
        address = (scope.get("client") or ("", 0))[0]
        if path in _PROBES:
            self._limit(f"address {address}")
            return None  # a probe asks by address, under whatever name, and learns nothing
        # h11's own bound holds for headers that come in pieces alone.
        size = (
            len(scope["raw_path"])
            + len(scope["query_string"])
            + sum(len(k) + len(v) for k, v in scope["headers"])
        )
        if size > self._limits.header_bytes:
            raise Problem(431, "too-large", f"the headers are larger than {self._limits.header_bytes} bytes")
        self._check_host(headers)
        self._check_origin(method, headers)
        principal, by_cookie = self._identify(headers, address)
        self._limit(
            f"token {principal.digest}"
            if principal is not None and principal.digest
            else f"address {address}"
        )
        if path in _OPEN or path.startswith("/static/") or path == SESSION:
            return principal
        if principal is None:
            raise Problem(
                401,
                "unauthorized",
                "a token is needed that is known here and in force: Authorization: Bearer TOKEN",
                headers={"www-authenticate": 'Bearer realm="roster"'},
            )
        if not may(principal, method, path):
            raise Problem(
                403, "forbidden", f"{principal.name}, a {principal.role}, may not {method} {path[:200]}"
            )
        if by_cookie and method not in _SAFE and not self._says_origin(headers):
            raise Problem(
                403, "foreign-origin", "with the cookie a change must say from which page it comes (Origin)"
            )
        return principal

    def _check_host(self, headers: Headers) -> None:
        """Against DNS rebinding: a page's own name that leads here. An address needs no name, so it cannot be one."""
        given = headers.getlist("host")
        if len(given) != 1:
            raise Problem(400, "invalid-argument", f"expected one Host header, found {len(given)}")
        if not self._is_ours(given[0]):
            raise Problem(
                421,
                "unknown-host",
                "the Host is none of this gateway's names; one more is made known with --name HOST",
            )

    def _is_ours(self, host: str) -> bool:
        name = host_name(host)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    def _check_origin(self, method: str, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is not None:
            if not self._is_known(origin, headers["host"]):
                raise Problem(
                    403,
                    "foreign-origin",
                    "the page comes from elsewhere; its origin is let in with --origin URL",
                )
            return
        site = headers.get("sec-fetch-site", "none")
        navigating = headers.get("sec-fetch-mode") == "navigate" and method in _SAFE
        if site in ("cross-site", "same-site") and not navigating:
            raise Problem(403, "foreign-origin", f"the page that asks comes from elsewhere ({site})")

    def _is_known(self, origin: str, host: str) -> bool:
        origin = origin.lower()
        return origin in self._origins or origin.partition("://")[2] == host.lower()

    @staticmethod
    def _says_origin(headers: Headers) -> bool:
        return "origin" in headers or headers.get("sec-fetch-site") == "same-origin"

    def _identify(self, headers: Headers, address: str) -> tuple[Principal | None, bool]:
        """Return who it is, None if nobody who is known; and whether the cookie says so."""
        tokens = self._gateway.tokens
        if tokens is None:
            return ANYBODY, False
        given = headers.get("authorization")
        cookie = read_cookie(headers.get("cookie", ""))
        if given is None and cookie is None:
            return None, False
        if given is not None:
            scheme, _, token = given.partition(" ")
            found = tokens.find(token.strip()) if scheme.lower() == "bearer" else None
        else:
            digest = self._gateway.sessions.find(cookie or "")
            found = tokens.of_digest(digest) if digest is not None else None
        if found is None or found.expired(time.time()):
            # Whoever has a token that is in force is let in all the same: behind a proxy all have one address.
            if wait := self._failures.take(address):
                raise too_many(wait, "too many wrong tokens came from this address")
            return None, False
        return found, given is None

    def _limit(self, key: str) -> None:
        if wait := self._rates.take(key):
            raise too_many(wait, "too many requests")

    # -- what it brings ----------------------------------------------------------------------------

    async def _body(self, headers: Headers, receive: Receive) -> Receive:
        """Read the body, as far as it may be; return what gives it once more."""
        size = headers.get("content-length")
        if size is not None and int(size) > self._limits.body_bytes:  # h11 has seen that it is a number
            raise self._too_large()
        chunks: list[bytes] = []
        read = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _GoneError
            chunk = message.get("body", b"")
            read += len(chunk)
            if read > self._limits.body_bytes:
                raise self._too_large()
            chunks.append(chunk)
            if not message.get("more_body", False):
                break
        body = b"".join(chunks)
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if body and kind not in _JSON:
            # A form of a foreign page can send anything but this without asking first.
            raise Problem(415, "not-json", "the body must be JSON: Content-Type: application/json")
        given = False

        async def again() -> Message:
            nonlocal given
            if not given:
                given = True
                return {"type": "http.request", "body": body, "more_body": False}
            return await receive()

        return again

    def _too_large(self) -> Problem:
        return Problem(413, "too-large", f"the body is larger than {self._limits.body_bytes} bytes")


def host_name(host: str) -> str | None:
    """Return the name or address of a Host header, without port and brackets, in small letters; None if it is none."""
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?", host)
    if match is None:
        return None
    return (match[1] or match[2]).lower().rstrip(".")


def may(principal: Principal, method: str, path: str) -> bool:
    """Return whether a role may do this. Which node, a node's token is asked again behind the door."""
    if principal.role == "operator":
        return True
    if COMMANDS.fullmatch(path):
        return principal.role == "node"
    if method in _SAFE:
        return True
    if principal.role == "node":
        return _OWN_NODE.fullmatch(path) is not None or (
            principal.calls and _CALLS.fullmatch(path) is not None
        )
    return False
