"""The same API for code that is not async: the same names, without `async` and `await`.

One event loop on a thread of its own serves the whole process; every call here hands a coroutine to it and waits, so
nothing is implemented twice, and any thread may call. What is still open when the program ends is closed in good order.
A forked child cannot use what its parent opened (an error says so): it connects anew. Functions that are handed over to
be called later (`on_progress`, `on_reply`, `on_wait`) are called on that thread: they must be quick, and cannot call this
module in turn.

Example:
    >>> from roster.sync import MindBus, Registry, select_best_node
    >>> with Registry.connect() as registry, MindBus.connect() as mindbus:
    ...     node = select_best_node(registry.find_by_capability("write_article"))
    ...     answer = mindbus.send_command(queue=node.mindbus_queue, action="write_article", params={"topic": "bees"})
    ...     print(answer.result(timeout=10))
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from roster._portal import Facade, giving, iterate, iterating, own_portal, posting, waiting
from roster.bus import Events as AsyncEvents
from roster.bus import Load, Message, Published
from roster.bus.mindbus import Answer as AsyncAnswer
from roster.bus.mindbus import MindBus as AsyncMindBus
from roster.errors import (
    AllNodesBusyError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    CardError,
    Code,
    DocumentError,
    InvalidParamsError,
    NameConflictError,
    NoCapableNodesError,
    NodeNotFoundError,
    RemoteError,
    RosterError,
    RunConflictError,
    RunError,
    RunNotFoundError,
    RunsUnavailableError,
    StoreUnavailableError,
)
from roster.node import Context, current
from roster.node import Node as AsyncNode
from roster.orchestrator import CallAnswer, NodeAnswer, StreamEvent
from roster.orchestrator import Orchestrator as AsyncOrchestrator
from roster.orchestrator.runs.record import RunRecord, StepRecord
from roster.passport import Capability, NodePassport, Selector
from roster.passport.document import PassportLike
from roster.registry import NodeEvent, NodeRecord
from roster.registry import Registration as AsyncRegistration
from roster.registry import Registry as AsyncRegistry
from roster.routing import select_best_node, select_least_loaded

if TYPE_CHECKING:
    from roster._sync_runs import Runs
    from roster.cards import ProcessCard
    from roster.orchestrator.runs.runs import Runs as AsyncRuns

__all__ = [
    "AllNodesBusyError",
    "Answer",
    "CallAnswer",
    "CallCancelledError",
    "CallError",
    "CallTimeoutError",
    "Capability",
    "CardError",
    "Code",
    "Context",
    "DocumentError",
    "Events",
    "InvalidParamsError",
    "Message",
    "MindBus",
    "NameConflictError",
    "NoCapableNodesError",
    "Node",
    "NodeAnswer",
    "NodeEvent",
    "NodeNotFoundError",
    "NodePassport",
    "NodeRecord",
    "Orchestrator",
    "ProcessCard",
    "Published",
    "Registration",
    "Registry",
    "RemoteError",
    "RosterError",
    "RunConflictError",
    "RunError",
    "RunNotFoundError",
    "RunRecord",
    "RunsUnavailableError",
    "Selector",
    "StepRecord",
    "StoreUnavailableError",
    "StreamEvent",
    "current",
    "select_best_node",
    "select_least_loaded",
]


def __getattr__(name: str) -> Any:
    if name == "ProcessCard":  # whoever runs no cards need not read the modules for them
        from roster.cards import ProcessCard

        return ProcessCard
    raise AttributeError(f"module 'roster.sync' has no attribute {name!r}")


F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


# -- the registry -----------------------------------------------------------------------------------------------------


class Registration(Facade[AsyncRegistration]):
    """One node's presence in the registry, kept alive in the background. Made by `Registry.register`."""

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self._inner.key

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
        """What the registry is told; `offline` when it has ended."""
        return self._inner.state

    report = posting(AsyncRegistration.report)
    set_state = waiting(AsyncRegistration.set_state)
    set_condition = posting(AsyncRegistration.set_condition)
    withdraw = posting(AsyncRegistration.withdraw)
    restore = posting(AsyncRegistration.restore)
    update = waiting(AsyncRegistration.update)
    drain = waiting(AsyncRegistration.drain)
    deregister = waiting(AsyncRegistration.deregister)
    abandon = waiting(AsyncRegistration.abandon)
    wait_ended = waiting(AsyncRegistration.wait_ended)

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exc: object) -> None:
        self._close(self._inner.__aexit__())


