"""The same API for code that is not async: the same names, without `async` and `await`.

One event loop on a thread of its own serves the whole process; every call here hands a coroutine to it and waits. Nothing
is implemented twice.

Example:
    >>> from roster.sync import MindBus, Registry, select_best_node
    >>> with Registry.connect() as registry, MindBus.connect() as mindbus:
    ...     node = select_best_node(registry.find_by_capability("write_article"))
    ...     answer = mindbus.send_command(queue=node.mindbus_queue, action="write_article", params={"topic": "bees"})
    ...     print(answer.result(timeout=10))
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator, Mapping
from typing import Any, TypeVar

from roster._loops import LoopThread
from roster.bus import Message
from roster.bus.mindbus import Answer as AsyncAnswer
from roster.bus.mindbus import MindBus as AsyncMindBus
from roster.errors import (
    AllNodesBusyError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    DocumentError,
    InvalidParamsError,
    NameConflictError,
    NoCapableNodesError,
    NodeNotFoundError,
    RemoteError,
    RosterError,
    StoreUnavailableError,
)
from roster.node import Context, current
from roster.node import Node as AsyncNode
from roster.orchestrator import CallAnswer, NodeAnswer, StreamEvent
from roster.orchestrator import Orchestrator as AsyncOrchestrator
from roster.passport import Capability, NodePassport, Selector
from roster.registry import NodeEvent, NodeRecord
from roster.registry import Registration as AsyncRegistration
from roster.registry import Registry as AsyncRegistry
from roster.routing import select_best_node, select_least_loaded

__all__ = [
    "AllNodesBusyError",
    "Answer",
    "CallCancelledError",
    "CallError",
    "CallTimeoutError",
    "Capability",
    "Context",
    "DocumentError",
    "InvalidParamsError",
    "MindBus",
    "NameConflictError",
    "NoCapableNodesError",
    "Node",
    "NodeNotFoundError",
    "NodePassport",
    "Orchestrator",
    "Registration",
    "Registry",
    "RemoteError",
    "RosterError",
    "Selector",
    "StoreUnavailableError",
    "current",
    "select_best_node",
    "select_least_loaded",
]

T = TypeVar("T")

_lock = threading.Lock()
_loop: LoopThread | None = None
_owner = 0


def _portal() -> LoopThread:
    """Return the process's loop thread; a forked child gets its own."""
    global _loop, _owner
    with _lock:
        if _loop is None or not _loop.alive or _owner != os.getpid():
            _loop, _owner = LoopThread("roster-sync").start(), os.getpid()
        return _loop


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return _portal().run(coroutine)


def _iterate(source: AsyncIterator[T]) -> Generator[T, None, None]:
    async def step() -> T:
        return await anext(source)

    async def close() -> None:
        if (aclose := getattr(source, "aclose", None)) is not None:
            await aclose()

    try:
        while True:
            try:
                value = _run(step())
            except StopAsyncIteration:
                return
            yield value
    finally:
        _run(close())


class Registration:
    """One node's presence in the registry, kept alive in the background. Made by `Registry.register`."""

    def __init__(self, inner: AsyncRegistration) -> None:
        self._inner = inner

    @property
    def uid(self) -> str:
        """The incarnation registered now."""
        return self._inner.uid

    @property
    def passport(self) -> NodePassport:
        """The passport as registered."""
        return self._inner.passport

    @property
    def state(self) -> str:
        """What the registry is told."""
        return self._inner.state

    def set_state(self, state: str) -> None:
        """See `roster.Registration.set_state`."""
        _run(self._inner.set_state(state))

    def update(self, **changes: Any) -> None:
        """See `roster.Registration.update`."""
        _run(self._inner.update(**changes))

    def drain(self) -> None:
        """See `roster.Registration.drain`."""
        _run(self._inner.drain())

    def deregister(self) -> None:
        """See `roster.Registration.deregister`."""
        _run(self._inner.deregister())

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exc: object) -> None:
        self.deregister()


