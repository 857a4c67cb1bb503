"""What has happened to nodes, numbered and kept for a while: many readers, each with a place of its own."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from roster._clock import utc_now
from roster.gateway.encoding import encode
from roster.gateway.views import Views, moment
from roster.registry import NodeEvent, NodeRecord, Registry

MAX_EVENTS = 20_000
MAX_BYTES = 64 * 1024 * 1024
# Readers are woken together, and less often the more of them there are: a thousand readers of a busy team would
# otherwise cost more than everything else.
_GATHER = 0.02
_GATHER_EACH = 0.0002


@dataclass(slots=True)
class Entry:
    """One event.

    Attributes:
        seq: its number; they are without gaps.
        type: as of `NodeEvent`.
        record: the node after it.
        before: the node before it, None if there was none.
        body: the event as JSON without its type: what follows `{"type":"...",`.
    """

    seq: int
    type: str
    record: NodeRecord
    before: NodeRecord | None
    body: bytes


class Feed:
    """Numbers the informer's events and keeps the newest of them.

    A place in it is text, `epoch.seq`: the epoch is this process's, so that a place of another one is known as such.

    Args:
        registry: whose informer is followed; its copy must be there.
        views: where nodes are written.
    """

    def __init__(self, registry: Registry, views: Views) -> None:
        self.epoch = os.urandom(6).hex()
        self.seq = 0
        self.readers = 0
        self.closed = False
        self._registry = registry
        self._views = views
        self._records: dict[str, NodeRecord] = {}
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._waiters: set[asyncio.Future[None]] = set()
        self._waking: asyncio.TimerHandle | None = None
        self._listeners: list[Callable[[NodeEvent], None]] = []
        self._remove: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin to follow."""
        self._remove = self._registry.informer.add_listener(self._on_event)

    def close(self) -> None:
        """End; readers are woken for the last time."""
        self.closed = True
        if self._remove is not None:
            self._remove()
        self._wake()

    def add_listener(self, listener: Callable[[NodeEvent], None]) -> None:
        """Have `listener` called with each event from now on."""
        self._listeners.append(listener)

    @property
    def place(self) -> str:
        """The newest place: whoever reads on from here misses nothing that happens from now on."""
        return f"{self.epoch}.{self.seq}"

    def read_place(self, text: str) -> int | None:
        """Return the number of a place; None if what came after it is not known here any more."""
        epoch, dot, number = text.partition(".")
        if (
            not dot
            or epoch != self.epoch
            or not (number.isascii() and number.isdecimal())
            or len(number) > 18
        ):
            return None
        seq = int(number)
        oldest = self._entries[0].seq if self._entries else self.seq + 1
        return seq if oldest - 1 <= seq <= self.seq else None

    def since(self, seq: int, limit: int) -> list[Entry] | None:
        """Return up to `limit` events after number `seq`, oldest first; None if some of them are not kept any more."""
        if seq >= self.seq:
            return []
        first = self._entries[0].seq if self._entries else self.seq + 1
        if seq + 1 < first:
            return None
        # From the right where the reader is near the end, which it usually is: a deque is slow in its middle.
        behind = self.seq - seq
        if behind <= limit:
            return [self._entries[index] for index in range(len(self._entries) - behind, len(self._entries))]
        start = seq + 1 - first
        return [self._entries[index] for index in range(start, start + limit)]

    async def wait(self, seq: int, timeout: float) -> bool:
        """Wait for an event after number `seq`; return False when `timeout` seconds have passed without one."""
        if self.seq > seq or self.closed:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.add(waiter)
        try:
            async with asyncio.timeout(timeout):
                await waiter
        except TimeoutError:
            return False
        finally:
            self._waiters.discard(waiter)
        return True

    def snapshot(self) -> Iterable[NodeRecord]:
        """Return every node, as the newest place shows it."""
        return list(self._records.values())

    def _on_event(self, event: NodeEvent) -> None:
        key = event.key
        before = self._records.get(key)
        if event.type == "removed":
            self._records.pop(key, None)
        else:
            self._records[key] = event.record
        self.seq += 1
        now = encode(moment(self._registry.staleness if self._registry.informer.connected else 0.0))
        body = (
            encode({"key": key, "namespace": event.namespace, "name": event.name, "at": utc_now()})[1:-1]
            + b',"node":'
            + self._views.of(event.record, now)
            + b"}"
        )
        if event.type == "removed":
            self._views.forget(key)
        self._entries.append(Entry(self.seq, event.type, event.record, before, body))
        self._bytes += len(body)
        while len(self._entries) > MAX_EVENTS or (self._bytes > MAX_BYTES and len(self._entries) > 1):
            self._bytes -= len(self._entries.popleft().body)
        for listener in self._listeners:
            listener(event)
        if self._waking is None and self._waiters:
            delay = _GATHER + _GATHER_EACH * len(self._waiters)
            self._waking = asyncio.get_running_loop().call_later(delay, self._wake)

    def _wake(self) -> None:
        if self._waking is not None:
            self._waking.cancel()
            self._waking = None
        waiters, self._waiters = self._waiters, set()
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