class Registry(Facade[AsyncRegistry]):
    """See `roster.Registry`."""

    @classmethod
    def connect(
        cls, url: str | None = None, *, thaw_grace: bool = True, sync_timeout: float = 15.0
    ) -> Registry:
        """Open a registry. See `roster.Registry.connect`.

        Args:
            url: the store; without it `ROSTER_REGISTRY`, else the user's SQLite file.
            thaw_grace: hold nodes that vanish after an outage of the store, or many at once, as `unknown` for one TTL.
            sync_timeout: seconds that the first lookup waits for the copy.

        Raises:
            ConfigError: the URL is wrong.
            StoreUnavailableError: the store cannot be reached.
        """

        async def opened() -> AsyncRegistry:
            return await AsyncRegistry.connect(url, thaw_grace=thaw_grace, sync_timeout=sync_timeout)

        portal = own_portal()
        made = cls(portal.run(opened()), portal)
        made._opened(made._inner.close)
        return made

    register = giving(AsyncRegistry.register, Registration)
    find_by_capability = waiting(AsyncRegistry.find_by_capability)
    find = waiting(AsyncRegistry.find)
    get = waiting(AsyncRegistry.get)
    capabilities = waiting(AsyncRegistry.capabilities)
    mismatches = waiting(AsyncRegistry.mismatches)
    watch = iterating(AsyncRegistry.watch)
    synced = waiting(AsyncRegistry.synced)
    drain = waiting(AsyncRegistry.drain)
    undrain = waiting(AsyncRegistry.undrain)
    delete = waiting(AsyncRegistry.delete)
    prune = waiting(AsyncRegistry.prune)

    @property
    def staleness(self) -> float:
        """Seconds since the copy was last known to be good; 0.0 while live, infinite before it is there."""
        return self._inner.staleness

    @property
    def quarantined(self) -> Mapping[str, str]:
        """Keys whose documents cannot be read, each with the reason; known after the first lookup."""
        return self._inner.quarantined

    def close(self) -> None:
        """Deregister what was registered here, and close it."""
        self._close(self._inner.close())

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# -- the bus ----------------------------------------------------------------------------------------------------------


class Answer(Facade[AsyncAnswer]):
    """What is on its way back. Made by `MindBus.send_command`."""

    @property
    def started(self) -> bool:
        """Whether the node has said that the work began."""
        return self._inner.started

    result = waiting(AsyncAnswer.result)
    progress = iterating(AsyncAnswer.progress)
    cancel = posting(AsyncAnswer.cancel)


class Events(Facade[AsyncEvents[T]]):
    """Published messages as they come. Made by `MindBus.subscribe` and `MindBus.tap`; see `roster.bus.Events`."""

    @property
    def dropped(self) -> int:
        """How many messages were lost because nobody read them in time."""
        return self._inner.dropped

    def close(self) -> None:
        """Stop listening; what has arrived can still be read."""
        self._close(self._inner.close())

    def __enter__(self) -> Events[T]:
        self._portal.run(self._inner.__aenter__())
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return iterate(self._portal, self._inner)


