"""What the SQLite store costs: calls, wake-ups of twenty watching processes, and two hundred idle processes."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from roster._clock import boottime
from roster.store import Store
from roster.store.sqlite import SqliteStore

NAME = "store (sqlite)"

WATCHERS = 20
CHANGES = 400
IDLE = 200
TTL = 30.0
WINDOW = 15.0
VALUE = bytes(2000)


def run() -> list[tuple[str, str]]:
    """Return (what, figure) rows."""
    rows = asyncio.run(_calls())
    rows += asyncio.run(_wake_ups())
    for watching in (False, True):
        rows.append(_idle(watching))
    return rows


async def _calls() -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as directory:
        async with SqliteStore(f"{directory}/registry.db") as store:
            lease = await store.grant(TTL)
            await store.put("/leased", VALUE, lease=lease.id)

            async def put(number: int) -> None:
                await store.put(f"/nodes/{number % 200}", VALUE)

            async def get(_: int) -> None:
                await store.get("/leased")

            async def renew(_: int) -> None:
                await lease.keep_alive()

            async def listing(_: int) -> None:
                await store.list("/nodes/")

            return [
                ("put 2 KB, synced to the disk", await _median(put, 400)),
                ("get 2 KB under a lease, its holder tested", await _median(get, 1000)),
                ("list 200 x 2 KB", await _median(listing, 50)),
                ("keep a lease alive", await _median(renew, 1000)),
            ]


async def _median(call: object, times: int) -> str:
    assert callable(call)
    medians = []
    for _ in range(5):
        taken = []
        for number in range(times):
            began = time.perf_counter()
            await call(number)
            taken.append(time.perf_counter() - began)
        medians.append(statistics.median(taken))
    return f"{statistics.median(medians) * 1e3:.3f} ms (median of 5 runs of {times})"


async def _wake_ups() -> list[tuple[str, str]]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/registry.db"
        async with SqliteStore(path) as store:
            with _crowd(WATCHERS, "watch", path) as lines:
                for _ in range(WATCHERS):
                    next(lines)
                sent = {}
                for _ in range(CHANGES):
                    before = boottime()
                    sent[await store.put("/news", VALUE)] = before
                    await asyncio.sleep(0.01)
                delays = []
                for _ in range(WATCHERS * CHANGES):
                    revision, arrived = next(lines).split()
                    delays.append(float(arrived) - sent[int(revision)])
    cuts = statistics.quantiles(delays, n=100)
    return [
        (f"put to {WATCHERS} watching processes, p50", f"{cuts[49] * 1e3:.1f} ms (goal: p99 under 50 ms)"),
        (
            f"put to {WATCHERS} watching processes, p99",
            f"{cuts[98] * 1e3:.1f} ms of {len(delays)} changes seen",
        ),
    ]


def _idle(watching: bool) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as directory:
        role = "idle-watch" if watching else "idle"
        with _crowd(IDLE, role, f"{directory}/registry.db") as lines:
            used = [float(next(lines)) for _ in range(IDLE)]
    what = "a lease and a watch" if watching else "a lease"
    share = sum(used) / WINDOW * 100
    return (
        f"{IDLE} idle processes with {what} each (TTL {TTL:g} s)",
        f"{share:.1f} % of a core in total (goal: under 5 %)",
    )


@contextmanager
def _crowd(number: int, role: str, path: str) -> Iterator[Iterator[str]]:
    """Run a crowd of processes, and yield what they print line by line."""
    with subprocess.Popen(
        [sys.executable, __file__, str(number), role, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield iter(process.stdout)
        finally:
            process.stdin.close()
            process.wait(60)


def _say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def _watch(store: Store) -> None:
    async with store.watch("/news", from_revision=(await store.info()).revision + 1) as batches:
        _say("watching")
        seen: list[str] = []
        async for batch in batches:
            arrived = boottime()
            seen += [f"{change.revision} {arrived:.6f}" for change in batch.changes]
            if len(seen) == CHANGES:
                break
    for line in seen:  # not before: a full pipe would stop the watcher and not the clock
        _say(line)


async def _idle_one(store: Store, watching: bool) -> None:
    lease = await store.grant(TTL)
    await store.put(f"/nodes/{os.getpid()}", VALUE, lease=lease.id)

    async def follow() -> None:
        async with store.watch("/nodes/", from_revision=(await store.info()).revision + 1) as batches:
            async for _ in batches:
                pass

    async def keep() -> None:
        await asyncio.sleep(random.uniform(0, TTL / 3))
        while True:
            await lease.keep_alive()
            await asyncio.sleep(TTL / 3)

    async def measure() -> None:
        registered = 0
        while registered < IDLE:
            await asyncio.sleep(2)
            registered = len((await store.list("/nodes/")).entries)
        await asyncio.sleep(5)  # until the last ripple of the registrations is over
        before = time.process_time()
        await asyncio.sleep(WINDOW)
        _say(f"{time.process_time() - before:.6f}")

    async with asyncio.TaskGroup() as group:
        group.create_task(keep())
        group.create_task(measure())
        if watching:
            group.create_task(follow())


async def _act(role: str, path: str) -> None:
    async with SqliteStore(path) as store:
        await (_watch(store) if role == "watch" else _idle_one(store, role == "idle-watch"))


def _main(number: int, role: str, path: str) -> None:
    children = []
    for _ in range(number):
        child = os.fork()
        if child == 0:
            try:
                asyncio.run(_act(role, path))
            finally:
                os._exit(1)
        children.append(child)
    sys.stdin.read()
    for child in children:
        os.kill(child, signal.SIGKILL)
    for child in children:
        os.waitpid(child, 0)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        _main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
    else:
        for what, figure in run():
            print(f"{what:60} {figure}")
