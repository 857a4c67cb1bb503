"""Ten thousand leases of one process: what it costs to keep all of them alive once, on one stream to etcd."""

from __future__ import annotations

import asyncio
import time

from bench import AnyRow, Row, progress, runs
from bench._servers import cpu_seconds, running
from roster.store import Lease, Store, open_store
from servers import Etcd

NAME = "one round of keep-alives on etcd"

LEASES = 10_000
TTL = 600.0  # none of them ends while they are made
AT_ONCE = 100
_STARTED = "grpc_server_started_total"
_STREAMS = (
    _STARTED + '{grpc_method="LeaseKeepAlive",grpc_service="etcdserverpb.Lease",grpc_type="bidi_stream"}'
)


def run() -> list[AnyRow]:
    """Measure a round of all of them several times."""
    with running(Etcd) as etcd:
        return asyncio.run(_measure(etcd))


async def _measure(etcd: Etcd) -> list[AnyRow]:
    walls, ours, theirs = [], [], []
    async with open_store(etcd.url) as store:
        progress(f"granting {LEASES} leases")
        leases = await _grant(store)
        for number in range(runs() + 1):
            progress(f"keeping them alive, round {number}")
            wall, cpu, server = time.perf_counter(), time.process_time(), cpu_seconds(etcd.pid)
            await asyncio.gather(*(lease.keep_alive() for lease in leases))
            if number:  # the first opens the stream
                walls.append(time.perf_counter() - wall)
                ours.append(time.process_time() - cpu)
                theirs.append(cpu_seconds(etcd.pid) - server)
        streams = etcd.metric(_STREAMS)
        writes = etcd.metric("etcd_disk_wal_write_bytes_total")
        await asyncio.gather(*(lease.keep_alive() for lease in leases))
        writes = etcd.metric("etcd_disk_wal_write_bytes_total") - writes
    return [
        Row.measured(f"{LEASES} leases, each kept alive once", walls, "s"),
        Row.measured("CPU of the process that holds them", ours, "s"),
        Row.measured("CPU of etcd", theirs, "s"),
        Row("streams that it took", streams, goal="<= 1"),
        Row("bytes that one round wrote to the log", writes, "bytes", goal="<= 0"),
    ]


async def _grant(store: Store) -> list[Lease]:
    leases: list[Lease] = []
    while len(leases) < LEASES:
        leases += await asyncio.gather(*(store.grant(TTL) for _ in range(AT_ONCE)))
    return leases
