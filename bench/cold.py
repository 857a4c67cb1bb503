"""How long a process that has just started needs until it has the whole team in its copy, from each server."""

from __future__ import annotations

import asyncio
import sys
import time

from bench import AnyRow, Row, progress, runs
from bench._servers import Child, running
from bench.registry import fill
from roster import Registry
from roster.store import open_store
from servers import Consul, Etcd, ZooKeeper

NAME = "cold sync from a server"

SUBJECTS: tuple[tuple[type[Etcd | Consul | ZooKeeper], int, str | None], ...] = (
    (Etcd, 10_000, "<= 1"),
    (Consul, 2_000, None),
    (Consul, 10_000, None),
    (ZooKeeper, 2_000, None),
)


def run() -> list[AnyRow]:
    """Measure each size, a new process for each run."""
    rows: list[AnyRow] = []
    for make, size, goal in SUBJECTS:
        shown = f"{size:,}".replace(",", " ")
        progress(f"{make.engine}, {shown} nodes")
        with running(make) as server:
            asyncio.run(_fill(server.url, size))
            taken = []
            for _ in range(runs()):
                with Child(__name__, server.url, size) as child:
                    taken.append(float(child.line()))
        rows.append(
            Row.measured(
                f"{make.engine}, {shown} nodes",
                taken,
                "s",
                goal=goal,
                note="passports of 2 KB and their statuses",
            )
        )
    return rows


async def _fill(url: str, size: int) -> None:
    async with open_store(url) as store:
        await fill(store, size)


async def _sync(url: str, size: int) -> None:
    open_store(url)  # its libraries are imported here, not while the time is taken
    began = time.perf_counter()
    async with Registry.connect(url, sync_timeout=120) as registry:
        await registry.synced()
        taken = time.perf_counter() - began
        assert len(registry.informer.all()) == size
    print(taken, flush=True)


if __name__ == "__main__":
    asyncio.run(_sync(sys.argv[1], int(sys.argv[2])))