class MindBus(Facade[AsyncMindBus]):
    """See `roster.MindBus`."""

    @classmethod
    def connect(cls, url: str | None = None, *, source: str = "") -> MindBus:
        """Open the bus. See `roster.MindBus.connect`.

        Args:
            url: the bus; without it `ROSTER_BUS`, else the user's local bus.
            source: who sends, as URI-reference such as `/ai-team/editor-001`.

        Raises:
            ConfigError: the URL is wrong.
            BusUnavailableError: the bus cannot be reached.
        """

        async def opened() -> AsyncMindBus:
            return await AsyncMindBus.connect(url, source=source)

        portal = own_portal()
        made = cls(portal.run(opened()), portal)
        made._opened(made._inner.close)
        return made

    @property
    def url(self) -> str:
        """The bus's URL without secrets."""
        return self._inner.url

    send_command = giving(AsyncMindBus.send_command, Answer)
    send_control = waiting(AsyncMindBus.send_control)
    publish_event = waiting(AsyncMindBus.publish_event)
    publish_control = waiting(AsyncMindBus.publish_control)
    dead_letters = waiting(AsyncMindBus.dead_letters)
    drop_dead_letters = waiting(AsyncMindBus.drop_dead_letters)

    def subscribe(self, *patterns: str) -> Events[Message]:
        """Listen to published messages whose routing key matches one of the patterns (AMQP topics)."""

        async def made() -> AsyncEvents[Message]:
            return self._inner.subscribe(*patterns)

        return Events(self._portal.run(made()), self._portal)

    def tap(self, *patterns: str) -> Events[Published]:
        """Look on at what is published, with the routing key of each message. See `roster.MindBus.tap`."""

        async def made() -> AsyncEvents[Published]:
            return self._inner.tap(*patterns)

        return Events(self._portal.run(made()), self._portal)

    def close(self) -> None:
        """Close it: answers still awaited fail, subscriptions end."""
        self._close(self._inner.close())

    def __enter__(self) -> MindBus:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


# -- the caller and the agent -----------------------------------------------------------------------------------------


