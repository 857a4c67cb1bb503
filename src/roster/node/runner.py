"""Runs handlers: async ones on the loop that started the node, plain ones on threads; and stops them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from roster._clock import boottime
from roster._loops import Hop, on_wake
from roster.bus import Message, tracing
from roster.bus.context import current_command
from roster.errors import CallError
from roster.node.context import enter
from roster.node.engine import Engine
from roster.node.failures import error_of, failure_of
from roster.node.hands import Stage, Work
from roster.node.standstill import Standstill
from roster.node.threads import Threads


class Runner:
    """The user's side of a node. Made on the user's loop; the engine on the I/O loop gives it work.

    Args:
        key: `namespace/name` of the node.
        threads: where plain functions run.
        io_hop: how to reach the I/O loop.
    """

    def __init__(self, key: str, threads: Threads, io_hop: Hop) -> None:
        self.hop = Hop(asyncio.get_running_loop())
        self._key = key
        self._threads = threads
        self._io_hop = io_hop
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._standstill: Standstill | None = None
        self._seen = 0
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unhook = on_wake(self._loop, self._woke)

    def serve(self, engine: Engine, standstill: Standstill) -> None:
        """Take work from this engine."""
        self._standstill = standstill
        self._engine = engine

    async def close(self) -> None:
        """Cancel what still runs and let go of the loop."""
        self._engine = None
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1.0)
        if self._unhook is not None:
            self._unhook()
            self._unhook = None

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine here as part of the node: it ends with it. User's loop."""
        task = self._loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def pulse(self, answered: Callable[[float], None]) -> None:
        """Ask the user's loop for a sign of life: `answered(when asked)` is called on the I/O loop. I/O loop."""
        asked = boottime()
        self.hop.post(lambda: self._io_hop.post(answered, asked))

    # -- one command ----------------------------------------------------------------------------------------------

    def run(self, batch: list[Work]) -> None:
        """Have commands run. I/O loop."""
        for work in batch:
            if work.handler.is_async:
                self.hop.post(self._begin, work)
            else:
                self._threads.submit(partial(self._call, work), partial(self._ended, work))

    def stop(self, work: Work, why: str) -> None:
        """Stop a handler: cancel its task, or tell its thread, which looks when it calls `check`. I/O loop."""
        work.context.cancel(why)
        work.handling.stop(why)
        if work.handler.is_async:
            self.hop.post(_cancel_task, work)

    def _begin(self, work: Work) -> None:
        if work.stage is not Stage.RUNNING:  # taken back on the way
            if work.entry is not None and self._engine is not None:
                self._io_hop.post(self._engine.ended, work, None)
            return
        work.task = self.start(self._handle(work))

    async def _handle(self, work: Work) -> None:
        _enter(work)
        handler = work.handler
        try:
            with self._recorded(work):
                arguments = handler.arguments(work.context.params, work.context)
                with _begun(work):
                    value = await handler.function(**arguments)
                value = handler.result(value)
        except asyncio.CancelledError as raised:
            self._ended(work, None, raised)
            raise
        except KeyboardInterrupt as raised:
            # It ends the loop. The node would leave in good order, and wait for this very work.
            self._ended(work, None, raised)
            raise
        except BaseException as raised:  # noqa: BLE001 - whatever a handler raises is its caller's to hear
            self._ended(work, None, raised)
        else:
            self._ended(work, value, None)

    def _call(self, work: Work) -> Any:
        _enter(work)
        handler = work.handler
        work.context.check()
        with self._recorded(work):
            arguments = handler.arguments(work.context.params, work.context)
            with _begun(work):
                value = handler.function(**arguments)
            return handler.result(value)

    def _recorded(self, work: Work) -> AbstractContextManager[object]:
        engine = self._engine
        url, queue = ("", "") if engine is None else (engine.url, engine.queue)
        return tracing.handle(url, queue, self._key, work.message)

    def _ended(self, work: Work, value: Any, raised: BaseException | None) -> None:
        """Bring the end of a handler to the I/O loop. Any thread."""
        engine = self._engine
        if engine is None or (work.stage is Stage.DONE and work.entry is None):
            return
        try:
            if raised is None:
                answer = Message.result_for(work.message, value, source=engine.source)
            else:
                error = error_of(raised, work.handler, self._key)
                answer = Message.error_for(work.message, error, source=engine.source)
        except CallError as error:
            answer = Message.error_for(work.message, error, source=engine.source)
        self._io_hop.post(engine.finish if work.entry is None else engine.ended, work, answer)

    def _woke(self) -> None:
        """The loop came back from waiting: if this process stood still, no handler resumes its work."""
        if self._standstill is None or (count := self._standstill.look()) == self._seen:
            return
        self._seen = count
        for task in self._tasks:
            task.cancel()


@contextmanager
def _begun(work: Work) -> Iterator[None]:
    """What a handler raises is its own failure. It has begun, whatever is known of a call that it made and that failed."""
    try:
        yield
    except CallError as error:
        if (failure := failure_of(error, work.handling)) is error:
            raise
        raise failure from error


def _enter(work: Work) -> None:
    current_command.set(work.handling)
    enter(work.context)


def _cancel_task(work: Work) -> None:
    if work.task is not None:
        work.task.cancel()
