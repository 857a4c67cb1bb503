"""The clock of a team's registry: it stands still until a test moves it."""

from __future__ import annotations


class Clock:
    """Seconds that leases run by. A test that is slow, or is stopped in a debugger, loses no lease by that."""

    def __init__(self) -> None:
        self._now = 1000.0

    def now(self) -> float:
        """Return the time, seconds."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move it on."""
        if seconds < 0:
            raise ValueError(f"time goes forward only, not by {seconds:g} s")
        self._now += seconds
