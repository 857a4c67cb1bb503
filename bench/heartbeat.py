"""What it costs an etcd to know that a team lives, beside the founding document's heartbeat.

Every contender has a new etcd and runs for the same time there, one after the other: 20 s, or a minute with `--full`.
Before it is measured its nodes come in evenly over one of their own periods, so that a part of a period is measured as
fairly as a whole. The founding document's agents are played by puts through our own client, which cost the server the same
and this machine less than those of its library; each renews its lease with each put, for without that it is gone after 30 s.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import yaml

import bench
from bench import AnyRow, Row, progress
from bench._servers import Child, cpu_seconds, running
from bench.registry import document
from roster import Registry
from roster._clock import utc_now
from roster.registry.keys import NODES, STATUS, node_key
from roster.store import Lease, Store, open_store
from servers import Etcd

NAME = "heartbeats on etcd"

SIZES = (1_000, 5_000)
SHORT, FULL = 20.0, 60.0
TTL = 30.0
BEAT = 10.0
# Nodes of one process: more, and the process itself is what is measured.
A_PROCESS = 2_500
# Seconds over which the nodes come in: the period of whatever the contender writes.
CONTENDERS = {"founding": BEAT, "none": BEAT, "default": 27.0}


def run() -> list[AnyRow]:
    """Measure each contender at each size, once: a figure over a time is a mean already."""
    window = FULL if bench.full() else SHORT
    rows: list[AnyRow] = []
    for size in SIZES:
        used = {contender: measure(contender, size, window) for contender in CONTENDERS}
        wal, cpu = used["founding"]
        shown = f"{size:,}".replace(",", " ")
        rows.append(
            Row(f"{shown} nodes, founding heartbeat: WAL", wal / 1024, "KiB", note=f"in {window:g} s")
        )
        rows.append(Row(f"{shown} nodes, founding heartbeat: CPU of etcd", cpu, "s"))
        for contender, said, goal in (
            ("none", "passport_refresh=0", "<= 0.05"),
            ("default", "default (refresh 30 s)", "<= 0.5"),
        ):
            ours, our_cpu = used[contender]
            rows.append(Row(f"{shown} nodes, {said}: WAL", ours / 1024, "KiB"))
            rows.append(Row(f"{shown} nodes, {said}: WAL, of the founding one's", ours / wal, goal=goal))
            rows.append(Row(f"{shown} nodes, {said}: CPU of etcd", our_cpu, "s"))
            rows.append(Row(f"{shown} nodes, {said}: CPU of etcd, of the founding one's", our_cpu / cpu))
    return rows


def measure(contender: str, size: int, window: float) -> tuple[float, float]:
    """Return the bytes of the log and the seconds of the processor that one contender cost a new etcd."""
    progress(f"heartbeats, {size} nodes, {contender}")
    with running(Etcd) as etcd, ExitStack() as stack:
        children = [
            stack.enter_context(
                Child(
                    __name__, contender, etcd.url, first, min(first + A_PROCESS, size), CONTENDERS[contender]
                )
            )
            for first in range(0, size, A_PROCESS)
        ]
        for child in children:
            assert child.line() == "beating"
        wal, cpu = _log_bytes(etcd), cpu_seconds(etcd.pid)
        time.sleep(window)
        cpu = cpu_seconds(etcd.pid) - cpu
        wal = _log_bytes(etcd) - wal
        alive = asyncio.run(_alive(etcd.url, NODES if contender == "founding" else STATUS))
        assert alive == size, f"{alive} of {size} nodes live"
    return wal, cpu


def _log_bytes(etcd: Etcd) -> int:
    """Return the bytes of the log; of a file that was made larger in advance, those that are written.

    The metric etcd_disk_wal_write_bytes_total of etcd 3.5 counts each byte twice: into the buffer, and out of it.
    """
    return sum(len(file.read_bytes().rstrip(b"\0")) for file in (etcd.data / "member" / "wal").glob("*.wal"))


async def _alive(url: str, prefix: str) -> int:
    async with open_store(url) as store:
        return len((await store.list(prefix)).entries)


# -- the processes of the nodes ------------------------------------------------------------------------------------------


async def beat(contender: str, url: str, first: int, last: int, over: float) -> None:
    """Bring nodes in evenly over so many seconds, say so, and keep them."""
    loop = asyncio.get_running_loop()

    async def places() -> AsyncIterator[int]:
        began = loop.time()
        for place, number in enumerate(range(first, last)):
            await asyncio.sleep(began + over * place / (last - first) - loop.time())
            yield number

    async with asyncio.TaskGroup() as group, Registry.connect(url) as registry:
        starting = []
        async for number in places():
            if contender == "founding":
                start = _start_founding(registry.store, number, group)
            else:
                start = _register(registry, number, 0 if contender == "none" else None)
            starting.append(group.create_task(start))
        await asyncio.gather(*starting)
        print("beating", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


async def _register(registry: Registry, number: int, refresh: float | None) -> None:
    passport = _passport(number)
    for made_by_the_registry in ("uid", "generation"):
        del passport["metadata"][made_by_the_registry]
    await registry.register(passport, ttl=TTL, passport_refresh=refresh)


async def _start_founding(store: Store, number: int, group: asyncio.TaskGroup) -> None:
    passport = _passport(number)
    lease = await store.grant(TTL)
    await _put(store, passport, lease)
    group.create_task(_keep_founding(store, passport, lease))


async def _keep_founding(store: Store, passport: dict[str, Any], lease: Lease) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while True:
        due += BEAT
        await asyncio.sleep(due - loop.time())
        await _put(store, passport, lease)
        await lease.keep_alive()


async def _put(store: Store, passport: dict[str, Any], lease: Lease) -> None:
    passport["status"]["last_heartbeat"] = utc_now()
    key = node_key(passport["metadata"]["namespace"], passport["metadata"]["name"])
    text = yaml.dump(passport, Dumper=yaml.CSafeDumper)
    await store.put(key, text.encode(), lease=lease.id)


def _passport(number: int) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(document(number))
    return made


if __name__ == "__main__":
    asyncio.run(beat(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5])))
