"""The strategies as plain functions on a list of nodes, for code that keeps no router."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import TypeVar

from roster.errors import NoCapableNodesError, PassedOver
from roster.routing.load import clamp, rank_of
from roster.routing.strategies import Strategy, make_strategy
from roster.routing.tier import Seat, Tier

N = TypeVar("N")


def select_best_node(
    nodes: Iterable[N],
    strategy: str | Strategy = "least_loaded",
    *,
    key: str | None = None,
    rng: random.Random | None = None,
) -> N:
    """Choose one node of a list.

    A node may be a passport as a plain dict, a `NodePassport`, a record that `find_by_capability` returned,
    or anything with a `.passport`. Its load is `active_tasks` (0 where it says nothing) of
    `max_concurrent_tasks` (1 where it says nothing). Nodes that say they are starting, draining or offline
    are passed over; those of unknown state come last. A list is all there is and nobody waits here: when
    every node is full, the strategy chooses among the full ones.

    Args:
        nodes: where to choose from.
        strategy: the name of a strategy, or an instance. A name begins afresh with each call, so
            `round_robin` by name is a first turn each time, drawn by chance; an instance `RoundRobin()`
            remembers the position in the list.
        key: what calls that belong together share, for `sticky`.
        rng: where chance comes from.

    Raises:
        NoCapableNodesError: the list is empty, or every node in it was passed over.
        ConfigError: there is no such strategy, or `sticky` has no key.

    Example:
        target = select_best_node(registry.find_by_capability("write_article"))
    """
    chooser = make_strategy(strategy) if isinstance(strategy, str) else strategy
    chance = rng if rng is not None else random.Random()  # noqa: S311 - spreads load, guards nothing
    groups: tuple[Tier[N], ...] = (Tier(), Tier(), Tier(), Tier())
    passed: list[PassedOver] = []
    for order, node in enumerate(nodes):
        name, state, active, capacity = _facts(node)
        if state in ("ready", "busy"):
            group = 0
        elif state == "unknown":
            group = 2
        else:
            passed.append(PassedOver(name, f"state {state}", state))
            continue
        spare = capacity - active
        groups[group if spare > 0 else group + 1].join(
            Seat(node, name, order, rank_of(active, capacity), max(1, spare))
        )
    for tier in groups:
        seat: Seat[N] | None = chooser.choose(tier, chance, key, ())
        if seat is not None:
            return seat.what
    if not passed:
        raise NoCapableNodesError("there is no node to choose from: the list is empty")
    raise NoCapableNodesError("no node of the list can take work: each was passed over", passed_over=passed)


def select_least_loaded(nodes: Iterable[N]) -> N:
    """Choose the node with the least load of a list, any of them where several have it.

    Raises:
        NoCapableNodesError: as `select_best_node`.
    """
    return select_best_node(nodes)


def _facts(node: object) -> tuple[str, str, int, int]:
    """Return name, state, active tasks and capacity of whatever stands for a node."""
    if hasattr(node, "active_tasks") and hasattr(node, "capacity"):
        active, capacity = clamp(node.active_tasks), clamp(node.capacity)
        state = getattr(node, "state", "ready")
        return str(getattr(node, "key", "")), str(state), active or 0, 1 if capacity is None else capacity
    if not isinstance(node, Mapping):
        passport = getattr(node, "passport", None)
        if passport is None:
            raise TypeError(
                f"a node is a passport, a mapping like one, or a record with .active_tasks and .capacity,"
                f" not {type(node).__name__}"
            )
        return _facts(passport)
    metadata, status = _map(node, "metadata"), _map(node, "status")
    resources = _map(_map(node, "spec"), "resources")
    active = clamp(status.get("active_tasks"))
    capacity = clamp(resources.get("max_concurrent_tasks"))
    name = f"{metadata.get('namespace', 'default')}/{metadata.get('name', '')}"
    return name, str(status.get("state", "ready")), active or 0, 1 if capacity is None else capacity


def _map(of: Mapping[str, object], name: str) -> Mapping[str, object]:
    """Return the section of this name, empty where it is missing or no mapping."""
    found = of.get(name)
    return found if isinstance(found, Mapping) else {}
