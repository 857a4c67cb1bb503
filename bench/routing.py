"""How long the choice of a node takes, and the founding document's own lookup over the same nodes."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import yaml

from bench import Row, progress, runs
from roster.passport import Selector
from roster.routing import Router

NAME = "Routing: choose a node"

SIZES = (10, 100, 1_000, 10_000, 100_000)
PICKS = 20_000
BATCH = 1_000
CAPABILITY = "write_article"
# How often the founding code is run: yaml.safe_load takes milliseconds a passport. Beyond the last size it is
# extrapolated, and the row says so.
FOUNDING_RUNS = {10: 3, 100: 2, 1_000: 1}


@dataclass(frozen=True, slots=True)
class Node:
    """A light stand-in for the registry's record of a node: routing reads the same attributes."""

    key: str
    name: str
    active_tasks: int
    capacity: int
    namespace: str = "ai-team"
    uid: str = "u1"
    state: str = "ready"
    seq: int = 1
    labels: Mapping[str, str] = field(default_factory=lambda: {"role": "writer", "team": "content"})
    capabilities: Mapping[str, str | None] = field(
        default_factory=lambda: {CAPABILITY: None, "edit_text": None}
    )
    withdrawn: tuple[str, ...] = ()

    @property
    def mindbus_queue(self) -> str:
        """Return where its commands go."""
        return f"agent.{self.name}"

    def matches(self, selector: Selector) -> bool:
        """Whether the labels satisfy the selector."""
        return selector.matches(self.labels, {})


