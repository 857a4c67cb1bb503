"""Writes to the database of runs on a thread of its own: what many runs write in one moment is one transaction."""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

from roster.errors import RosterError, RunsUnavailableError

if TYPE_CHECKING:
    import sqlalchemy as sa

logger = logging.getLogger("roster.orchestrator.runs")

T = TypeVar("T")
_BATCH = 256
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_JOIN_SECONDS = 10.0

_Write = tuple[Callable[["sa.Connection"], Any], "Future[Any] | None"]


class Journal:
    """The writer. A database that is out of reach for a while is waited for: nothing that was handed over is dropped.

    A write that raises one of our own errors must not have changed anything before: the others of its batch are committed.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._writes: queue.SimpleQueue[_Write | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="roster-journal", daemon=True)
        self._thread.start()

    def post(self, write: Callable[[sa.Connection], Any]) -> None:
        """Have something written, after all that was handed over before, and do not wait for it."""
        self._writes.put((write, None))

    async def commit(self, write: Callable[[sa.Connection], T], timeout: float | None = None) -> T:
        """Have something written, and return what it returns once it is on the disk.

        Args:
            timeout: seconds; None waits for a database that is away as long as the caller does.

        Raises:
            RunsUnavailableError: not within the timeout, or the journal was closed. It may be written yet.
            RosterError: raised by `write`.
        """
        done: Future[T] = Future()
        self._writes.put((write, done))
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.wrap_future(done)
        except TimeoutError:
            raise RunsUnavailableError(
                f"the database of runs did not take a write within {timeout:g} s: is it there, and is its disk full?"
            ) from None

    def close(self) -> None:
        """Write what was handed over, and end the thread. Blocks for at most some seconds."""
        self._writes.put(None)
        self._thread.join(_JOIN_SECONDS)
        self._stopped.set()

    def _run(self) -> None:
        over = False
        while not over:
            batch = [self._writes.get()]
            while len(batch) < _BATCH:
                try:
                    batch.append(self._writes.get_nowait())
                except queue.Empty:
                    break
            over = None in batch
            work = [one for one in batch if one is not None]
            if work:
                self._write(work)
        while True:  # what came behind the end
            try:
                late = self._writes.get_nowait()
            except queue.Empty:
                return
            if late is not None and late[1] is not None:
                _settle(late[1], error=RunsUnavailableError("the runs were closed"))

    def _write(self, work: list[_Write]) -> None:
        import sqlalchemy as sa

        pause = _FIRST_PAUSE
        while True:
            try:
                self._transact(work)
            except (sa.exc.OperationalError, sa.exc.TimeoutError) as error:
                # Out of reach, locked for long, its disk full, every connection taken: none of that is for ever.
                logger.warning("the database of runs takes no write, it is tried again: %s", _line(error))
                if self._stopped.wait(pause):
                    for _, done in work:
                        _settle(done, error=RunsUnavailableError("the runs were closed"))
                    return
                pause = min(2 * pause, _LONGEST_PAUSE)
            except sa.exc.SQLAlchemyError as error:
                if len(work) == 1:
                    logger.error("a write to the database of runs failed: %s", _line(error))
                    _settle(
                        work[0][1],
                        error=RunsUnavailableError(f"the database of runs refused a write: {_line(error)}"),
                    )
                else:
                    for one in work:
                        self._write([one])
                return
            else:
                return

    def _transact(self, work: list[_Write]) -> None:
        ends: list[tuple[Future[Any] | None, Any, RosterError | None]] = []
        with self._engine.begin() as connection:
            for write, done in work:
                try:
                    ends.append((done, write(connection), None))
                except RosterError as error:
                    ends.append((done, None, error))
        for done, result, failure in ends:
            _settle(done, result, failure)


def _settle(done: Future[Any] | None, result: Any = None, error: BaseException | None = None) -> None:
    if done is None or not done.set_running_or_notify_cancel():
        return
    if error is not None:
        done.set_exception(error)
    else:
        done.set_result(result)


def _line(error: BaseException) -> str:
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()
    return reason[0][:200] if reason else type(error).__name__
