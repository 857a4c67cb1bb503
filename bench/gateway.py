"""The gateway: lookups a second on one core, next to Consul's own health endpoint; and a thousand readers of one watch."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns, perf_counter

from servers.consul import Consul

from bench import AnyRow, Row, progress, runs
from bench._servers import cpu_seconds, running
from roster._loops import LoopThread
from roster.registry import Registry
from roster.store.consul.lease import SERVICE

NAME = "Gateway: lookups and watches over HTTP"

NODES = 100
CAPABILITIES = 10
CONNECTIONS = 8
SECONDS = 3.0
READERS = 1000
EVENTS = 20


def run() -> list[AnyRow]:
    """Measure."""
    rows: list[AnyRow] = []
    with running(lambda directory: Consul(directory, max_connections=4000)) as consul:
        team = Team(consul.url)
        try:
            rows += _lookups(consul)
            rows.append(_readers(team, consul.url))
        finally:
            team.close()
    return rows


class Team:
    """Nodes in a registry, kept there by a thread of this process."""

    def __init__(self, url: str) -> None:
        self._thread = LoopThread("bench-team").start()
        self._registry = self._thread.run(self._open(url), timeout=120)

    async def _open(self, url: str) -> Registry:
        registry = await Registry.connect(url)
        self.registrations = [
            await registry.register(
                {
                    "apiVersion": "ai-team.dev/v1",
                    "kind": "NodePassport",
                    "metadata": {
                        "name": f"node-{number:03}",
                        "labels": {"role": "writer", "zone": f"z{number % 3}"},
                    },
                    "spec": {
                        "type": "agent",
                        "version": "1.0.0",
                        "capabilities": [{"name": f"capability_{number % CAPABILITIES}"}],
                    },
                },
                ttl=120,
            )
            for number in range(NODES)
        ]
        return registry

    def change(self, number: int) -> None:
        """Change one node, and return when it is written."""
        self._thread.run(
            self.registrations[number].update(labels={"changed": str(monotonic_ns())}), timeout=60
        )

    def close(self) -> None:
        """Take them out."""
        self._thread.run(self._registry.close(), timeout=120)
        self._thread.stop()


def pin(pid: int, cores: set[int]) -> None:
    """Let every thread of a process run on these cores alone."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), cores)


