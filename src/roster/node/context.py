"""What a handler may know of the command it works on, and say while it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from roster._clock import boottime
from roster.bus import Message
from roster.errors import CallCancelledError, CallTimeoutError, NodeError


class Context:
    """One command as its handler sees it.

    A handler gets it as the parameter annotated `Context`, or from `current()`. Every method may be called from the
    handler's own thread, whichever that is.

    Example:
        >>> @node.capability("write_article")
        ... async def write_article(topic: str, context: Context) -> dict:
        ...     context.progress(step="outline", percent=20)
        ...     return {"article": topic}
    """

    __slots__ = (
        "_cancelled",
        "_deadline",
        "_look",
        "_say",
        "_seen",
        "_why",
        "capability",
        "message",
        "node",
        "params",
    )

    def __init__(
        self,
        *,
        node: str,
        capability: str,
        message: Message,
        params: Mapping[str, Any],
        deadline: float | None,
        say: Callable[[dict[str, Any]], None],
        look: Callable[[], int] = lambda: 0,
    ) -> None:
        self.node = node
        self.capability = capability
        self.message = message
        self.params = params
        self._deadline = deadline
        self._say = say
        self._look = look
        self._seen = look()
        self._cancelled = False
        self._why = ""

    @property
    def command_id(self) -> str:
        """The command's id, the same wherever it is logged."""
        return self.message.id

    @property
    def caller(self) -> str:
        """Who sent it, as a URI reference."""
        return self.message.source

    @property
    def idempotency_key(self) -> str:
        """The caller's key for this piece of work, or an empty string."""
        return self.message.key

    @property
    def deadline(self) -> float | None:
        """The `CLOCK_BOOTTIME` second at which the command is over, or None."""
        return self._deadline

    @property
    def remaining(self) -> float | None:
        """Seconds until the command's deadline (negative when it has passed), or None without one."""
        return None if self._deadline is None else self._deadline - boottime()

    @property
    def cancelled(self) -> bool:
        """Whether somebody stopped this work. Code that runs long without awaiting looks here, or calls `check`."""
        return self._cancelled

    def check(self) -> None:
        """Raise if this work should stop.

        Raises:
            CallCancelledError: the caller took it back, the node was told to stop, or this process stood still for so long
                that the work may be another node's by now.
            CallTimeoutError: the deadline has passed.
        """
        if self._cancelled:
            raise CallCancelledError(self._why or "the work was stopped")
        if self._look() != self._seen:
            raise CallCancelledError("this process stood still: the work may be another node's by now")
        if self._deadline is not None and boottime() >= self._deadline:
            raise CallTimeoutError(f"the deadline of {self.capability} has passed")

    def progress(self, data: Mapping[str, Any] | None = None, **fields: Any) -> None:
        """Tell the caller how far the work is. Lost if nobody listens; never an error.

        Args:
            data: a JSON object.
            fields: more of its fields.
        """
        self._say({**(data or {}), **fields})

    def extend(self, deadline: float | None) -> None:
        """Move the deadline; used by the node when another caller waits for the same work."""
        self._deadline = deadline

    def cancel(self, why: str) -> None:
        """Mark the work as stopped; used by the node."""
        self._cancelled = True
        self._why = why


_current: ContextVar[Context | None] = ContextVar("roster_node_context", default=None)


def current() -> Context:
    """Return the context of the handler that is running here.

    Raises:
        NodeError: no handler is running here.
    """
    context = _current.get()
    if context is None:
        raise NodeError("no command is being handled here: current() works inside a handler only")
    return context


def enter(context: Context) -> None:
    """Make `context` the current one in this task or thread; used by the node."""
    _current.set(context)
