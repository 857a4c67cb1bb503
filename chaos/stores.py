"""Real servers under the fault runs: one of each engine, started anew in a directory of its own; a broker as well."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from chaos.report import Report
from roster.errors import StoreError
from roster.registry.keys import node_key
from roster.store import open_store
from servers import Consul, Etcd, RabbitMQ, Server, ZooKeeper

_MARK_WITHIN = 30.0


def make(engine: str, directory: Path) -> Server:
    """Return a server of an engine, not started."""
    if engine == "etcd":
        return Etcd(directory)
    if engine == "consul":
        return Consul(directory)
    return ZooKeeper(directory)


@asynccontextmanager
async def server_of(engine: str) -> AsyncIterator[tuple[Server, Path]]:
    """Yield a server that answers, and a directory for whatever else the scenario writes."""
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        server = make(engine, Path(directory) / engine)
        try:
            await asyncio.to_thread(server.start)
            yield server, Path(directory)
        finally:
            await asyncio.to_thread(server.close)


@asynccontextmanager
async def broker_of() -> AsyncIterator[RabbitMQ]:
    """Yield a RabbitMQ that answers."""
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        broker = RabbitMQ(Path(directory))
        try:
            await asyncio.to_thread(broker.start)
            yield broker
        finally:
            await asyncio.to_thread(broker.close)


@asynccontextmanager
async def bus_of(named: str | None) -> AsyncIterator[tuple[str | None, RabbitMQ | None]]:
    """Yield the URL of the bus that was named, and the broker if it was started for that: for `amqp`."""
    if named != "amqp":
        yield named, None
        return
    async with broker_of() as broker:
        yield broker.url, broker


async def on_each(stores: Sequence[str], one: Callable[[str], Awaitable[Report]]) -> Report:
    """Run a scenario on every store side by side, and put what was found into one report."""
    reports = await asyncio.gather(*(one(engine) for engine in stores), return_exceptions=True)
    whole = Report()
    for engine, report in zip(stores, reports, strict=True):
        if isinstance(report, Report):
            whole.include(engine, report)
        elif isinstance(report, Exception):  # the others' figures count all the same
            whole.promise(f"{engine}: it comes to its end ({type(report).__name__}: {report})", False)
        else:
            raise report
    return whole


def founding(name: str, namespace: str = "chaos") -> bytes:
    """Return a passport as the founding document's agents write it."""
    document = {
        "apiVersion": "ai-team.dev/v1",
        "kind": "NodePassport",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"type": "agent", "version": "1.0.0", "capabilities": [{"name": "mark"}]},
        "status": {"state": "ready"},
    }
    return json.dumps(document).encode()


async def mark(url: str, name: str) -> None:
    """Write a passport by a client of its own, trying until the store takes it."""
    async with open_store(url) as store, asyncio.timeout(_MARK_WITHIN):
        while True:
            try:
                await store.put(node_key("chaos", name), founding(name))
                return
            except StoreError:
                await asyncio.sleep(0.02)
