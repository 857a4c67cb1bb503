"""The command that the code here and now is working on, so that what it calls in turn belongs to it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar

from roster._clock import boottime
from roster.bus.message import Message

WAY_BACK = 0.02
"""What a node needs at least to say that a deadline has passed, before its caller gives up on hearing of it, seconds."""

TOO_LITTLE = 0.002
"""Seconds: what is left of a deadline when sending again makes no sense. Timers end a little before their time."""

MAX_DEPTH = 8
"""Delegations in a row at most: node to node to node."""


class Handling:
    """A command being handled, and what was called on its behalf.

    Attributes:
        node: `namespace/name` of the node that handles it.
        message: the command.
        deadline: the `CLOCK_BOOTTIME` second at which it is over, or None.
    """

    __slots__ = ("_lock", "_on_stop", "_why", "deadline", "message", "node")

    def __init__(self, node: str, message: Message, deadline: float | None = None) -> None:
        self.node = node
        self.message = message
        self.deadline = deadline
        self._lock = threading.Lock()
        self._on_stop: dict[int, Callable[[str], object]] = {}
        self._why: str | None = None

    @property
    def stopped(self) -> str | None:
        """Why the work was stopped, None if it was not."""
        return self._why

    @property
    def late(self) -> bool:
        """Whether its time is up: what is left is for the answers' way back, not for another try."""
        return self.deadline is not None and self.deadline - boottime() < WAY_BACK + TOO_LITTLE

    def on_stop(self, call: Callable[[str], object]) -> Callable[[], None]:
        """Have `call(why)` called, on whatever thread, when this work is stopped; at once if it is already.

        Returns:
            A function that takes it back.
        """
        number = id(call)
        with self._lock:
            why = self._why
            if why is None:
                self._on_stop[number] = call
        if why is not None:
            call(why)

        def remove() -> None:
            with self._lock:
                self._on_stop.pop(number, None)

        return remove

    def stop(self, why: str) -> None:
        """Stop the work: everything that was called on its behalf is taken back, and nothing new begins. Any thread."""
        with self._lock:
            if self._why is not None:
                return
            self._why = why
            calls = list(self._on_stop.values())
            self._on_stop.clear()
        for call in calls:
            call(why)


current_command: ContextVar[Handling | None] = ContextVar("roster_current_command", default=None)
"""Set by a node around each handler; read by callers for ancestors, trace and deadline."""
