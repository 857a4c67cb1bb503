"""What a consumer knows of the past: whether everything said before a moment has been seen, and how long it stood still."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

from roster._clock import boottime
from roster.bus.guard import call_handler

# Seconds: how often we look at our own clock; a gap that means we stood still.
_TICK, _GAP = 0.25, 0.5
# What a sender wrote before a barrier has reached the broker by then: his connection is not ours.
_ON_ITS_WAY = 0.02


class Barriers:
    """Marks that go through the broker and come back behind what was there before them.

    Args:
        send: sends a mark to ourselves, through the queue for control messages; returns False if that is not possible.
    """

    def __init__(self, send: Callable[[str], bool]) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._numbers = count(1)
        self._out: dict[str, Callable[[], None]] = {}
        self._alive = boottime()
        self._lag = 0.0
        self._ticker: asyncio.TimerHandle | None = None

    def ask(self, senders: frozenset[int], passed: Callable[[int], None]) -> None:
        """Call `passed` for each sender when all that he had said by now has been seen."""

        def tell() -> None:
            for sender in senders:
                call_handler("barrier", passed, sender)

        self._loop.call_later(_ON_ITS_WAY, self._begin, tell)

    def _begin(self, passed: Callable[[], None]) -> None:
        mark = str(next(self._numbers))
        self._out[mark] = passed
        if not self._send(mark):
            self.came(mark)

    def came(self, mark: str) -> None:
        """A mark is back."""
        passed = self._out.pop(mark, None)
        if passed is not None:
            passed()

    def all_came(self) -> None:
        """The connection is lost: nothing comes back, and nothing that had been said before counts any more."""
        for mark in list(self._out):
            self.came(mark)

    # --- standing still ---

    def watch(self) -> None:
        """Look at the clock from now on, until `close`."""
        self._note_gap()
        self._ticker = self._loop.call_later(_TICK, self.watch)

    def age(self) -> float:
        """Return for how many seconds what is read now may have lain unread."""
        self._note_gap()
        return self._lag

    def _note_gap(self) -> None:
        now = boottime()
        gap, self._alive = now - self._alive, now
        if gap > _GAP:
            self._lag = gap
            # What is read before it comes back to us may have come while we stood still.
            self._begin(self._caught_up)

    def _caught_up(self) -> None:
        self._lag = 0.0

    def close(self) -> None:
        """Stop looking."""
        if self._ticker is not None:
            self._ticker.cancel()
