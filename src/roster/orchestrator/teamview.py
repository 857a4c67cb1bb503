"""What one orchestrator knows of its team: the nodes, their load, who is suspect, who has room. Its calls ask here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection
from typing import cast

from roster._clock import boottime
from roster.bus.base import Bus
from roster.bus.context import current_command
from roster.bus.keys import caller_namespace, caller_source
from roster.errors import Code, ConfigError, DeliveryError, PassedOver
from roster.orchestrator.budget import RetryBudget
from roster.orchestrator.contracts import Contracts
from roster.orchestrator.inquiries import Inquiries
from roster.orchestrator.keyed import Keys
from roster.orchestrator.query import Query
from roster.orchestrator.suspects import Suspects
from roster.orchestrator.vigil import Vigil
from roster.orchestrator.waiting import WaitingRoom
from roster.registry import NodeEvent, NodeRecord, Registry
from roster.routing import Router

_SYNC_DEADLINE = 30.0


class TeamView:
    """The team as one orchestrator sees it; it belongs to the loop that opened that.

    Args:
        registry: whose copy tells of the nodes.
        bus: what reaches them.
        strategy: how to choose among nodes with room.
        namespace: the caller's own; None: that of the node whose handler calls, else the environment's.

    Attributes:
        source: who calls, where no handler does.
        closed: whether its calls have ended, and no new ones begin.
    """

    def __init__(self, registry: Registry, bus: Bus, *, strategy: str, namespace: str | None) -> None:
        self.registry = registry
        self.bus = bus
        self.rng = random.Random()  # noqa: S311 - spreads load, keeps no secret
        self.router = Router(strategy=strategy, rng=self.rng)
        self.budget = RetryBudget()
        self.contracts = Contracts()
        self.waiting = WaitingRoom()
        self.inquiries = Inquiries(self)
        self.suspects = Suspects(self.router)
        self.source = caller_source("orchestrator", caller_namespace(namespace))
        self._namespace = namespace
        self.keys = Keys(self)
        self.vigil = Vigil(self)
        self._nodes: dict[str, NodeRecord] = {}
        self._starting = asyncio.Lock()
        self._remove_listener: Callable[[], None] | None = None
        self.closed = False

    # -- what its calls ask ---------------------------------------------------------------------------------------

    def choose(self, query: Query, exclude: Collection[str] = ()) -> NodeRecord | None:
        """Return a node for a query, None if nobody can or nobody has room: cheap, and says nothing of why."""
        # Spelt out, for each call comes here: `where` would double what this takes.
        chosen = self.router.choose(
            query.capability,
            version=query.version,
            selector=query.selector,
            namespace=query.namespace,
            strategy=query.strategy,
            sticky_key=query.sticky_key,
            exclude=exclude,
        )
        return cast("NodeRecord | None", chosen)  # it knows no other nodes than those `_on_event` gave it

    def refuse(self, query: Query, exclude: Collection[str] = ()) -> NodeRecord:
        """Do as `choose`, and raise where that returns None.

        Raises:
            NoCapableNodesError: nobody can do it; with the table of why.
            AllNodesBusyError: those who can have no room; with the table of why.
        """
        chosen = self.router.pick(
            query.capability,
            **query.where,
            strategy=query.strategy,
            sticky_key=query.sticky_key,
            exclude=exclude,
        )
        return cast("NodeRecord", chosen)

    def rows(self, query: Query, exclude: Collection[str] = ()) -> list[PassedOver]:
        """Return the table of a query: every node that has the capability, with one reason each."""
        return self.router.explain(
            query.capability,
            **query.where,
            exclude=exclude,
        )

    def node(self, key: str) -> NodeRecord | None:
        """Return a node from the local copy by `namespace/name`."""
        return self._nodes.get(key)

    def nodes_with(self, capability: str) -> list[NodeRecord]:
        """Return the nodes of the local copy that have a capability, dead ones included."""
        return [node for node in self._nodes.values() if node.passport.capability(capability) is not None]

    def room(self, node: NodeRecord) -> None:
        """A node may have room: wake as many calls that wait for one of its capabilities as it takes."""
        if self.waiting:
            load = self.router.load(node.key)
            spare = 1 if load is None else max(1, load.capacity - load.active)
            for capability in node.capabilities:
                self.waiting.wake(capability, spare)
        if self.keys.waiting:
            self.keys.room(node.key)

    def source_here(self) -> str:
        """Return who calls: inside a handler its node's namespace does, unless the orchestrator was given one."""
        handling = current_command.get() if self._namespace is None else None
        if handling is None:
            return self.source
        return f"/{handling.node.partition('/')[0]}/{self.source.split('/', 2)[2]}"

    def deadline(self, timeout: float) -> float:
        """Return the deadline: never later than that of the command being handled here."""
        deadline = boottime() + timeout
        handling = current_command.get()
        if handling is not None and handling.deadline is not None:
            return min(deadline, handling.deadline)
        return deadline

    # -- life -----------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Bring up the copy of the registry, unless it is there.

        Raises:
            ConfigError: this has been closed.
            StoreError: the registry cannot be read.
        """
        if self.closed:
            raise ConfigError("this orchestrator is closed")
        if self._remove_listener is not None:
            return  # each call asks
        async with self._starting:
            if self._remove_listener is None:
                await asyncio.wait_for(self.registry.synced(), _SYNC_DEADLINE)
                self._remove_listener = self.registry.informer.add_listener(self._on_event)

    def _on_event(self, event: NodeEvent) -> None:
        """Keep the router's picture: called by the informer, in order, for each change."""
        record = event.record
        key = f"{event.namespace}/{event.name}"
        if event.type == "removed" or record is None:
            self._nodes.pop(key, None)
            self.suspects.forget(key)
            self.router.remove(key)
            self.keys.gone(key)
            self.vigil.node_gone(key, None, left=True)
            return
        before = self._nodes.get(key)
        if before is not None and (record.uid != before.uid or record.state == "offline"):
            self.vigil.node_gone(key, record.uid if record.state != "offline" else None)
        self._nodes[key] = record
        self.keys.seen(before, record)
        self.suspects.seen(key, record.uid)
        self.router.update(record)
        if record.state in ("ready", "busy"):
            for capability in record.capabilities:
                self.waiting.wake(capability, record.capacity)

    def close(self) -> None:
        """Take the commands of all open calls back; the calls fail."""
        self.closed = True
        if self._remove_listener is not None:
            self._remove_listener()
        self.suspects.close()
        self.inquiries.close()
        self.vigil.end_all(
            lambda outstanding: DeliveryError(
                "the orchestrator was closed, and took the command back",
                code=Code.CANCELLED,
                outcome=outstanding.known,
                retryable=False,
            )
        )
        self.vigil.close()
