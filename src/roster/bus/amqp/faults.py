"""What goes wrong with a broker, and what callers are told of it."""

from __future__ import annotations

from roster.bus.failure import UNHEARD
from roster.errors import BusUnavailableError, Code

ACCESS_REFUSED, NOT_FOUND, RESOURCE_LOCKED, PRECONDITION_FAILED, _NOT_ALLOWED = 403, 404, 405, 406, 530


class LostError(Exception):
    """A connection or a channel has ended, or an answer did not come in time."""


class RefusedError(LostError):
    """The broker has ended it, with a code.

    Attributes:
        code: AMQP's reply code.
    """

    def __init__(self, code: int, text: str) -> None:
        self.code = code
        super().__init__(" ".join(text.split()))


def unserved(queue: str, where: str, *, settling: bool) -> BusUnavailableError:
    """Return the error for a queue that nobody consumes; `settling`: as far as that can be told so soon."""
    return BusUnavailableError(
        f"nobody consumes the queue {queue!r} on {where}", details=UNHEARD if settling else None
    )


def unavailable(what: str, where: str, error: LostError) -> BusUnavailableError:
    """Return what a caller is told.

    Args:
        what: what was tried, such as `serve the queue 'q'`.
        where: the broker's URL without secrets.
        error: why it failed.
    """
    text = str(error)
    if isinstance(error, RefusedError) and error.code in (ACCESS_REFUSED, _NOT_ALLOWED):
        if "login" in text.lower() or "PLAIN" in text:
            return BusUnavailableError(
                f"{where} does not let us in: the user or the password is wrong (in the URL, or ROSTER_BUS_USER and "
                "ROSTER_BUS_PASSWORD)",
                code=Code.UNAUTHENTICATED,
                retryable=False,
            )
        return BusUnavailableError(
            f"cannot {what} on {where}: the broker forbids it ({text})",
            code=Code.PERMISSION_DENIED,
            retryable=False,
        )
    return BusUnavailableError(f"cannot {what} on {where}: {text}", details=UNHEARD)