class Registry:
    """See `roster.Registry`."""

    def __init__(self, inner: AsyncRegistry) -> None:
        self._inner = inner

    @classmethod
    def connect(cls, url: str | None = None, **options: Any) -> Registry:
        """Open a registry. See `roster.Registry.connect`."""

        async def opened() -> AsyncRegistry:
            return await AsyncRegistry.connect(url, **options)

        return cls(_run(opened()))

    def register(
        self, passport: NodePassport | Mapping[str, Any] | str | os.PathLike[str], **options: Any
    ) -> Registration:
        """See `roster.Registry.register`."""
        return Registration(_run(self._inner.register(passport, **options)))

    def find_by_capability(self, name: str, **query: Any) -> list[NodeRecord]:
        """See `roster.Registry.find_by_capability`."""
        return _run(self._inner.find_by_capability(name, **query))

    def find(self, **query: Any) -> list[NodeRecord]:
        """See `roster.Registry.find`."""
        return _run(self._inner.find(**query))

    def get(self, name: str, namespace: str | None = None) -> NodeRecord:
        """See `roster.Registry.get`."""
        return _run(self._inner.get(name, namespace))

    def watch(self, **query: Any) -> Iterator[NodeEvent]:
        """See `roster.Registry.watch`."""
        return _iterate(self._inner.watch(**query))

    def close(self) -> None:
        """Close it."""
        _run(self._inner.close())

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Answer:
    """What is on its way back. See `roster.MindBus.send_command`."""

    def __init__(self, inner: AsyncAnswer) -> None:
        self._inner = inner

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result, `timeout` seconds at most.

        Raises:
            CallTimeoutError: it did not come in time; the command is taken back.
            CallError: any other end.
        """
        return _run(self._inner.result(timeout))

    def progress(self) -> Iterator[Message]:
        """Yield the progress events as they come."""
        return _iterate(aiter(self._inner.progress()))

    def cancel(self) -> None:
        """Take the command back."""
        inner = self._inner

        async def cancelled() -> None:
            inner.cancel()

        _run(cancelled())


class MindBus:
    """See `roster.MindBus`."""

    def __init__(self, inner: AsyncMindBus) -> None:
        self._inner = inner

    @classmethod
    def connect(cls, url: str | None = None) -> MindBus:
        """Open the bus. See `roster.MindBus.connect`."""

        async def opened() -> AsyncMindBus:
            return await AsyncMindBus.connect(url)

        return cls(_run(opened()))

    def send_command(
        self, queue: str, action: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Answer:
        """See `roster.MindBus.send_command`."""
        return Answer(_run(self._inner.send_command(queue=queue, action=action, params=params, **options)))

    def send_control(
        self, queue: str, signal: str, data: Mapping[str, Any] | None = None, **options: Any
    ) -> Any:
        """See `roster.MindBus.send_control`."""
        return _run(self._inner.send_control(queue, signal, data, **options))

    def publish_event(self, topic: str, type: str, data: Mapping[str, Any] | None = None) -> int:
        """See `roster.MindBus.publish_event`."""
        return _run(self._inner.publish_event(topic, type, data))

    def close(self) -> None:
        """Close it."""
        _run(self._inner.close())

    def __enter__(self) -> MindBus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Orchestrator:
    """See `roster.Orchestrator`."""

    def __init__(self, inner: AsyncOrchestrator) -> None:
        self._inner = inner

    @classmethod
    def connect(
        cls, registry_url: str | None = None, bus_url: str | None = None, **options: Any
    ) -> Orchestrator:
        """Open registry and bus. See `roster.Orchestrator.connect`."""

        async def opened() -> AsyncOrchestrator:
            return await AsyncOrchestrator.connect(registry_url, bus_url, **options)

        return cls(_run(opened()))

    def call(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """See `roster.Orchestrator.call`."""
        return _run(self._inner.call(capability, params, **options))

    def ask(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> CallAnswer:
        """See `roster.Orchestrator.ask`."""
        return _run(self._inner.ask(capability, params, **options))

    def call_all(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> list[NodeAnswer]:
        """See `roster.Orchestrator.call_all`."""
        return _run(self._inner.call_all(capability, params, **options))

    def stream(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[StreamEvent]:
        """See `roster.Orchestrator.stream`."""
        return _iterate(self._inner.stream(capability, params, **options))

    def close(self) -> None:
        """Close it."""
        _run(self._inner.close())

    def __enter__(self) -> Orchestrator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Node:
    """See `roster.Node`. `with node:` serves in the background; `node.run()` serves until SIGTERM.

    Handlers are plain functions here, each run on a thread; async ones run on this module's loop.
    """

    def __init__(
        self, passport: NodePassport | Mapping[str, Any] | str | os.PathLike[str], **options: Any
    ) -> None:
        self._inner = AsyncNode(passport, **options)

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Node:
        """See `roster.Node.load`."""
        return cls(NodePassport.load(path), **options)

    @property
    def passport(self) -> NodePassport:
        """Its passport."""
        return self._inner.passport

    @property
    def uid(self) -> str:
        """The incarnation registered now."""
        return self._inner.uid

    @property
    def state(self) -> str:
        """What the registry is told."""
        return self._inner.state

    def capability(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """See `roster.Node.capability`."""
        return self._inner.capability(name)

    def run(self) -> None:
        """See `roster.Node.run`."""
        self._inner.run()

    def __enter__(self) -> Node:
        _run(self._inner.start())
        return self

    def __exit__(self, *exc: object) -> None:
        _run(self._inner.stop())
