"""A team of agents in one test: a private registry and bus, nodes made from functions, and faults to switch on."""

from __future__ import annotations

import itertools
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from tempfile import TemporaryDirectory
from typing import Any

from roster.bus import MindBus, open_bus
from roster.bus.base import Bus
from roster.bus.memory import MemoryBus
from roster.bus.memory import stand_ins as bus_stand_ins
from roster.errors import ConfigError, NodeError
from roster.node import Node
from roster.orchestrator import CallAnswer, NodeAnswer, Orchestrator, StreamEvent
from roster.passport.document import PassportLike
from roster.registry import Registry
from roster.store import Store, open_store
from roster.store.memory import MemoryStore
from roster.store.memory import stand_ins as store_stand_ins
from roster.testing.bell import Bell
from roster.testing.bus import BusFaults, FaultyBus
from roster.testing.clock import Clock
from roster.testing.ledger import PATIENCE, Ledger
from roster.testing.member import Member
from roster.testing.passports import Schema, capability_of, name_of, passport_of
from roster.testing.store import FaultyStore, StoreFaults

Function = Callable[..., Any]

TTL = 30.0


class Team:
    """A registry, a bus, an orchestrator and as many nodes as a test adds, private to this object.

    Everything is real but the engines underneath: nodes register and serve, the orchestrator routes, checks, retries and
    fails over, as in production. The faults are made where the engines are. Time in the registry stands still until
    `advance` moves it, so a slow machine loses no lease.

    Args:
        registry_url: an engine to use instead of one in memory, such as `sqlite:////tmp/registry.db`.
        bus_url: the same for the bus, such as `local:///tmp/bus`.
        strategy: how the orchestrator chooses among nodes with room.
        thaw_grace: hold nodes as `unknown` for one TTL when many vanish at once, as production does; off here, so that a
            node that died is `offline` at once, however small the team.

    Attributes:
        orchestrator: to call with, and to hand to the code under test.
        registry: the orchestrator's registry.
        mindbus: a client of the bus.
        ledger: the commands that reached the nodes, in order.
        registry_url: opens this registry from anywhere in this process: `Orchestrator.connect(team.registry_url, ...)`.
        bus_url: the same for the bus.

    Example:
        >>> async with Team() as team:
        ...     writer = await team.add("write_article", lambda topic: {"article": f"All about {topic}"})
        ...     assert await team.call("write_article", {"topic": "bees"}) == {"article": "All about bees"}
        ...     assert writer.params == [{"topic": "bees"}]
    """

    orchestrator: Orchestrator
    registry: Registry
    mindbus: MindBus

    def __init__(
        self,
        registry_url: str | None = None,
        bus_url: str | None = None,
        *,
        strategy: str = "least_loaded",
        thaw_grace: bool = False,
    ) -> None:
        self._name = f"team-{uuid.uuid4().hex}"
        self.registry_url = f"memory://{self._name}"
        self.bus_url = f"memory://{self._name}"
        self._real_registry = registry_url
        self._real_bus = bus_url
        self._strategy = strategy
        self._thaw_grace = thaw_grace
        self._clock = Clock()
        self._bell = Bell()
        self.ledger = Ledger(self._bell)
        self.store_faults = StoreFaults(self._bell)
        self.bus_faults = BusFaults(self.ledger, self._bell)
        self.members: list[Member] = []
        self._numbers = itertools.count(1)
        self._open: AsyncExitStack | None = None
        self._store: Store

    # -- life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Team:
        if self._open is not None:
            raise ConfigError("this team is open already")
        store_stand_ins[self._name] = lambda: FaultyStore(self._make_store(), self.store_faults)
        bus_stand_ins[self._name] = lambda: FaultyBus(self._make_bus(), self.bus_faults)
        async with AsyncExitStack() as stack:
            stack.callback(store_stand_ins.pop, self._name)
            stack.callback(bus_stand_ins.pop, self._name)
            # Beside the faults: it sees the store as it is, and keeps one in memory from being forgotten.
            self._store = await stack.enter_async_context(self._make_store())
            self.registry = await Registry.connect(self.registry_url, thaw_grace=self._thaw_grace)
            folder = stack.enter_context(TemporaryDirectory(prefix="roster-team-"))
            self.orchestrator = Orchestrator(
                self.registry,
                open_bus(self.bus_url),
                strategy=self._strategy,
                runs_url=f"sqlite:///{folder}/runs.sqlite",
            )
            await stack.enter_async_context(self.orchestrator)
            await self.orchestrator.bus.__aenter__()
            await self.orchestrator.start()
            self.registry.informer.add_listener(lambda _: self._bell.ring())
            self.mindbus = await stack.enter_async_context(MindBus.connect(self.bus_url))
            stack.push_async_callback(self._stop_all)
            self._open = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._open is not None:
            stack, self._open = self._open, None
            await stack.aclose()

    async def _stop_all(self) -> None:
        self.store_faults.away = self.bus_faults.away = False
        for member in reversed(self.members):
            # No grace: a handler that a test left hanging must not hold the next test up.
            await member.node.stop(grace=0)

    def _make_store(self) -> Store:
        if self._real_registry is not None:
            return open_store(self._real_registry)
        return MemoryStore(self._name, now=self._clock.now)

    def _make_bus(self) -> Bus:
        return open_bus(self._real_bus) if self._real_bus is not None else MemoryBus(self._name)

    @property
    def environment(self) -> dict[str, str]:
        """What to set so that code which connects by itself, without URLs, meets this team: `ROSTER_REGISTRY`, `ROSTER_BUS`.

        Example:
            >>> for name, value in team.environment.items():
            ...     monkeypatch.setenv(name, value)
        """
        return {"ROSTER_REGISTRY": self.registry_url, "ROSTER_BUS": self.bus_url}

    # -- nodes ----------------------------------------------------------------------------------------------------

    async def add(
        self,
        capability: str,
        function: Function,
        *,
        name: str | None = None,
        namespace: str = "default",
        labels: Mapping[str, str] | None = None,
        capacity: int = 3,
        input_schema: Schema | None = None,
        output_schema: Schema | None = None,
        idempotent: bool | None = None,
        version: str | None = None,
        timeout: float | None = None,
        ttl: float = TTL,
    ) -> Member:
        """Start a node that serves a function, and return when calls can go to it.

        Args:
            capability: what it does.
            function: sync or async, as under `@node.capability`.
            name: of the node; without it the capability's and a number, such as `write-article-1`.
            namespace: of the node.
            labels: of the node.
            capacity: how many commands it runs at once.
            input_schema: JSON Schema or shorthand; without it the function's annotations give it.
            output_schema: the same for the result.
            idempotent: whether a repetition is harmless.
            version: of the capability.
            timeout: seconds that one try may take.
            ttl: seconds of its lease.

        Raises:
            DocumentError: these make no valid passport.
            NodeError: the function contradicts the schemas.
            NameConflictError: the name is taken.
        """
        declared = capability_of(
            capability,
            function,
            input_schema=input_schema,
            output_schema=output_schema,
            idempotent=idempotent,
            version=version,
            timeout=timeout,
        )
        passport = passport_of(
            name or name_of(capability, next(self._numbers)),
            declared,
            namespace=namespace,
            labels=labels,
            capacity=capacity,
        )
        return await self.add_node(passport, {capability: function}, ttl=ttl)

    async def add_node(
        self,
        node: Node | PassportLike,
        handlers: Mapping[str, Function] | None = None,
        *,
        ttl: float = TTL,
    ) -> Member:
        """Start a node of yours on this team's registry and bus, and return when calls can go to it.

        Args:
            node: a `roster.Node` that has not been started; or a passport, its document or the path of its file.
            handlers: with a passport: its functions by capability.
            ttl: seconds of its lease, with a passport.

        Raises:
            NodeError: handlers and passport contradict each other, or the node runs already.
            DocumentError: the passport is wrong.
            NameConflictError: the name is taken.
        """
        if self._open is None:
            raise ConfigError("this team is not open: `async with Team() as team:`")
        if isinstance(node, Node):
            if handlers:
                raise NodeError(f"{node.key} is a node: it has its handlers already")
        else:
            node = Node(node, ttl=ttl)
            for capability, function in (handlers or {}).items():
                node.capability(capability)(function)
        node.connect_to(self.registry_url, self.bus_url)
        member = Member(self, node)
        await node.start()
        self.members.append(member)
        await self.settled()
        return member

    # -- calling --------------------------------------------------------------------------------------------------

    async def call(self, capability: str, params: Mapping[str, Any] | None = None, **options: Any) -> Any:
        """Call as `Orchestrator.call` does, with its options."""
        return await self.orchestrator.call(capability, params, **options)

    async def ask(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> CallAnswer:
        """Call, and return who did it and which tries it took: `Orchestrator.ask`."""
        return await self.orchestrator.ask(capability, params, **options)

    async def call_all(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> list[NodeAnswer]:
        """Have every node do it that can: `Orchestrator.call_all`."""
        return await self.orchestrator.call_all(capability, params, **options)

    def stream(
        self, capability: str, params: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        """Call, and yield progress, then the result: `Orchestrator.stream`."""
        return self.orchestrator.stream(capability, params, **options)

    # -- waiting --------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Return when every copy of the registry, here and in the code under test, shows what the store holds now.

        Raises:
            AssertionError: one does not within 10 s.
        """
        if self.store_faults.away:
            return
        revision = (await self._store.info()).revision
        await self._bell.until(
            lambda: self.store_faults.all_have_seen(revision), PATIENCE, f"the copies at revision {revision}"
        )

    async def until(
        self, condition: Callable[[], object], *, timeout: float = PATIENCE, what: str = "a condition"
    ) -> None:
        """Return when `condition()` is true; it is looked at after each change of the registry or the ledger.

        Raises:
            AssertionError: it was not within `timeout` seconds.
        """
        await self._bell.until(condition, timeout, what)

    # -- faults ---------------------------------------------------------------------------------------------------

    async def advance(self, seconds: float) -> None:
        """Move the registry's time on: nodes that reach the store keep their leases, those of all others run out.

        The deadlines of calls run in real time, as ever.

        Raises:
            ConfigError: this team's registry is no store in memory: its time cannot be moved.
        """
        if self._real_registry is not None:
            raise ConfigError("only the time of a registry in memory can be moved: leave registry_url out")
        while seconds > 0:
            leases = [lease for client in self.store_faults.clients for lease in client.leases]
            step = min([seconds, *(lease.ttl / 3 for lease in leases)])
            self._clock.advance(step)
            for client in self.store_faults.clients:
                await client.renew_leases()
            await self._store.info()  # a store in memory ends leases when it is asked for something
            seconds -= step
        await self.settled()

    @asynccontextmanager
    async def store_away(self) -> AsyncIterator[Team]:
        """Take the store away from everybody: lookups go on from the copies, nobody can register, no lease is renewed."""
        self.store_faults.away = True
        self.store_faults.break_watches()
        informer = self.registry.informer
        await self._bell.until(lambda: not informer.connected, PATIENCE, "the copy to notice it")
        try:
            yield self
        finally:
            self.store_faults.away = False
            await self.settled()

    @asynccontextmanager
    async def bus_away(self) -> AsyncIterator[Team]:
        """Take the bus away from everybody who would send: `BusUnavailableError`, outcome `not_sent`."""
        self.bus_faults.away = True
        try:
            yield self
        finally:
            self.bus_faults.away = False

    # -- for members ----------------------------------------------------------------------------------------------

    async def ask_for_sign_of_life(self, key: str) -> None:
        """Have the orchestrator ping a node now rather than when a command of it is overdue."""
        record = self.orchestrator.node(key)
        if record is not None and record.state != "offline":
            await self.orchestrator.team.vigil.ask(record)
