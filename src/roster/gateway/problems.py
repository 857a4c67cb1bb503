"""Errors as RFC 9457 problem documents: one shape for every refusal."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.responses import Response

from roster.errors import (
    AllNodesBusyError,
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    ConfigError,
    DocumentError,
    InvalidParamsError,
    MessageError,
    NameConflictError,
    NoCapableNodesError,
    NodeNotFoundError,
    RegistryError,
    RosterError,
    RunConflictError,
    RunNotFoundError,
    RunsUnavailableError,
    SelectorError,
    StoreDeniedError,
    StoreError,
)
from roster.gateway.encoding import encode

MEDIA_TYPE = "application/problem+json"
_MAX_DETAIL = 4000
_MAX_LISTED = 50


class Problem(Exception):
    """A refusal on its way to the client.

    Args:
        status: of HTTP.
        type: the last word of the problem's type, such as `not-found`.
        detail: what was asked, what is wrong, and what to do.
        headers: of the answer.
        more: further members of the document.
    """

    def __init__(
        self, status: int, type: str, detail: str, *, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.detail = detail
        self.headers = dict(headers or {})
        self.more = more

    def document(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "type": f"urn:roster:problem:{self.type}",
            "title": _title(self.status),
            "status": self.status,
            "detail": self.detail[:_MAX_DETAIL],
            **self.more,
        }

    def response(self) -> Response:
        """Return the answer."""
        return Response(
            encode(self.document()),
            self.status,
            media_type=MEDIA_TYPE,
            headers={"cache-control": "no-store", **self.headers},
        )


def too_many(wait: float, what: str) -> Problem:
    """Return the refusal of who comes too often; `wait` is seconds."""
    return Problem(
        429,
        "too-many-requests",
        f"{what}; wait a little",
        headers={"retry-after": str(max(1, round(wait + 0.5)))},
    )


def _title(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def problem_of(error: RosterError) -> Problem:
    """Return what a client is told of an error of the layers below."""
    if isinstance(error, CallError):
        return _of_call(error)
    if isinstance(error, DocumentError):
        return Problem(
            422,
            "invalid-document",
            "the document is wrong; `errors` says where",
            errors=[{"path": fault.path, "message": fault.message} for fault in error.faults[:_MAX_LISTED]],
        )
    text = str(error)
    if isinstance(error, SelectorError):
        return Problem(400, "invalid-selector", text)
    if isinstance(error, ConfigError):
        return Problem(400, "invalid-argument", text)
    if isinstance(error, NodeNotFoundError):
        return Problem(404, "not-found", text)
    if isinstance(error, NameConflictError):
        return Problem(409, "name-conflict", text)
    if isinstance(error, RegistryError):
        return Problem(409, "conflict", text)
    if isinstance(error, RunNotFoundError):
        return Problem(404, "not-found", text)
    if isinstance(error, RunConflictError):
        return Problem(409, "conflict", text)
    if isinstance(error, RunsUnavailableError):
        return Problem(503, "runs-unavailable", text, headers={"retry-after": "5"})
    if isinstance(error, StoreDeniedError):
        # Which user the gateway is there is nothing for its clients.
        return Problem(503, "store-denied", "the registry's store refuses the gateway; see the gateway's log")
    if isinstance(error, StoreError):
        return Problem(503, "store-unavailable", text, headers={"retry-after": "1"})
    return Problem(500, "internal", "the gateway failed; see its log")


_CALL_STATUS: tuple[tuple[type[CallError], int, str], ...] = (
    (NoCapableNodesError, 404, "no-capable-nodes"),
    (InvalidParamsError, 422, "invalid-params"),
    (MessageError, 422, "invalid-message"),
    (CallTimeoutError, 504, "deadline-exceeded"),
    (CallCancelledError, 409, "cancelled"),
    (BusUnavailableError, 503, "bus-unavailable"),
)


def call_members(error: CallError) -> dict[str, Any]:
    """Return what a `CallError` knows, as members of a problem or of a failed call."""
    more: dict[str, Any] = {
        "code": str(error.code),
        "outcome": error.outcome,
        "retryable": error.retryable,
        "attempts": attempts_of(error.attempts),
    }
    if error.details:
        more["details"] = error.details
    rows = getattr(error, "passed_over", ())
    if rows:
        more["passed_over"] = [{"node": row.node, "reason": row.reason} for row in rows[:_MAX_LISTED]]
    return more


def attempts_of(attempts: Any) -> list[dict[str, Any]]:
    """Return the tries of a call as JSON."""
    return [
        {
            "node": attempt.node,
            "started": round(attempt.started, 6),
            "duration": round(attempt.duration, 6),
            "error": attempt.error,
            "code": None if attempt.code is None else str(attempt.code),
            "outcome": attempt.outcome,
        }
        for attempt in attempts
    ]


def _of_call(error: CallError) -> Problem:
    more = call_members(error)
    if isinstance(error, AllNodesBusyError):
        after = max(1, round(error.retry_after))
        return Problem(503, "all-nodes-busy", error.summary, headers={"retry-after": str(after)}, **more)
    for kind, status, word in _CALL_STATUS:
        if isinstance(error, kind):
            headers = {"retry-after": "1"} if status == 503 else {}
            return Problem(status, word, error.summary, headers=headers, **more)
    if error.code is Code.INVALID_ARGUMENT:
        return Problem(422, "invalid-params", error.summary, **more)
    return Problem(502, "call-failed", error.summary, **more)
