"""MindBus: the bus for people who send commands by hand, without an orchestrator."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from typing import Any

from roster._clock import boottime
from roster.bus import tracing
from roster.bus.base import Buried, Bus, Exchange
from roster.bus.context import current_command
from roster.bus.engines import open_bus
from roster.bus.events import Events, Published
from roster.bus.keys import caller_namespace, caller_source, checked_key
from roster.bus.message import Kind, Message, error_from
from roster.errors import CallCancelledError, CallTimeoutError, MessageError

DEFAULT_TIMEOUT = 60.0
CONTROL_TIMEOUT = 5.0
MAX_PROGRESS = 1024


class Answer:
    """The answer that will come to a command. Made by `MindBus.send_command`."""

    def __init__(self, action: str, timeout: float | None) -> None:
        self._action = action
        self._timeout = timeout
        self._began = boottime()
        self._exchange: Exchange | None = None
        self._progress: deque[Message] = deque(maxlen=MAX_PROGRESS)
        self._news = asyncio.Event()

    @property
    def started(self) -> bool:
        """Whether the node has said that the work began."""
        return self._sent.started is True

    @property
    def _sent(self) -> Exchange:
        if self._exchange is None:
            raise MessageError("this answer belongs to no command: send one with MindBus.send_command")
        return self._exchange

    def _bind(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.answer.add_done_callback(lambda _: self._news.set())

    def _event(self, message: Message) -> None:
        self._progress.append(message)
        self._news.set()

    async def result(self, timeout: float | None = None) -> Any:
        """Return the result.

        Args:
            timeout: seconds from now. None: what is left of the command's own timeout, else 60.

        Raises:
            CallTimeoutError: none came in time; the node was told to stop.
            CallCancelledError: it was taken back with `cancel`.
            DeliveryError: the node died or refused; `outcome` tells whether it may have run.
            RemoteError: the handler raised.
            CallError: any other reason the node gave.
        """
        exchange = self._sent
        if timeout is None:
            left = DEFAULT_TIMEOUT if self._timeout is None else self._began + self._timeout - boottime()
            timeout = max(0.0, left)
        # Not wait_for: somebody else may wait for the same answer.
        await asyncio.wait([exchange.answer], timeout=timeout)
        if not exchange.answer.done():
            exchange.cancel()
            raise CallTimeoutError(
                f"no answer to {self._action!r} from {exchange.queue!r} within {timeout:g} s;"
                " the work was cancelled"
            )
        if exchange.answer.cancelled():
            raise CallCancelledError(f"the command {self._action!r} to {exchange.queue!r} was taken back")
        return _value(exchange.answer.result())

    def cancel(self) -> None:
        """Take the command back: the node stops the work, started or not."""
        self._sent.cancel()

    async def progress(self) -> AsyncIterator[Message]:
        """Yield the progress events as they come until the answer is there; of a flood, the newest 1 024."""
        exchange = self._sent
        while True:
            while self._progress:
                yield self._progress.popleft()
            if exchange.answer.done():
                return
            self._news.clear()
            await self._news.wait()


def _value(message: Message) -> Any:
    if message.kind is Kind.ERROR:
        raise error_from(message)
    if message.kind is not Kind.RESULT:
        raise MessageError(f"the answer is a message of type {message.kind}, not a result or an error")
    return message.data["result"]


class MindBus:
    """A client of the bus.

    Example:
        async with MindBus.connect() as mindbus:
            params = {"topic": "bees"}
            answer = await mindbus.send_command(queue="agent.writer.001", action="write_article",
            params=params) print(await answer.result(timeout=10))
    """

    def __init__(self, bus: Bus, *, source: str = "") -> None:
        self.bus = bus
        self._source = source
        self._listening: set[Events[Any]] = set()

    @classmethod
    def connect(cls, url: str | None = None, *, source: str = "") -> MindBus:
        """Return a client for a bus URL; None takes the environment. Use it with `async with`, or await it.

        Args:
            url: as for `roster.bus.open_bus`.
            source: who sends, as URI-reference such as `/ai-team/editor-001`; its first segment is the namespace that
                idempotency keys belong to. Without it `ROSTER_NAMESPACE`, else `default`, and a name of this client's own.

        Raises:
            ConfigError: the URL cannot be read.
        """
        return cls(open_bus(url), source=source or caller_source("mindbus", caller_namespace()))

    @property
    def url(self) -> str:
        """The bus's URL without secrets."""
        return self.bus.url

    async def _open(self) -> MindBus:
        await self.bus.__aenter__()
        return self

    def __await__(self) -> Generator[Any, None, MindBus]:
        return self._open().__await__()

    async def __aenter__(self) -> MindBus:
        return await self._open()

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the client: answers still awaited raise `DeliveryError`, subscriptions end."""
        for events in list(self._listening):
            await events.close()
        await self.bus.close()

    async def send_command(
        self,
        queue: str,
        action: str,
        params: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,
        priority: int = 0,
        idempotency_key: str | None = None,
        uid: str | None = None,
    ) -> Answer:
        """Hand a command to a node's queue; return the answer to come.

        Args:
            queue: the node's `mindbus_queue`.
            action: the capability.
            params: its input, JSON.
            timeout: seconds after which the node stops the work by itself.
            priority: 0 to 9, higher first.
            idempotency_key: the same key again brings the same answer, without doing the work twice.
            uid: the incarnation of the node that is meant; another refuses.

        Raises:
            BusUnavailableError: nobody consumes the queue; nothing was sent.
            MessageError: the params cannot be said in JSON, or are over the limit.
            ConfigError: the key is not of 1 to 255 bytes without control characters.
        """
        if idempotency_key:
            checked_key(idempotency_key)
        answer = Answer(action, timeout)
        command = Message.command(
            action,
            params,
            source=self._source,
            timeout=timeout,
            priority=priority,
            key=idempotency_key or "",
            uid=uid or "",
        )
        above = current_command.get()
        trace = tracing.trace_below(None if above is None else above.message)
        command.traceparent, command.tracestate = trace
        answer._bind(await tracing.send(self.bus, queue, command, on_progress=answer._event))
        return answer

    async def send_control(
        self,
        queue: str,
        signal: str,
        data: Mapping[str, Any] | None = None,
        *,
        timeout: float = CONTROL_TIMEOUT,
        uid: str | None = None,
    ) -> Any:
        """Send a signal to one node and return what it replies.

        Args:
            queue: the node's `mindbus_queue`.
            signal: `stop`, `pause`, `resume`, `shutdown`, `config`, or another that the node knows.
            data: what goes with it.
            timeout: seconds to wait for the reply.
            uid: the incarnation of the node that is meant.

        Raises:
            BusUnavailableError: nobody consumes the queue.
            CallTimeoutError: no reply in time.
            CallError: the node refused.
        """
        message = Message.control(signal, data, source=self._source, timeout=timeout, uid=uid or "")
        answer = Answer(signal, timeout)
        answer._bind(await self.bus.send(queue, message))
        return await answer.result(timeout)

    async def publish_event(self, topic: str, type: str, data: Mapping[str, Any] | None = None) -> int:
        """Publish an event as `evt.{topic}.{type}`; return how many places it was handed to."""
        message = Message.event(f"{topic}.{type}", data, source=self._source)
        return await self._publish(f"evt.{topic}.{type}", message)

    async def publish_control(
        self,
        target: str,
        scope: str,
        signal: str,
        data: Mapping[str, Any] | None = None,
        *,
        on_reply: Callable[[Message], None] | None = None,
    ) -> int:
        """Publish a signal as `ctl.{target}.{scope}`; return how many places it was handed to.

        Args:
            target: a node's name, or `all`.
            scope: the namespace; with the target `all` also `all`: the nodes of every namespace.
            signal: as for `send_control`.
            data: what goes with it.
            on_reply: called with each answer.
        """
        message = Message.control(signal, data, source=self._source)
        return await self._publish(f"ctl.{target}.{scope}", message, on_reply)

    async def _publish(
        self, key: str, message: Message, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        return await tracing.publish(self.bus, key, message, on_reply=on_reply)

    async def dead_letters(self) -> Sequence[Buried]:
        """Return the commands that nobody should get again, and what was no message, oldest first.

        `Orchestrator.retry` sends one again.

        Raises:
            BusUnavailableError: they cannot be read.
        """
        return await self.bus.corpses()

    async def drop_dead_letters(self, chosen: Callable[[Buried], bool]) -> Sequence[Buried]:
        """Remove the dead letters that are chosen, for good, and return them.

        Raises:
            BusUnavailableError: it cannot be done, or it is not known whether it was.

        Example:
            >>> await mindbus.drop_dead_letters(lambda letter: letter.queue == "agent.writer.001")
        """
        return await self.bus.drop_dead(chosen)

    def subscribe(self, *patterns: str) -> Events[Message]:
        """Listen to published messages whose routing key matches one of the patterns (AMQP topics)."""
        return Events(self.bus, patterns, lambda _, message: message, self._listening)

    def tap(self, *patterns: str) -> Events[Published]:
        """Look on at what is published: as `subscribe`, with the routing key of each message.

        Events and control signals are published, and commands to a routing key. What goes to one queue (commands, their
        answers, signals to one node by `send_control`) is nobody's but its receiver's.

        Args:
            patterns: AMQP topics, such as `evt.#` or `ctl.*.ai-team`; none: everything.

        Example:
            >>> async for seen in mindbus.tap("evt.#"):
            ...     print(seen.key, seen.message.data)
        """
        return Events(self.bus, patterns or ("#",), Published, self._listening)


__all__ = ["Answer", "MindBus"]
