"""Event loops on threads of their own, and cheap hops from one loop to another."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from roster.errors import RosterError

T = TypeVar("T")


class Hop:
    """Calls functions on another loop: one wake-up carries all that was posted until it arrives.

    A wake-up writes to a pipe (about 10 us); at ten thousand calls a second that price must be shared.
    """

    __slots__ = ("_loop", "_queue", "_scheduled")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._queue: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._scheduled = False

    def post(self, function: Callable[..., object], *args: Any) -> bool:
        """Have `function(*args)` called on the loop, in the order of posting. Any thread.

        Returns:
            False if that loop is closed: nothing will be called.
        """
        self._queue.append((function, args))
        if not self._scheduled:
            self._scheduled = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except RuntimeError:  # the loop is closed: whoever lived there is gone
                self._queue.clear()
                return False
        return True

    def _drain(self) -> None:
        # Reset first: whatever is appended from here on is either seen by the loop below or schedules anew.
        self._scheduled = False
        queue = self._queue
        while queue:
            function, args = queue.popleft()
            try:
                function(*args)
            except Exception as error:  # noqa: BLE001 - one bad call must not take the rest of the batch with it
                self._loop.call_exception_handler(
                    {"message": "a call posted from another thread failed", "exception": error}
                )


def on_wake(loop: asyncio.AbstractEventLoop, call: Callable[[], object]) -> Callable[[], None] | None:
    """Have `call()` called each time the loop's selector returns: before any of its callbacks, so before any task resumes.

    Returns:
        A function that takes it back; None where the loop has no selector to listen at (uvloop, Windows' proactor).
    """
    selector = getattr(loop, "_selector", None)
    if selector is None or not callable(getattr(selector, "select", None)):
        return None
    original = selector.select

    def select(timeout: float | None = None) -> Any:
        events = original(timeout)
        call()
        return events

    selector.select = select

    def remove() -> None:
        if selector.select is select:
            selector.select = original

    return remove


class LoopThread:
    """An event loop on a daemon thread.

    What runs there goes on while the loops of others are blocked (but not while C code holds the GIL: a catastrophic
    regular expression stalls every thread of the process).

    Example:
        >>> thread = LoopThread("io").start()
        >>> thread.run(some_coroutine(), timeout=5)
        >>> thread.stop()
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._ready = threading.Event()
        self._thread: threading.Thread | None = None
        self._at_end: deque[Callable[[], object]] = deque()
        self.loop: asyncio.AbstractEventLoop = asyncio.new_event_loop()

    def start(self) -> LoopThread:
        """Start the thread and return when its loop runs."""
        self._thread = threading.Thread(target=self._main, name=self._name, daemon=True)
        self._thread.start()
        self._ready.wait()
        return self

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.call_soon(self._ready.set)
        try:
            self.loop.run_forever()
        finally:
            leftovers = asyncio.all_tasks(self.loop)
            for task in leftovers:
                task.cancel()
            if leftovers:
                self.loop.run_until_complete(asyncio.wait(leftovers, timeout=5))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()
            while self._at_end:
                self._at_end.popleft()()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Future[T]:
        """Run a coroutine there; return a future of the calling loop. Cancelling the future cancels the coroutine."""
        return asyncio.wrap_future(asyncio.run_coroutine_threadsafe(coroutine, self.loop))

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float | None = None) -> T:
        """Run a coroutine there and block this thread until it is done.

        Args:
            timeout: seconds; then the coroutine is cancelled and `TimeoutError` raised.
        """
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RosterError(
                f"the thread {self._name} cannot wait for itself: call this from another thread"
            )
        future = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except BaseException:
            # KeyboardInterrupt too: whatever ended the wait, nobody waits for the coroutine any more.
            future.cancel()
            raise

    async def stop_from(self, timeout: float = 10.0) -> None:
        """Do as `stop` does without blocking the calling loop, for at most `timeout` seconds.

        No other thread waits here for this one: at the end of the program none can be started any more.
        """
        ended = asyncio.Event()
        caller = asyncio.get_running_loop()

        def tell() -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed: it has stopped waiting
                caller.call_soon_threadsafe(ended.set)

        self._at_end.append(tell)
        try:
            self.loop.call_soon_threadsafe(self.loop.stop)
        except RuntimeError:  # it was closed before
            return
        with contextlib.suppress(TimeoutError):  # it hangs in a callback; being a daemon, it holds nothing up
            await asyncio.wait_for(ended.wait(), timeout)

    def stop(self) -> None:
        """Stop the loop, cancel what runs on it and wait for the thread (at most 10 s)."""
        if self._thread is None or not self._thread.is_alive():
            if not self.loop.is_closed() and not self.loop.is_running():
                self.loop.close()
            return
        with contextlib.suppress(RuntimeError):  # it was closed in between
            self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