class Orchestrator(Facade[AsyncOrchestrator]):
    """See `roster.Orchestrator`."""

    @classmethod
    def connect(
        cls,
        registry_url: str | None = None,
        bus_url: str | None = None,
        *,
        strategy: str = "least_loaded",
        namespace: str | None = None,
        runs_url: str | None = None,
    ) -> Orchestrator:
        """Open registry and bus. See `roster.Orchestrator.connect`.

        Args:
            registry_url: without it `ROSTER_REGISTRY`, else the user's SQLite file.
            bus_url: without it `ROSTER_BUS`, else the user's local bus.
            strategy: how to choose among nodes with room: `least_loaded`, `round_robin`, `random` or `sticky`.
            namespace: the caller's own, whose idempotency keys its calls use.
            runs_url: the database of runs; without it `ROSTER_RUNS`, else a file in the user's state directory.

        Raises:
            ConfigError: a URL, the strategy or the namespace is wrong.
            StoreUnavailableError, BusUnavailableError: one of them cannot be reached.
        """

        async def opened() -> AsyncOrchestrator:
            return await AsyncOrchestrator.connect(
                registry_url, bus_url, strategy=strategy, namespace=namespace, runs_url=runs_url
            )

        portal = own_portal()
        made = cls(portal.run(opened()), portal)
        made._opened(made._inner.close)
        return made

    @property
    def registry(self) -> Registry:
        """The registry that it looks into; it is closed with the orchestrator."""
        return Registry(self._inner.registry, self._portal)

    call = waiting(AsyncOrchestrator.call)
    call_all = waiting(AsyncOrchestrator.call_all)
    pick = waiting(AsyncOrchestrator.pick)
    explain = waiting(AsyncOrchestrator.explain)
    start = waiting(AsyncOrchestrator.start)
    control = waiting(AsyncOrchestrator.control)
    run = waiting(AsyncOrchestrator.run)
    retry = waiting(AsyncOrchestrator.retry)

    @property
    def runs(self) -> Runs:
        """Runs of process cards: begin, look, cancel, approve. Their database is opened at the first use."""
        from roster._sync_runs import Runs  # who only calls need not read the cards' modules

        async def there() -> AsyncRuns:
            return self._inner.runs

        return Runs(self._portal.run(there()), self._portal)

    # Written out: type checkers cannot carry a method with `**options` over.

    def ask(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> CallAnswer:
        """Do as `call` does, and return who did it and which tries it took. `options` are those of `call`."""
        return self._portal.run(self._inner.ask(capability, params, **options))

    def stream(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> Iterator[StreamEvent]:
        """Call, and yield the progress events as they come, then one event of type `result`.

        Leaving the loop early takes the command back. `options` are those of `call`.
        """
        return iterate(self._portal, self._inner.stream(capability, params, **options))

    def close(self) -> None:
        """Close bus and registry; calls that are still open fail."""
        self._close(self._inner.close())

    def __enter__(self) -> Orchestrator:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Node:
    """See `roster.Node`. `with node:` serves in the background; `node.run()` serves until SIGTERM.

    Handlers are plain functions, each run on a thread of its own, and may call this module. Async ones work too (on this
    module's loop), and use `roster` instead.

    Args:
        passport: the passport, its document, or a path to it.
        options: those of `roster.Node`: `registry_url`, `bus_url`, `ttl`, `grace`, `takeover`.

    Raises:
        DocumentError: the passport is wrong.
    """

    def __init__(self, passport: PassportLike, **options: Any) -> None:
        self._inner = AsyncNode(passport, **options)
        self._facade: Facade[AsyncNode] | None = None

    @classmethod
    def load(cls, path: str | os.PathLike[str], **options: Any) -> Node:
        """Make a node from a passport file. See `roster.Node.load`."""
        return cls(NodePassport.load(path), **options)

    @property
    def passport(self) -> NodePassport:
        """Its passport."""
        return self._inner.passport

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return self._inner.key

    @property
    def uid(self) -> str:
        """The incarnation registered now."""
        return self._inner.uid

    @property
    def state(self) -> str:
        """`offline` before the start and after the end, else what the registry is told."""
        return self._inner.state

    @property
    def active_tasks(self) -> int:
        """How many commands are in hand."""
        return self._inner.active_tasks

    # These may be called from any thread as they are.

    def capability(self, name: str) -> Callable[[F], F]:
        """Serve a capability of the passport with the function below. See `roster.Node.capability`."""
        return self._inner.capability(name)

    def check(self, capability: str, *, every: float = 10.0, timeout: float = 5.0) -> Callable[[F], F]:
        """Withdraw one capability while the function below says that it fails. See `roster.Node.check`."""
        return self._inner.check(capability, every=every, timeout=timeout)

    def signal(self, name: str) -> Callable[[F], F]:
        """Serve a control signal with the function below. See `roster.Node.signal`."""
        return self._inner.signal(name)

    def set_condition(
        self, type: str, status: Literal["True", "False", "Unknown"], reason: str = "", message: str = ""
    ) -> None:
        """Show a condition in the node's status. See `roster.Node.set_condition`."""
        self._inner.set_condition(type, status, reason, message)

    def connect_to(self, registry_url: str | None, bus_url: str | None) -> None:
        """Use another registry and bus than those that it was made with. See `roster.Node.connect_to`."""
        self._inner.connect_to(registry_url, bus_url)

    def shutdown(self) -> None:
        """Have `run` end in good order. See `roster.Node.shutdown`."""
        self._inner.shutdown()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT, then leave in good order. See `roster.Node.run`."""
        self._inner.run()

    # -- in the background ----------------------------------------------------------------------------------------

    def update(
        self, *, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
    ) -> None:
        """Change labels or annotations of the registered passport while it serves. See `roster.Node.update`."""
        own_portal().run(self._inner.update(labels=labels, annotations=annotations))

    def occupy(self, tasks: int) -> Load:
        """Count so many tasks as running beside the commands, and return the load. See `roster.Node.occupy`."""
        return own_portal().run(self._inner.occupy(tasks))

    def start(self) -> None:
        """Register and begin to serve, in the background. See `roster.Node.start`."""
        portal = own_portal()
        portal.run(self._inner.start())
        self._facade = Facade(self._inner, portal)
        self._facade._opened(self._inner.stop)

    def stop(self, grace: float | None = None) -> bool:
        """Leave in good order; return whether everything in hand was finished in time. See `roster.Node.stop`."""
        facade, self._facade = self._facade, None
        return True if facade is None else facade._close(self._inner.stop(grace)) is not False

    def __enter__(self) -> Node:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()