@contextmanager
def gateway(url: str, core: int | None) -> Iterator[tuple[int, int]]:
    """Run `roster gateway` in a process of its own, on one core; give its port and its process id."""
    with tempfile.TemporaryDirectory(prefix="roster-bench-") as directory:
        process = subprocess.Popen(
            [sys.executable, "-m", "roster", "gateway", "--listen", "127.0.0.1:0"],
            env={
                **os.environ,
                "ROSTER_REGISTRY": url,
                "ROSTER_BUS": f"local://{directory}/bus",
                "ROSTER_STATE_DIR": directory,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            port = int(line.partition("127.0.0.1:")[2].partition(";")[0])
            if core is not None:
                pin(process.pid, {core})
            asyncio.run(_until_listed(port))
            yield port, process.pid
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(30)
            process.stderr.close()


async def _until_listed(port: int) -> None:
    async with asyncio.timeout(60):
        while f'"total":{NODES}'.encode() not in await _get(port, "/api/v1/nodes?limit=1"):
            await asyncio.sleep(0.05)


async def _get(port: int, path: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
    found = await reader.read()
    writer.close()
    return found


# -- lookups -----------------------------------------------------------------------------------------------------------


class _Client(asyncio.Protocol):
    """Asks the same again and again over one connection, as simply as can be: the client must not be what is measured."""

    def __init__(self, requests: list[bytes]) -> None:
        self._requests = requests
        self._buffer = b""
        self.answers = 0
        self.latencies: list[float] = []
        self.faults = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked = perf_counter()
        self._transport.write(self._requests[self.answers % len(self._requests)])

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return
        length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        # Consul's answers come in chunks.
        if len(body) < int(length) if length else not body.endswith(b"0\r\n\r\n"):
            return
        self.faults += not self._buffer.startswith(b"HTTP/1.1 200")
        self._buffer = b""
        self.answers += 1
        self.latencies.append(perf_counter() - self._asked)
        self._ask()


@dataclass(frozen=True, slots=True)
class Load:
    """What a server did.

    Attributes:
        rate: answers a second.
        per_core: answers a second of its processor time: what it would do with a core to itself.
        p99: of their latency, milliseconds.
    """

    rate: float
    per_core: float
    p99: float


async def _load(port: int, pid: int, paths: list[str]) -> Load:
    requests = [f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode() for path in paths]
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(lambda: _Client(requests), "127.0.0.1", port) for _ in range(CONNECTIONS)
    ]
    await asyncio.sleep(0.5)  # to be warm
    before, began, used = sum(client.answers for _, client in made), perf_counter(), cpu_seconds(pid)
    for _, client in made:
        client.latencies.clear()
    await asyncio.sleep(SECONDS)
    count = sum(client.answers for _, client in made) - before
    rate, per_core = count / (perf_counter() - began), count / (cpu_seconds(pid) - used)
    latencies = sorted(one for _, client in made for one in client.latencies)
    for transport, client in made:
        transport.close()
        assert not client.faults, f"{client.faults} answers were not 200"
    return Load(rate, per_core, 1000 * latencies[int(len(latencies) * 0.99)])


def _lookups(consul: Consul) -> list[Row]:
    cores = sorted(os.sched_getaffinity(0))
    core, rest = cores[0], set(cores[1:]) or set(cores)
    ours: list[Load] = []
    theirs: list[Load] = []
    before = os.sched_getaffinity(0)
    pid = consul.pid
    try:
        os.sched_setaffinity(0, rest)
        with gateway(consul.url, core) as (port, own):
            health = f"/v1/health/service/{SERVICE}?passing&tag=capability_"
            for number in range(runs()):
                progress(f"lookups, run {number + 1}")
                ours.append(
                    asyncio.run(
                        _load(
                            port,
                            own,
                            [f"/api/v1/find?capability=capability_{n}" for n in range(CAPABILITIES)],
                        )
                    )
                )
                pin(pid, {core})
                theirs.append(
                    asyncio.run(_load(consul.http_port, pid, [f"{health}{n}" for n in range(CAPABILITIES)]))
                )
                pin(pid, before)
    finally:
        os.sched_setaffinity(0, before)
    note = f"10 of {NODES} nodes each, {CONNECTIONS} connections, on one core"
    return [
        Row.measured("GET /api/v1/find", [one.rate for one in ours], "lookups/s", note=note),
        Row.measured(
            "  by its processor time",
            [one.per_core for one in ours],
            "lookups/s",
            goal=">= 2000",
            note="what else ran beside it does not count",
        ),
        Row.measured("  latency, p99", [one.p99 for one in ours], "ms"),
        Row.measured(
            "Consul /v1/health/service",
            [one.rate for one in theirs],
            "lookups/s",
            note="the same, on the same core",
        ),
        Row.measured("  by its processor time", [one.per_core for one in theirs], "lookups/s"),
        Row.measured("  latency, p99", [one.p99 for one in theirs], "ms"),
    ]


# -- a thousand readers ------------------------------------------------------------------------------------------------


def _readers(team: Team, url: str) -> Row:
    """Return how long an event takes to reach the last of a thousand readers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 3 * READERS)), hard))
    with gateway(url, None) as (port, pid):
        progress(f"{READERS} readers of one watch")
        samples = asyncio.run(_read(team, port))
        status = Path(f"/proc/{pid}/status").read_text()
    memory = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    return Row(
        f"an event, to the last of {READERS} watches",
        statistics.median(samples),
        "ms",
        note=f"its write to Consul included; gateway {memory:.0f} MB",
        low=min(samples),
        high=max(samples),
        runs=len(samples),
    )


async def _read(team: Team, port: int) -> list[float]:
    counts = [0] * READERS
    synced = 0
    all_synced, all_there = asyncio.Event(), asyncio.Event()
    target = 0

    async def reader(number: int) -> None:
        nonlocal synced
        stream, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        writer.write(b"GET /api/v1/watch HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        try:
            ready = False
            while line := await stream.readline():
                if line == b"event: synced\n":
                    ready = True
                    synced += 1
                    if synced == READERS:
                        all_synced.set()
                elif ready and line == b"event: node\n":
                    counts[number] += 1
                    if min(counts) >= target > 0:
                        all_there.set()
        finally:
            writer.close()

    tasks = [asyncio.create_task(reader(number)) for number in range(READERS)]
    try:
        async with asyncio.timeout(180):
            await all_synced.wait()
            samples = []
            for number in range(EVENTS):
                all_there.clear()
                target = number + 1
                began = perf_counter()
                await asyncio.to_thread(team.change, number)
                await all_there.wait()
                samples.append(1000 * (perf_counter() - began))
        return samples
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
