"""The two clocks: one that decides, one that is shown."""

from __future__ import annotations

import time
from datetime import UTC, datetime

_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)

if _BOOTTIME is not None:
    _CLOCK: int = _BOOTTIME

    def boottime() -> float:
        """Return seconds since the machine booted, suspend included: the clock for everything that decides."""
        return time.clock_gettime(_CLOCK)

else:  # macOS: its monotonic clock does not count suspend, the documented weakness there

    def boottime() -> float:
        """Return monotonic seconds: the closest this system has to CLOCK_BOOTTIME."""
        return time.monotonic()


def utc_now() -> str:
    """Return the wall time as RFC 3339 in UTC with `Z` and milliseconds: for people to read, never to decide by."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def seconds_since(text: str | None) -> float | None:
    """Return wall-clock seconds since an RFC 3339 time: for people.

    Returns:
        Negative if the time lies in the future; None if there is none, or it cannot be read.
    """
    if not text:
        return None
    try:
        then = datetime.fromisoformat(text)
    except ValueError:
        return None
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    return (datetime.now(UTC) - then).total_seconds()
