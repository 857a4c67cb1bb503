"""Blocking methods over async objects: one loop on a thread of its own serves the process, and any thread may call.

What is still open when the program ends is closed in good order. A forked child cannot use what its parent opened.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from roster._loops import LoopThread
from roster.errors import RosterError

logger = logging.getLogger("roster.sync")

A = TypeVar("A")
P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W")

_CLOSING_DEADLINE = 10.0


class Portal:
    """The loop of one process, and what is open on it."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.ended = False
        self.open: dict[int, Callable[[], Coroutine[Any, Any, object]]] = {}
        self._thread = LoopThread("roster-sync").start()

    @property
    def usable(self) -> bool:
        """Whether this process can run anything on it."""
        return not self.ended and self.process == os.getpid()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine there, and wait for it.

        Raises:
            RosterError: this is not the process that it belongs to, or the program is ending.
            TimeoutError: it has not ended within `timeout` seconds.
        """
        if not self.usable:
            coroutine.close()
            raise RosterError(
                "the program is ending: nothing can be asked any more"
                if self.ended
                else f"this was opened by process {self.process}, before a fork: connect again in this one"
            )
        return self._thread.run(coroutine, timeout)

    def end(self) -> None:
        """Close what is open, newest first, and stop. At the end of the program."""
        if not self.usable:
            return
        for close in reversed(list(self.open.values())):
            try:
                self.run(close(), _CLOSING_DEADLINE)
            except (RosterError, TimeoutError) as error:
                # There is nobody left to tell but the log: what could not be closed ends with its lease.
                logger.warning("at the end of the program: %s", str(error) or "closing took too long")
        self.ended = True
        self._thread.stop()


_lock = threading.Lock()
_current: Portal | None = None


def own_portal() -> Portal:
    """Return this process's portal; a forked child gets its own."""
    global _current
    with _lock:
        if _current is None or not _current.usable:
            if _current is not None and _current.ended:
                raise RosterError("the program is ending: nothing can be opened any more")
            _current = Portal()
            atexit.register(_current.end)
        return _current


def _after_fork() -> None:
    # Another thread may have held the lock at the fork, and does not exist here.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


class Facade(Generic[A]):
    """Something async, and the portal that it lives on."""

    def __init__(self, inner: A, portal: Portal) -> None:
        self._inner = inner
        self._portal = portal

    def _opened(self, close: Callable[[], Coroutine[Any, Any, object]]) -> None:
        self._portal.open[id(self)] = close

    def _close(self, coroutine: Coroutine[Any, Any, T]) -> T | None:
        """Run what closes it. Where the portal is gone (a forked child, the end of the program) others have closed it."""
        if not self._portal.usable:
            coroutine.close()
            return None
        self._portal.open.pop(id(self), None)
        return self._portal.run(coroutine)


def waiting(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Facade[A], P], T]:
    """Return an async method as a blocking one, with its signature and its documentation."""

    @functools.wraps(method)
    def blocking(facade: Facade[A], /, *args: P.args, **options: P.kwargs) -> T:
        return facade._portal.run(method(facade._inner, *args, **options))

    return blocking


def giving(
    method: Callable[Concatenate[A, P], Coroutine[Any, Any, T]], wrap: Callable[[T, Portal], W]
) -> Callable[Concatenate[Facade[A], P], W]:
    """Do as `waiting` does, and wrap what comes back for blocking use as well."""

    @functools.wraps(method)
    def blocking(facade: Facade[A], /, *args: P.args, **options: P.kwargs) -> W:
        return wrap(facade._portal.run(method(facade._inner, *args, **options)), facade._portal)

    return blocking


def posting(method: Callable[Concatenate[A, P], T]) -> Callable[Concatenate[Facade[A], P], T]:
    """Return a plain method that belongs to the loop as one that any thread may call."""

    @functools.wraps(method)
    def blocking(facade: Facade[A], /, *args: P.args, **options: P.kwargs) -> T:
        async def there() -> T:
            return method(facade._inner, *args, **options)

        return facade._portal.run(there())

    return blocking


def iterating(
    method: Callable[Concatenate[A, P], AsyncIterator[T]],
) -> Callable[Concatenate[Facade[A], P], Generator[T, None, None]]:
    """Return a method that gives an async iterator as one that gives a plain one; closing it closes the other."""

    @functools.wraps(method)
    def blocking(facade: Facade[A], /, *args: P.args, **options: P.kwargs) -> Generator[T, None, None]:
        async def there() -> AsyncIterator[T]:
            return method(facade._inner, *args, **options)

        return iterate(facade._portal, facade._portal.run(there()))

    return blocking


def iterate(portal: Portal, source: AsyncIterator[T]) -> Generator[T, None, None]:
    async def step() -> tuple[T, ...]:
        # A StopAsyncIteration would not pass through a future well.
        async for value in source:
            return (value,)
        return ()

    async def close() -> None:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()

    try:
        while found := portal.run(step()):
            yield found[0]
    finally:
        # A generator may be collected when the loop is gone already: then there is nothing left to close.
        if portal.usable:
            portal.run(close())
