"""Notices that the whole process stood still: SIGSTOP, a suspended machine, code that never let go of the GIL.

While it stood still the world went on: its lease may have ended, its work may be another's. So it must know before any of
its own code resumes, and the one place for that is where an event loop comes back from waiting.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from roster._clock import boottime

SHORT = 0.5
"""Seconds after which what had been received may have been taken back, unread (see `roster.orchestrator.vigil`)."""


class Standstill:
    """Shared by the I/O loop, the loop of the handlers, and handlers on threads.

    The I/O loop wakes at least every quarter of `limit`, so a longer gap between two of its wakes means that nothing ran.

    Args:
        limit: seconds after which the lease must be taken for lost: half of its TTL.
        now: the clock, `CLOCK_BOOTTIME` seconds.
    """

    def __init__(self, limit: float, now: Callable[[], float] = boottime) -> None:
        self.limit = limit
        self.count = 0
        self._now = now
        self._last = now()
        self._lock = threading.Lock()
        self._told = 0

    @property
    def beat(self) -> float:
        """How often the I/O loop must wake, in seconds."""
        return self.limit / 4

    def io_woke(self) -> tuple[float, bool]:
        """The I/O loop came back from waiting: return the seconds since it did before, and whether that was too long.

        Whichever loop comes back first counts the standstill; the I/O loop is told of it all the same.
        """
        now = self._now()
        with self._lock:
            gap = now - self._last
            if gap >= self.limit:
                self.count += 1
            self._last = now
            long = self.count != self._told
            self._told = self.count
        return gap, long

    def look(self) -> int:
        """Return how often the process stood still for `limit` or longer, this moment included. Any thread."""
        now = self._now()
        if now - self._last >= self.limit:
            with self._lock:
                if now - self._last >= self.limit:
                    self.count += 1
                    self._last = now
        return self.count
