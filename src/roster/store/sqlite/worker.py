"""The one thread of a client on which everything that may block runs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

from roster.errors import StoreUnavailableError

T = TypeVar("T")


class _Job:
    """A function to run, and the future that waits for it."""

    __slots__ = ("function", "future", "loop")

    def __init__(self, function: Callable[[], Any], loop: asyncio.AbstractEventLoop) -> None:
        self.function = function
        self.loop = loop
        self.future: asyncio.Future[Any] = loop.create_future()

    def run(self) -> None:
        if self.future.cancelled():
            return
        try:
            result, error = self.function(), None
        except BaseException as caught:  # noqa: BLE001 - whatever it is, it goes to whoever waits for the answer
            result, error = None, caught
        try:
            self.loop.call_soon_threadsafe(self._settle, result, error)
        except RuntimeError:
            pass  # the loop was closed meanwhile: nobody waits for the answer

    def _settle(self, result: Any, error: BaseException | None) -> None:
        if self.future.done():
            return
        if error is not None:
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Worker:
    """Runs jobs in order; urgent ones first, and also while an ordinary job stands in `pause`.

    The urgent lane is for keep-alives: a writer may wait ten seconds for its turn, a lease may not.

    Args:
        name: of the thread, for those who look at a process.
        subject: what the jobs work on, for the error when it does not answer.
    """

    def __init__(self, name: str, subject: str) -> None:
        self._subject = subject
        self._ready = threading.Condition()
        self._jobs: deque[_Job] = deque()
        self._urgent: deque[_Job] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[[], T], *, urgent: bool = False, timeout: float = 15.0) -> T:
        """Run a function on the thread and return what it returns.

        Args:
            urgent: before all others.
            timeout: seconds.

        Raises:
            StoreUnavailableError: no answer in time (what was asked may or may not happen yet), or it was stopped.
        """
        job = _Job(function, asyncio.get_running_loop())
        with self._ready:
            if self._stopping:
                raise StoreUnavailableError(f"this client of {self._subject} is closed: open another")
            (self._urgent if urgent else self._jobs).append(job)
            self._ready.notify()
        try:
            async with asyncio.timeout(timeout):
                result: T = await job.future
                return result
        except TimeoutError as error:
            raise StoreUnavailableError(
                f"{self._subject} did not answer within {timeout:g} s: is its disk stalled, or the machine overloaded?"
            ) from error

    def post(self, function: Callable[[], object]) -> None:
        """Run a function on the thread in its turn; nobody waits for it."""
        with self._ready:
            if not self._stopping:
                self._jobs.append(_Job(function, asyncio.get_running_loop()))
                self._ready.notify()

    def pause(self, seconds: float) -> None:
        """Wait, on the thread itself, and run what is urgent meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            with self._ready:
                if not self._urgent:
                    self._ready.wait(left)
                job = self._urgent.popleft() if self._urgent else None
            if job is not None:
                job.run()

    def stop(self) -> None:
        """Let the thread end when it has done what was asked of it before."""
        with self._ready:
            self._stopping = True
            self._ready.notify()

    def _main(self) -> None:
        while True:
            with self._ready:
                while not (self._urgent or self._jobs or self._stopping):
                    self._ready.wait()
                if self._urgent:
                    job = self._urgent.popleft()
                elif self._jobs:
                    job = self._jobs.popleft()
                else:
                    return
            job.run()
