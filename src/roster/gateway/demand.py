"""How much work there is for a capability, and how much room: what an autoscaler and a client ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from roster.errors import AllNodesBusyError, NoCapableNodesError
from roster.orchestrator.query import Query
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.gateway.core import Gateway


def offering(gateway: Gateway, capability: str, namespace: str | None) -> list[NodeRecord]:
    """Return the nodes that offer a capability now, in whatever state."""
    found = gateway.registry.informer.catalog.index.by_capability(capability).values()
    return [record for record in found if namespace is None or record.namespace == namespace]


def load_of(gateway: Gateway, record: NodeRecord) -> tuple[int, int]:
    """Return a node's tasks and its capacity: as the calls of this gateway know them, else as the registry does."""
    load = gateway.orchestrator.team.router.load(record.key)
    if load is None:
        return record.active_tasks, record.capacity
    return load.active, load.capacity


def availability(gateway: Gateway, capability: str, namespace: str | None) -> dict[str, Any]:
    """Return whether the team can take work for a capability now."""
    records = offering(gateway, capability, namespace)
    healthy = [record for record in records if record.healthy]
    loads = [load_of(gateway, record) for record in healthy]
    state, retry_after = "available", None
    try:
        gateway.orchestrator.team.refuse(Query(capability, namespace=namespace))
    except AllNodesBusyError as error:
        state, retry_after = "busy", round(error.retry_after, 3)
    except NoCapableNodesError:
        known = records or any(
            namespace is None or node.namespace == namespace
            for node in gateway.orchestrator.team.nodes_with(capability)
        )
        state = "unavailable" if known else "unknown"
    free = sum(max(0, capacity - active) for active, capacity in loads) if state == "available" else 0
    return {
        "capability": capability,
        "state": state,
        "free": free,
        "healthy": len(healthy),
        "retry_after": retry_after,
    }


def demand(gateway: Gateway, capability: str, namespace: str | None) -> dict[str, Any]:
    """Return how much work there is for a capability: never 0 while one of its nodes is busy."""
    # Draining nodes count as well: what they run is not done yet, and their machine is needed until then.
    records = [
        one for one in offering(gateway, capability, namespace) if one.state not in ("offline", "unknown")
    ]
    running = queued = capacity = 0
    for record in records:
        active, room = load_of(gateway, record)
        running += min(active, room)
        queued += max(0, active - room)
        if record.healthy:
            capacity += room
    if namespace is None and any(record.healthy for record in records):
        # Without any node those who wait in this room are runs, which are counted below.
        queued += gateway.orchestrator.team.waiting.waiting(capability)
    waiting = gateway.calls.waiting_for_node(capability, namespace) + gateway.runs_waiting(capability)
    return {
        "capability": capability,
        "queued": queued,
        "running": running,
        "waiting_for_node": waiting,
        "total": queued + running + waiting,
        "capacity": capacity,
        "healthy": sum(record.healthy for record in records),
        "staleness": round(gateway.staleness, 3),
    }
