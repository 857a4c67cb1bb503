"""A bus that fails on demand: delegates to a real engine, and holds, refuses, loses or fails what a test says.

It is one more implementation of `roster.bus.base.Bus`. Faults belong to queues, that is to nodes; everything that has no
fault passes as the engine behind it has it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager

from roster.bus import Message
from roster.bus.base import Buried, Bus, Consumer, DeadLetter, Delivery, Exchange, Held, Subscription
from roster.bus.message import Kind
from roster.errors import BusUnavailableError, MessageError
from roster.testing.bell import Bell
from roster.testing.ledger import Asked, Ledger

logger = logging.getLogger("roster.testing")


class QueueFaults:
    """What is wrong with one queue, that is with the node behind it.

    Attributes:
        held: answers of commands wait until they are released.
        silent: nothing reaches the node, and nothing leaves it.
        unreachable: senders are refused; the node lives.
        errors: what the next commands come to, one each, before the node sees them.
        asked: called with each command that arrives; returns its entry in the ledger.
    """

    def __init__(self, ledger: Ledger, bell: Bell) -> None:
        self.node = ""
        self.held = False
        self.silent = False
        self.unreachable = False
        self.errors: deque[Exception] = deque()
        self.bell = bell
        self.open: list[Asked] = []
        self._ledger = ledger
        self._client: FaultyBus | None = None
        self._in: deque[Callable[[], None]] = deque()
        self._out: deque[tuple[bool, Callable[[], None]]] = deque()

    # -- on the loop of the node ----------------------------------------------------------------------------------

    def served_by(self, client: FaultyBus) -> None:
        """Know who consumes the queue."""
        self._client = client

    def arrive(self, delivery: Delivery, handler: Callable[[Delivery], None]) -> None:
        """Take one message for the node."""
        message = delivery.message
        if message.kind is not Kind.COMMAND:
            self._pass(FaultyDelivery(delivery, self, None), handler)
            return
        asked = Asked.of(self.node, message)
        self.open.append(asked)
        self._ledger.write(asked)
        passed = FaultyDelivery(delivery, self, asked)
        if self.errors:
            error = self.errors.popleft()
            passed.start()
            passed.reply(Message.error_for(message, error, source=f"/{self.node}"))
        else:
            self._pass(passed, handler)

    def _pass(self, delivery: FaultyDelivery, handler: Callable[[Delivery], None]) -> None:
        if self.silent:
            self._in.append(lambda: None if delivery.taken_back else handler(delivery))
        else:
            handler(delivery)

    def leave(self, say: Callable[[], None], *, answer: bool) -> None:
        """Let something that the node says out, now or when it is released."""
        if self.silent or (answer and (self.held or self._out)):
            self._out.append((answer, say))
            self.bell.ring()
        else:
            say()

    def _drain(self) -> None:
        while not self.silent and self._in:
            self._in.popleft()()
        if self.silent:
            return
        waiting, self._out = self._out, deque()
        for answer, say in waiting:
            if answer and self.held:
                self._out.append((answer, say))
                continue
            try:
                say()
            except MessageError as error:
                logger.error("%s: a held answer could not be sent: %s", self.node, error)

    # -- on any loop ----------------------------------------------------------------------------------------------

    async def release(self) -> None:
        """Let out what is not held any more."""
        if self._client is not None:
            await self._client.there(self._drain)

    async def die(self) -> None:
        """End the connection with what is in hand: what had started is `unknown` to its caller, the rest `refused`."""
        client, self._client = self._client, None
        if client is not None:
            await client.die(self._lose)

    def _lose(self) -> None:
        self._in.clear()
        self._out.clear()
        for asked in self.open:
            asked.ended = "lost"
        self.open.clear()
        self.bell.ring()


class BusFaults:
    """What all clients of one team's bus share.

    Attributes:
        away: nobody reaches the bus.
    """

    def __init__(self, ledger: Ledger, bell: Bell) -> None:
        self.away = False
        self._ledger = ledger
        self._bell = bell
        self._lock = threading.Lock()
        self._queues: dict[str, QueueFaults] = {}

    def queue(self, name: str) -> QueueFaults:
        """Return the faults of a queue."""
        with self._lock:
            return self._queues.setdefault(name, QueueFaults(self._ledger, self._bell))


class FaultyBus:
    """A client of a team's bus.

    Args:
        inner: the engine behind it.
        faults: what its team shares.
    """

    def __init__(self, inner: Bus, faults: BusFaults) -> None:
        self.inner = inner
        self._faults = faults
        self._dead = False
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        return self.inner.url

    def reach(self) -> None:
        """Return if the bus can be reached.

        Raises:
            BusUnavailableError: it cannot.
        """
        if self._dead:
            raise BusUnavailableError(f"the bus {self.url} is out of reach: this process is dead")
        if self._faults.away:
            raise BusUnavailableError(f"the bus {self.url} is out of reach: the test has taken it away")

    async def there(self, call: Callable[[], None]) -> None:
        """Call something on the loop of this client, and wait for it. Any loop."""

        async def run() -> None:
            call()

        if self._loop is not None and not self._loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(run(), self._loop))

    async def die(self, first: Callable[[], None]) -> None:
        """Call `first()`, then lose the connection, as a process does that is killed. Any loop."""

        async def end() -> None:
            self._dead = True
            first()
            await self.inner.close()

        if self._loop is not None and not self._loop.is_closed():
            await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(end(), self._loop))

    async def send(
        self, queue: str, message: Message, *, on_progress: Callable[[Message], None] | None = None
    ) -> Exchange:
        self.reach()
        faults = self._faults.queue(queue)
        if faults.unreachable:
            raise BusUnavailableError(f"nobody consumes the queue {queue!r} on {self.url}")
        exchange = await self.inner.send(queue, message, on_progress=on_progress)
        if faults.silent and message.kind is Kind.CONTROL and message.signal == "ping":
            return _Unanswered(exchange)
        return exchange

    async def serve(
        self,
        queue: str,
        handler: Callable[[Delivery], None],
        *,
        bindings: Sequence[str] = (),
        prefetch: int | None = None,
    ) -> Consumer:
        self.reach()
        self._loop = asyncio.get_running_loop()
        faults = self._faults.queue(queue)
        consumer = await self.inner.serve(
            queue, lambda delivery: faults.arrive(delivery, handler), bindings=bindings, prefetch=prefetch
        )
        faults.served_by(self)
        return FaultyConsumer(consumer, faults)

    async def publish(
        self, routing_key: str, message: Message, *, on_reply: Callable[[Message], None] | None = None
    ) -> int:
        self.reach()
        return await self.inner.publish(routing_key, message, on_reply=on_reply)

    async def subscribe(
        self, patterns: Sequence[str], handler: Callable[[str, Message], None]
    ) -> Subscription:
        self.reach()
        return await self.inner.subscribe(patterns, handler)

    async def bury(self, message: Message, reason: str) -> None:
        self.reach()
        await self.inner.bury(message, reason)

    async def dead_letters(self) -> Sequence[DeadLetter]:
        self.reach()
        return await self.inner.dead_letters()

    async def corpses(self) -> Sequence[Buried]:
        self.reach()
        return await self.inner.corpses()

    async def drop_dead(self, chosen: Callable[[Buried], bool]) -> Sequence[Buried]:
        self.reach()
        return await self.inner.drop_dead(chosen)

    def hold_dead(self, id: str) -> AbstractAsyncContextManager[Held | None]:
        self.reach()
        return self.inner.hold_dead(id)

    async def close(self) -> None:
        await self.inner.close()

    async def __aenter__(self) -> FaultyBus:
        self.reach()
        self._loop = asyncio.get_running_loop()
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()


class FaultyConsumer:
    """A queue being served, which may seem to be gone."""

    def __init__(self, inner: Consumer, faults: QueueFaults) -> None:
        self._inner = inner
        self._faults = faults

    @property
    def queue(self) -> str:
        return self._inner.queue

    @property
    def healthy(self) -> bool:
        return self._inner.healthy and not self._faults.unreachable

    def flush(self) -> asyncio.Future[None] | None:
        return self._inner.flush()

    def barrier(self, passed: Callable[[int], None]) -> frozenset[int]:
        return self._inner.barrier(passed)

    async def close(self) -> None:
        await self._inner.close()


class FaultyDelivery:
    """A message in the hands of its node; writes its course into the ledger."""

    def __init__(self, inner: Delivery, faults: QueueFaults, asked: Asked | None) -> None:
        self.taken_back = False
        self.on_cancel: Callable[[], None] | None = None
        self._inner = inner
        self._faults = faults
        self._asked = asked
        inner.on_cancel = self._cancelled

    @property
    def message(self) -> Message:
        return self._inner.message

    @property
    def sender(self) -> int:
        return self._inner.sender

    @property
    def lag(self) -> float:
        return self._inner.lag

    def start(self, *, once: bool = False) -> None:
        self._inner.start(once=once)
        if self._asked is not None:
            self._asked.started = True
            self._faults.bell.ring()

    def progress(self, message: Message) -> None:
        if self._asked is not None and self._asked.ended:
            return
        message.to_bytes()  # what is wrong with it is said now, not when it is released
        if self._asked is not None:
            self._asked.progress.append(dict(message.data))
        self._faults.leave(lambda: self._inner.progress(message), answer=True)

    def reply(self, message: Message) -> None:
        message.to_bytes()
        self._faults.leave(lambda: self._reply(message), answer=self._asked is not None)

    def _reply(self, message: Message) -> None:
        # Written down first: whoever has the answer finds it in the ledger.
        if self._asked is not None and not self._asked.ended:
            self._asked.answered(message)
            self._over()
        self._inner.reply(message)

    def _cancelled(self) -> None:
        self.taken_back = True
        if self._asked is not None and not self._asked.ended:
            self._asked.ended = "cancelled"
            self._over()
        if self.on_cancel is not None:
            self.on_cancel()

    def _over(self) -> None:
        if self._asked in self._faults.open:
            self._faults.open.remove(self._asked)
        self._faults.bell.ring()


class _Unanswered:
    """A ping to a silent node, whose patience is over at once: nobody should wait for what cannot come."""

    def __init__(self, inner: Exchange) -> None:
        self._inner = inner
        self.answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.answer.set_exception(TimeoutError("the test keeps the node silent"))
        self.answer.exception()  # whoever lets go of it has chosen not to look

    @property
    def queue(self) -> str:
        return self._inner.queue

    @property
    def started(self) -> bool | None:
        return self._inner.started

    def cancel(self) -> None:
        self._inner.cancel()
