"""What is published on the bus, as it comes, for those who read it one by one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from roster.bus.base import Bus, Subscription
from roster.bus.message import Message

MAX_EVENTS = 10_000
MAX_BYTES = 32 * 1024 * 1024

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Published:
    """A published message, and what it was published as.

    Attributes:
        key: its routing key, such as `evt.articles.done` or `ctl.all.ai-team`.
        message: what was published.
    """

    key: str
    message: Message


class Events(Generic[T]):
    """Published messages as they come: `async for message in mindbus.subscribe("evt.#")`.

    As `async with mindbus.subscribe(...) as events` it listens from then on and stops at the end of the
    block. Whoever reads too slowly loses the oldest, of more than 10 000 or 32 MiB; `dropped` counts
    them.

    Args:
        bus: where to listen.
        patterns: AMQP topics.
        shape: makes what is yielded of a routing key and a message.
        listening: those who listen on this bus; it is among them while it does.
    """

    def __init__(
        self,
        bus: Bus,
        patterns: tuple[str, ...],
        shape: Callable[[str, Message], T],
        listening: set[Events[T]],
    ) -> None:
        self._bus = bus
        self._patterns = patterns
        self._shape = shape
        self._listening = listening
        self._subscription: Subscription | None = None
        self._messages: deque[tuple[int, T]] = deque()
        self._bytes = 0
        self._news = asyncio.Event()
        self._dropped = 0
        self._closed = False

    @property
    def dropped(self) -> int:
        """How many messages were lost because nobody read them in time."""
        return self._dropped + (self._subscription.dropped if self._subscription is not None else 0)

    async def __aenter__(self) -> Events[T]:
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(self._patterns, self._arrived)
            self._listening.add(self)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop listening; what has arrived can still be read."""
        self._closed = True
        self._listening.discard(self)
        self._news.set()
        if self._subscription is not None:
            await self._subscription.close()

    def __aiter__(self) -> Events[T]:
        return self

    async def __anext__(self) -> T:
        if not self._closed:
            await self.__aenter__()
        while not self._messages:
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._next()

    def _next(self) -> T:
        size, oldest = self._messages.popleft()
        self._bytes -= size
        return oldest

    def _arrived(self, key: str, message: Message) -> None:
        while self._messages and (
            len(self._messages) >= MAX_EVENTS or self._bytes + message.size > MAX_BYTES
        ):
            self._next()
            self._dropped += 1
        self._messages.append((message.size, self._shape(key, message)))
        self._bytes += message.size
        self._news.set()
