"""Waits for a condition that other threads make true: they ring, the waiters look again."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable


class Bell:
    """Rung after each change by whichever thread made it; nobody polls, and nobody sleeps."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def ring(self) -> None:
        """Something has changed. Any thread."""
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed: nobody waits there any more
                loop.call_soon_threadsafe(event.set)

    async def until(self, condition: Callable[[], object], timeout: float, what: str) -> None:
        """Return when `condition()` is true.

        Raises:
            AssertionError: it was not within `timeout` seconds; `what` says what was waited for.
        """
        try:
            async with asyncio.timeout(timeout):
                while True:
                    event = asyncio.Event()
                    with self._lock:
                        self._waiting.append((asyncio.get_running_loop(), event))
                    # Looked at after the registration: a change in between rings for it.
                    if condition():
                        return
                    await event.wait()
        except TimeoutError:
            raise AssertionError(f"waited {timeout:g} s in vain: {what}") from None
