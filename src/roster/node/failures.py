"""What a caller is told when a handler raises."""

from __future__ import annotations

import asyncio
import logging

from roster.bus.context import Handling
from roster.bus.failure import named
from roster.errors import (
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    InvalidParamsError,
    InvalidResultError,
    RemoteError,
)
from roster.node.handlers import Handler

logger = logging.getLogger("roster.node")

_MAX_ERROR_TEXT = 2000
# Errors that say something of the work itself when a handler raises them.
_OF_HANDLERS = (RemoteError, InvalidParamsError, InvalidResultError, CallTimeoutError, CallCancelledError)


def error_of(raised: BaseException, handler: Handler, key: str) -> CallError:
    """Turn whatever a handler raised into what its caller is told.

    A `CallError` keeps its code and whether a retry makes sense. Anything else is `UNKNOWN`, not to be retried: only
    the handler knows whether doing it again is harmless.
    """
    if isinstance(raised, CallError):
        return raised
    if isinstance(raised, asyncio.CancelledError):
        return CallCancelledError(f"{handler.capability.name} was stopped on {key}")
    logger.error(
        "%s: %s raised",
        key,
        handler.capability.name,
        exc_info=raised,
        extra={"node": key, "capability": handler.capability.name},
    )
    return RemoteError(named(raised)[:_MAX_ERROR_TEXT], code=Code.UNKNOWN)


def failure_of(raised: CallError, handling: Handling) -> CallError:
    """Turn an error of calls that a handler raised, of its own or of a call that it made, into the failure of its work.

    What is known of the call below is not what is known of this work: it has begun. It is not tried again either when its
    time is up, which is what most calls below fail of then.
    """
    error = raised
    if not isinstance(raised, _OF_HANDLERS):
        # That a node below is full or gone says nothing of this one.
        error = RemoteError(
            raised.summary, code=raised.code, retryable=raised.retryable, details=raised.details, attempts=raised.attempts
        )  # fmt: skip
    error.outcome = "unknown"
    error.retryable = raised.retryable and not handling.late
    return error
