"""Daemon threads for handlers that block.

`concurrent.futures` joins its threads when the interpreter ends, so one handler that hangs would keep a drained node
from exiting; these do not.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

_IDLE_SECONDS = 10.0

Job = tuple[contextvars.Context, Callable[[], Any], Callable[[Any, BaseException | None], None]]


class Threads:
    """Runs functions on daemon threads, reusing those that are free. There is no upper bound here: the node has one."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[Job] = SimpleQueue()
        self._lock = threading.Lock()
        self._free = 0
        self._count = 0

    def submit(self, function: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Run `function` in a copy of the current context; `done(value, error)` is called on its thread."""
        job = (contextvars.copy_context(), function, done)
        with self._lock:
            if self._free > 0:
                self._free -= 1  # one of the free threads takes it
                self._jobs.put(job)
                return
            self._count += 1
            number = self._count
        threading.Thread(target=self._main, args=(job,), name=f"{self._name}-{number}", daemon=True).start()

    def _main(self, job: Job | None) -> None:
        while job is not None:
            context, function, done = job
            value, error = None, None
            try:
                value = context.run(function)
            except BaseException as raised:  # noqa: BLE001 - a handler's SystemExit must not end the thread unanswered
                error = raised
            done(value, error)
            del context, function, done, value, error
            job = self._next()

    def _next(self) -> Job | None:
        with self._lock:
            self._free += 1
        try:
            return self._jobs.get(timeout=_IDLE_SECONDS)
        except Empty:
            pass
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return None
        # A job was promised to this thread between the timeout and the lock.
        return self._jobs.get()
