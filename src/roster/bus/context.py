"""The command that the code here and now is working on, so that what it calls in turn belongs to it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass

from roster.bus.message import Message


@dataclass(frozen=True, slots=True)
class Handling:
    """A command being handled.

    Attributes:
        node: `namespace/name` of the node that handles it.
        message: the command.
        deadline: the `CLOCK_BOOTTIME` second at which it is over, or None.
    """

    node: str
    message: Message
    deadline: float | None


current_command: ContextVar[Handling | None] = ContextVar("roster_current_command", default=None)
"""Set by a node around each handler; read by callers for ancestors, trace and deadline."""