def team(size: int) -> list[Node]:
    """Return that many nodes with room for 2 to 8 tasks, up to half of it taken."""
    rng = random.Random(size)
    nodes = []
    for number in range(size):
        capacity = rng.choice((2, 3, 4, 8))
        name = f"writer-{number:06}"
        nodes.append(Node(f"ai-team/{name}", name, rng.randint(0, capacity // 2), capacity))
    return nodes


def run() -> list[Row]:
    """Measure."""
    rows: list[Row] = []
    medians: dict[int, float] = {}
    for size in SIZES:
        progress(f"pick among {size:,} nodes")
        router, first = _filled(size)
        counted = [_pick_and_sent(router) for _ in range(runs())]
        cycles = [_cycle(router) for _ in range(runs())]
        medians[size] = statistics.median(counted)
        note = f"a run: {PICKS:,} picks, the median batch; done() is between batches, not in the time"
        rows.append(Row.measured(f"pick + sent, {size:,} nodes", counted, "us", goal="<= 3", note=note))
        rows.append(Row.measured(f"pick + sent + done with a load report, {size:,} nodes", cycles, "us"))
        if size >= 10_000:
            rows.append(Row(f"first pick of a new question, {size:,} nodes", first * 1e3, "ms"))
    flat = medians[SIZES[-1]] / medians[SIZES[0]]
    rows.append(Row(f"pick + sent, {SIZES[-1]:,} nodes against {SIZES[0]}", flat, "times", note="1 is flat"))
    rows += _founding(medians)
    return rows


def _filled(size: int) -> tuple[Router, float]:
    """Return a router that knows the team, and the seconds that its first pick took."""
    router = Router(rng=random.Random(1))
    for node in team(size):
        router.update(node)
    began = time.perf_counter()
    router.pick(CAPABILITY)
    return router, time.perf_counter() - began


def _pick_and_sent(router: Router) -> float:
    """Return microseconds for one choice counted as sent."""
    # No more than half of the room is taken before the batch is given back, so that ten nodes do as well as
    # 100 000; batches are short, so that their median leaves out what else the machine was doing.
    batch = min(BATCH, PICKS, router.free(CAPABILITY) // 2)
    spent = []
    for _ in range(PICKS // batch):
        keys = []
        began = time.perf_counter()
        for _ in range(batch):
            key = router.pick(CAPABILITY).key
            router.sent(key)
            keys.append(key)
        spent.append((time.perf_counter() - began) / batch)
        for key in keys:
            router.done(key, "ok", duration=0.1)
    return statistics.median(spent) * 1e6


def _cycle(router: Router) -> float:
    """Return microseconds for choice, sending and the answer with the node's load."""
    batch = min(BATCH, PICKS)
    spent = []
    for turn in range(PICKS // batch):
        began = time.perf_counter()
        for seq in range(turn * batch, (turn + 1) * batch):
            key = router.pick(CAPABILITY).key
            router.sent(key)
            router.done(key, "ok", load=(1, 0, 4, seq + 10), duration=0.1)
        spent.append((time.perf_counter() - began) / batch)
    return statistics.median(spent) * 1e6


def _founding(medians: Mapping[int, float]) -> Iterator[Row]:
    """Measure the founding document's lookup, health check and choice, as printed there."""
    each = 0.0
    for size in SIZES:
        what = f"founding document's lookup, {size:,} nodes"
        times = FOUNDING_RUNS.get(size)
        if times is not None:
            progress(f"the founding document's lookup among {size:,} nodes")
            lookup = _founding_lookup(size)
            samples = [_timed(lookup) for _ in range(times)]
            each = statistics.median(samples) / size
            yield Row.measured(what, [seconds * 1e3 for seconds in samples], "ms")
            note = "measured"
        else:
            note = f"EXTRAPOLATED from {max(FOUNDING_RUNS):,} nodes, not measured"
            yield Row(what, each * size * 1e3, "ms", note=note)
        ratio = each * size * 1e6 / medians[size]
        yield Row(f"  the same / pick + sent, {size:,} nodes", ratio, "times", note=note)


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


class _Etcd:
    """Answers `get_prefix` from memory: the founding code pays for its own work alone, not for a server."""

    def __init__(self, nodes: list[Node]) -> None:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        self._pairs = [(yaml.dump(_passport(node, now), allow_unicode=True).encode(), None) for node in nodes]

    def get_prefix(self, prefix: str) -> Iterator[tuple[bytes, None]]:
        """Yield every value; all keys here have the prefix."""
        return iter(self._pairs)


def _passport(node: Node, heartbeat: str) -> dict[str, Any]:
    """Return the founding document's passport for a node."""
    return {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {
            "name": node.name,
            "namespace": node.namespace,
            "labels": dict(node.labels),
            "annotations": {"description": "Пишет статьи и контент"},
        },
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [
                {
                    "name": "write_article",
                    "description": "Написание статей",
                    "input_schema": {"topic": "string", "style": "string"},
                    "output_schema": {"article": "string", "metadata": "object"},
                },
                {
                    "name": "edit_text",
                    "description": "Редактирование текста",
                    "input_schema": {"text": "string"},
                    "output_schema": {"edited_text": "string"},
                },
            ],
            "communication": {"mindbus_queue": node.mindbus_queue, "mindbus_routing_key": "cmd.writer.#"},
            "resources": {"llm_model": "gpt-4", "max_concurrent_tasks": node.capacity},
        },
        "status": {
            "state": "ready",
            "registered_at": heartbeat,
            "last_heartbeat": heartbeat,
            "active_tasks": node.active_tasks,
        },
    }


def _founding_lookup(size: int) -> Callable[[], object]:
    """Return the founding document's code, closed over a team: the two functions are its own, line for line.

    It names `select_least_loaded` and does not print it; the least `active_tasks / max_concurrent_tasks` is
    what it must come to.
    """
    etcd = _Etcd(team(size))

    def find_nodes_by_capability(capability_name: str) -> list[dict[str, Any]]:
        nodes = []

        for value, _metadata in etcd.get_prefix("/ai-team/nodes/"):
            passport = yaml.safe_load(value.decode("utf-8"))

            for cap in passport["spec"].get("capabilities", []):
                if cap["name"] == capability_name:
                    nodes.append(passport)
                    break

        return nodes

    def is_node_healthy(passport: dict[str, Any]) -> bool:
        last_heartbeat = datetime.fromisoformat(passport["status"]["last_heartbeat"].replace("Z", "+00:00"))

        age = datetime.now(UTC) - last_heartbeat

        return age.total_seconds() < 60

    def load(passport: dict[str, Any]) -> float:
        active: int = passport["status"]["active_tasks"]
        capacity: int = passport["spec"]["resources"]["max_concurrent_tasks"]
        return active / capacity

    def lookup() -> object:
        writers = find_nodes_by_capability(CAPABILITY)
        healthy_writers = [node for node in writers if is_node_healthy(node)]
        return min(healthy_writers, key=load)

    return lookup
