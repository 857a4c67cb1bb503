"""The informer: how fast a cold copy is there, what it weighs, and what a lookup costs."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

from bench import AnyRow, Row, progress, runs
from roster.registry import NodeStatus, Registry
from roster.registry.holder import this_process
from roster.registry.keys import node_key, status_key
from roster.store import MAX_TTL, Put, Store

NAME = "Registry: the local copy"

DOCUMENT_BYTES = 2048
SIZES = (10_000, 100_000)
CAPABILITIES = ("write_article", "edit_text", "translate", "summarize")


def document(number: int) -> bytes:
    """Return a registered passport of 2 KB; every tenth node has a set of labels of its own."""
    labels = {"role": f"role-{number % 7}", "zone": f"zone-{number % 3}"}
    if number % 10 == 0:
        labels["host"] = f"host-{number}"
    made: dict[str, Any] = {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {
            "name": f"node-{number:06d}",
            "namespace": f"team-{number % 20}",
            "labels": labels,
            "annotations": {"description": ""},
            "uid": f"00000000-0000-4000-8000-{number:012d}",
            "generation": 1,
        },
        "spec": {
            "type": "agent",
            "version": "1.0.0",
            "capabilities": [
                {
                    "name": name,
                    "description": "Does what its name says, as well as it can.",
                    "input_schema": {"topic": "string", "style": "string?"},
                    "output_schema": {"article": "string", "metadata": "object"},
                }
                for name in (CAPABILITIES[number % 4], CAPABILITIES[(number + 1) % 4])
            ],
            "communication": {"mindbus_queue": f"agent.node.{number:06d}"},
            "resources": {"llm_model": "gpt-4", "max_concurrent_tasks": 3},
        },
        "status": {"state": "ready", "last_heartbeat": "2025-12-15T10:00:00.000Z"},
    }
    missing = DOCUMENT_BYTES - len(json.dumps(made).encode())
    made["metadata"]["annotations"]["description"] = "x" * missing
    return json.dumps(made).encode()


async def fill(store: Store, size: int) -> None:
    """Put so many registered nodes into a store."""
    lease = await store.grant(MAX_TTL)
    holder = this_process()
    for first in range(0, size, 32):
        ops: list[Put] = []
        for number in range(first, min(first + 32, size)):
            said = NodeStatus(
                f"00000000-0000-4000-8000-{number:012d}",
                capacity=3,
                holder=holder,
                registered_at="2025-12-15T10:00:00.000Z",
                updated_at="2025-12-15T10:00:00.000Z",
            )
            identity = (f"team-{number % 20}", f"node-{number:06d}")
            ops.append(Put(node_key(*identity), document(number), lease.id))
            ops.append(Put(status_key(*identity), said.encode(), lease.id))
        await store.transact([], ops)


def resident() -> int:
    """Return the resident memory of this process in bytes, 0 where there is no /proc."""
    try:
        status = Path("/proc/self/status").read_text("ascii")
    except OSError:
        return 0  # not Linux: the walked figure stands alone
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


async def measure(size: int) -> dict[str, float]:
    """Fill a store in this process, then bring a copy up, and look things up in it."""
    async with Registry.connect("memory://bench?history=1") as writer:
        await fill(writer.store, size)
        gc.collect()
        before = resident()
        async with Registry.connect("memory://bench") as registry:
            began = perf_counter()
            await registry.synced()
            synced = perf_counter() - began
            gc.collect()
            grown = resident() - before
            assert len(registry.informer.all()) == size
            figures = {"sync": synced, "grown": float(grown), **weigh(registry, size)}

            def timed(what: Any, times: int) -> float:
                began = perf_counter()
                for _ in range(times):
                    what()
                return (perf_counter() - began) / times

            informer = registry.informer
            figures["get"] = timed(lambda: informer.get("team-7/node-000007"), 100_000)
            began = perf_counter()
            for _ in range(5):
                found = await registry.find(capability="translate", selector="host=host-4242", healthy=True)
            figures["find"] = (perf_counter() - began) / 5
            assert len(found) <= 1
            return figures


def weigh(registry: Registry, size: int) -> dict[str, float]:
    """Return the bytes that the copy keeps alive, walked object by object, shared ones counted once.

    The memory store of this very process shares its documents' bytes with the copy; over a socket each would be the
    copy's own, so they are counted.
    """
    seen: set[int] = set()
    total = 0
    catalog = registry.informer.catalog
    waiting: list[Any] = [catalog._nodes, catalog.index, catalog._sharing, catalog._due]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        total += sys.getsizeof(one)
        waiting.extend(each for each in gc.get_referents(one) if each is not catalog and not callable(each))
    return {"bytes": total / size}


def run() -> list[AnyRow]:
    """Measure each size in a process of its own, so that no run inherits another's memory."""
    rows: list[AnyRow] = []
    for size in SIZES:
        samples: list[dict[str, float]] = []
        for number in range(runs() if size <= 10_000 else min(runs(), 3)):
            progress(f"informer, {size} nodes, run {number + 1}")
            made = subprocess.run(
                [sys.executable, "-m", "bench.registry", str(size)],
                capture_output=True,
                text=True,
                check=True,
            )
            samples.append(json.loads(made.stdout))
        shown = f"{size:,}".replace(",", " ")
        rows.append(
            Row.measured(
                f"cold sync of {shown} nodes, each 10 000",
                [one["sync"] / size * 10_000 for one in samples],
                "s",
                goal="<= 1",
                note="2 KB passports from a store in the same process",
            )
        )
        rows.append(
            Row.measured(
                f"memory a node, {shown} nodes",
                [one["bytes"] / 1024 for one in samples],
                "KiB",
                goal="<= 4",
                note="the 2 KB document included; walked object by object",
            )
        )
        rows.append(
            Row.measured(
                f"resident memory grown a node, {shown} nodes",
                [one["grown"] / size / 1024 for one in samples],
                "KiB",
                note="the documents' bytes are shared with the store of the same process here",
            )
        )
        rows.append(Row.measured(f"get among {shown}", [one["get"] * 1e6 for one in samples], "us"))
        rows.append(
            Row.measured(
                f"find a capability with a selector among {shown}",
                [one["find"] * 1e3 for one in samples],
                "ms",
            )
        )
    return rows


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure(int(sys.argv[1])))))
