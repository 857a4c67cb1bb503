"""How long it takes from the call that registers a node until another process has it in its copy.

Beside Roster's own, on a Consul of the same kind, the way without it: a service registered and followed through Consul's
HTTP API by hand. Times are those of the monotonic clock, which the processes of one machine share.
"""

from __future__ import annotations

import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from pathlib import Path
from typing import Any

import aiohttp

from bench import AnyRow, Row, progress, runs
from bench._servers import Child, running
from bench.registry import document
from roster import Registry
from roster.registry import NodeEvent
from servers import Consul, Etcd, Server, ZooKeeper

NAME = "from registering a node to seeing it in another process"

REGISTRATIONS = 300
# Pauses between registrations, so that none of them falls into a rhythm.
LONGEST_PAUSE = 0.02
_SERVICE = "write-article"

Register = Callable[[int], Awaitable[None]]


@contextmanager
def _file() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="roster-bench-") as directory:
        yield f"sqlite://{directory}/registry.db"


def _server(make: Callable[[Path], Server]) -> Callable[[], AbstractContextManager[str]]:
    @contextmanager
    def place() -> Iterator[str]:
        with running(make) as server:
            yield server.url

    return place


def run() -> list[AnyRow]:
    """Measure each way, three times at most, in a new store each time."""
    ways: list[tuple[str, str, Callable[[], AbstractContextManager[str]], str | None]] = [
        ("etcd", "registry", _server(Etcd), "<= 20"),
        ("sqlite", "registry", _file, None),
        ("zookeeper", "registry", _server(ZooKeeper), None),
        ("consul", "registry", _server(Consul), None),
        ("Consul + hand-written glue", "glue", _server(Consul), None),
    ]
    rows: list[AnyRow] = []
    for what, way, place, goal in ways:
        halves, tails = [], []
        for number in range(min(runs(), 3)):
            progress(f"{what}, run {number + 1}")
            with place() as url, Child(__name__, way, url) as watcher:
                taken = asyncio.run(measure(url, way, watcher))
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            halves.append(cuts[49] * 1e3)
            tails.append(cuts[98] * 1e3)
        rows.append(
            Row.measured(f"{what}, p50", halves, "ms", note=f"{REGISTRATIONS} registrations each run")
        )
        rows.append(Row.measured(f"{what}, p99", tails, "ms", goal=goal))
    return rows


async def measure(url: str, way: str, watcher: Child) -> list[float]:
    """Return what each registration took until the watcher had it, in seconds."""
    taken = []
    assert watcher.line() == "watching"
    async with WAYS[way](url) as register:
        for number in range(REGISTRATIONS):
            await asyncio.sleep(random.uniform(0, LONGEST_PAUSE))
            began = time.monotonic()
            await register(number)
            name, seen = (await asyncio.to_thread(watcher.line)).split()
            assert name == f"node-{number:06d}"
            taken.append(float(seen) - began)
    return taken


def _say(name: str) -> None:
    print(f"{name} {time.monotonic():.6f}", flush=True)


# -- Roster --------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _registry(url: str) -> AsyncIterator[Register]:
    async with Registry.connect(url) as registry:

        async def register(number: int) -> None:
            passport: dict[str, Any] = json.loads(document(number))
            for made_by_the_registry in ("uid", "generation"):
                del passport["metadata"][made_by_the_registry]
            await registry.register(passport)

        yield register


async def _watch_registry(url: str) -> None:
    def heard(event: NodeEvent) -> None:
        if event.type == "added":
            _say(event.name)

    async with Registry.connect(url) as registry:
        await registry.synced()
        registry.informer.add_listener(heard)
        print("watching", flush=True)
        await asyncio.to_thread(sys.stdin.read)


# -- by hand ---------------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _glue(url: str) -> AsyncIterator[Register]:
    async with aiohttp.ClientSession(url.replace("consul://", "http://")) as http:

        async def register(number: int) -> None:
            service = {
                "ID": f"node-{number:06d}",
                "Name": _SERVICE,
                "Tags": ["write_article"],
                "Check": {"TTL": "30s", "Status": "passing"},
            }
            async with http.put("/v1/agent/service/register", json=service) as answer:
                answer.raise_for_status()

        yield register


async def _watch_glue(url: str) -> None:
    known: set[str] = set()
    index = "0"
    async with aiohttp.ClientSession(url.replace("consul://", "http://")) as http:
        print("watching", flush=True)
        while True:
            query = {"passing": "true", "index": index, "wait": "60s"}
            async with http.get(f"/v1/health/service/{_SERVICE}", params=query) as answer:
                answer.raise_for_status()
                found = {one["Service"]["ID"] for one in await answer.json()}
                index = answer.headers["X-Consul-Index"]
            for name in sorted(found - known):
                _say(name)
            known = found


WAYS: dict[str, Callable[[str], AbstractAsyncContextManager[Register]]] = {
    "registry": _registry,
    "glue": _glue,
}

if __name__ == "__main__":
    asyncio.run({"registry": _watch_registry, "glue": _watch_glue}[sys.argv[1]](sys.argv[2]))
