"""How an exception travels in an error message, and how it becomes one again."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, TypeVar, cast, get_args

from roster.errors import (
    AllNodesBusyError,
    Attempt,
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    InvalidParamsError,
    InvalidResultError,
    MessageError,
    Outcome,
    RemoteError,
)

_E = TypeVar("_E", bound=CallError)
OUTCOMES = get_args(Outcome)  # a tuple: what is looked up in it may be unhashable

_CLASSES: dict[str, type[CallError]] = {
    each.__name__: each
    for each in (
        InvalidParamsError,
        InvalidResultError,
        MessageError,
        BusUnavailableError,
        DeliveryError,
        RemoteError,
        CallTimeoutError,
        CallCancelledError,
    )
}
# Words in the `details` of an error that say more of a failure than its class: our own line was lost, or nobody has told
# who is there; the node stopped the work for a reason that is not the work's; no broker is there, whichever the queue.
UNHEARD: Mapping[str, Any] = {"silent": True}
STOPPED: Mapping[str, Any] = {"stopped": True}
OUT_OF_REACH: Mapping[str, Any] = {"broker": "out of reach"}
_OURS_ALONE = {*UNHEARD, *OUT_OF_REACH}

_MAX_ATTEMPTS = 16
MAX_TEXT = 16_384


def says(error: CallError, word: Mapping[str, Any]) -> bool:
    """Return whether an error's details say this word: `UNHEARD`, `STOPPED` or `OUT_OF_REACH`."""
    return word.items() <= error.details.items()


def error_data(error: BaseException) -> dict[str, Any]:
    """Return what an error message says of an exception."""
    if not isinstance(error, CallError):
        if isinstance(error, asyncio.CancelledError):
            error = CallCancelledError("the work was cancelled")
        else:
            error = RemoteError(named(error))
    data: dict[str, Any] = {
        "code": str(error.code),
        "message": _text(error.args[0]) if error.args else "",
        "retryable": bool(error.retryable),
        "outcome": error.outcome,
        "reason": type(error).__name__,
        "details": error.details,
    }
    if isinstance(error, AllNodesBusyError):
        data["retry_after"] = error.retry_after
    if error.attempts:
        data["attempts"] = [
            {
                "node": attempt.node,
                "started": attempt.started,
                "duration": attempt.duration,
                "error": _text(attempt.error),
                "code": str(attempt.code),
                "outcome": attempt.outcome,
            }
            for attempt in error.attempts[-_MAX_ATTEMPTS:]
        ]
    return data


def _code(value: Any) -> Code:
    try:
        return Code(value)
    except ValueError:
        return Code.UNKNOWN


def _seconds(value: Any, otherwise: float) -> float:
    # JSON's integers have no bound, floats have: 10**400 would raise.
    return float(value) if isinstance(value, (int, float)) and 0 <= value < 1e12 else otherwise


def _text(value: object) -> str:
    """Return what an exception says, such that it can travel: file names may hold half characters."""
    return _said(value)[:MAX_TEXT].encode("utf-8", "replace").decode()


def named(error: BaseException) -> str:
    """Return an exception's type and what it says."""
    text = _said(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _said(value: object) -> str:
    """Return what an exception says of itself. Its `__str__` is anybody's code: that it fails keeps no answer back."""
    try:
        return str(value)
    except Exception as broken:  # noqa: BLE001 - whatever a stranger's __str__ raises
        return f"(what it says cannot be read: its __str__ raised {type(broken).__name__})"


def _attempts(value: Any) -> list[Attempt]:
    found: list[Attempt] = []
    for each in value[:_MAX_ATTEMPTS] if isinstance(value, list) else []:
        if not isinstance(each, dict):
            continue
        outcome = each.get("outcome")
        found.append(
            Attempt(
                node=str(each.get("node", "")),
                started=_seconds(each.get("started"), 0.0),
                duration=_seconds(each.get("duration"), 0.0),
                error=str(each.get("error", "")),
                code=_code(each.get("code")),
                outcome=cast("Outcome", outcome) if outcome in OUTCOMES else "unknown",
            )
        )
    return found


def error_from_data(data: dict[str, Any]) -> CallError:
    """Return the exception that an error message's data tell of, with all its fields.

    The class is the one the sender names in `reason`, if it is one that an answer can mean. Without that: the
    code and the outcome decide (`CANCELLED`, `DEADLINE_EXCEEDED`, a refused `INVALID_ARGUMENT`, any other
    refusal); what is left is a `RemoteError`.
    """
    code = _code(data.get("code"))
    outcome = cast("Outcome", data.get("outcome", "unknown"))
    reason = data.get("reason")
    text = str(data.get("message", ""))
    retryable = bool(data.get("retryable", False))
    details = cast("dict[str, Any]", data.get("details", {}))
    attempts = _attempts(data.get("attempts"))
    if reason == "AllNodesBusyError":
        busy = AllNodesBusyError(text, retry_after=_seconds(data.get("retry_after"), 1.0), attempts=attempts)
        return _filled(busy, code, outcome, retryable, details)
    found = _CLASSES.get(reason) if isinstance(reason, str) else None
    if found is None:
        if code is Code.CANCELLED:
            found = CallCancelledError
        elif code is Code.DEADLINE_EXCEEDED:
            found = CallTimeoutError
        elif outcome == "unknown":
            found = RemoteError
        else:
            found = InvalidParamsError if code is Code.INVALID_ARGUMENT else DeliveryError
    if found in (BusUnavailableError, DeliveryError):
        # An answer has come: our own line is not lost, whatever it says.
        details = {name: value for name, value in details.items() if name not in _OURS_ALONE}
    return _filled(found(text, attempts=attempts), code, outcome, retryable, details)


def _filled(error: _E, code: Code, outcome: Outcome, retryable: bool, details: dict[str, Any]) -> _E:
    error.code, error.outcome, error.retryable, error.details = code, outcome, retryable, dict(details)
    return error
