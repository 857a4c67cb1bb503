"""Servers that die and come back under nodes that come, go and change, while another process follows all of it."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from servers.helper import Helper

from chaos.helper import helper
from chaos.report import Options, Report
from chaos.stores import mark, on_each, server_of
from chaos.verdict import every_change, last_states, of_informer
from roster import Registry
from roster._clock import boottime
from roster.registry.keys import ROOT
from roster.store import open_store
from servers import Etcd, EtcdCluster, ServerError

TTL = 15.0
PERMANENT, PASSING = 6, 4
CURRENT_WITHIN = 3.0
_SETTLE_WITHIN = 30.0

Fault = Callable[[], Awaitable[None]]
"""Takes the service away and returns when it is back."""


class Trial:
    """Nodes and a witness on one registry, and the outages that they went through."""

    def __init__(self, url: str, nodes: Helper, witness: Helper) -> None:
        self.url = url
        self.nodes = nodes
        self.witness = witness
        self.outages: list[tuple[float, float]] = []
        self.current: list[float] = []
        self.began = boottime()

    async def outage(self, fault: Fault) -> None:
        """Make a fault, and measure how long after its end the witness has heard of a new write."""
        killed = boottime()
        await fault()
        returned = boottime()
        self.outages.append((killed, returned))
        name = f"mark-{len(self.outages)}"
        await mark(self.url, name)
        heard = await self.witness.until("event", name=name)
        self.current.append(heard["at"] - returned)

    async def end(self) -> Report:
        """Let the nodes come to rest, and compare what was heard with what was written."""
        ended = boottime()
        self.nodes.say("quiet")
        await self.nodes.until("quiet", 60.0)
        async with open_store(self.url) as store, Registry.connect(self.url) as registry:
            until = boottime() + _SETTLE_WITHIN
            while True:
                await asyncio.sleep(0.5)
                nodes = await registry.find()
                is_so = _shown({node.key: [node.uid, node.state] for node in nodes})
                reports = len(self.witness.find("copy"))
                self.witness.say("report")
                async with asyncio.timeout(10):
                    while len(copies := self.witness.find("copy")) == reports:
                        await asyncio.sleep(0.02)
                copy = _shown(copies[-1]["nodes"])
                if copy == is_so or boottime() > until:
                    break
            truth = (await store.list(ROOT)).entries
            grade = store.grade
        report = Report()
        lines, heard = self.nodes.read(), self.witness.read()
        acknowledged = [line for line in lines if line["what"] == "ack"]
        whole = grade == "history"
        raw = every_change(acknowledged, heard) if whole else last_states(truth, heard)
        begins = [
            self.began,
            *(back + late for (_, back), late in zip(self.outages, self.current, strict=True)),
        ]
        ends = [*(gone for gone, _ in self.outages), ended]
        followed = list(zip(begins, ends, strict=True))
        informer = of_informer(lines, heard, None if whole else followed)
        stays = [line for line in heard if line["what"] == "event" and line["name"].startswith("permanent")]
        dead = [line for line in stays if line["type"] in ("offline", "removed", "unknown")]
        uids = {line["name"]: line["uid"] for line in lines if line["what"] == "registered"}
        now = {name.partition("/")[2]: uid for name, (uid, _) in is_so.items()}
        anew = [name for name, uid in uids.items() if name.startswith("permanent") and now.get(name) != uid]
        registered = len(self.nodes.find("registered"))
        least = 100 if whole else 5
        writes = len(acknowledged) / (ended - self.began)
        report.fact("outages", " ".join(f"{back - gone:.1f} s" for gone, back in self.outages))
        report.fact("a write heard of after the return", " ".join(f"{one:.2f} s" for one in self.current))
        report.fact(
            "acknowledged writes", f"{len(acknowledged)} ({writes:.0f}/s), {registered} registrations"
        )
        report.fact("raw watch: changes" if whole else "raw watch: last states", raw)
        report.fact("informer: reports of nodes" if whole else "informer: lasting reports", informer)
        report.fact("informer listed", copies[-1]["listings"])
        report.promise(
            f"there was trouble and traffic: every outage, 10 writes/s, 10 registrations, {least} things to hear of",
            len(self.outages) >= 3
            and writes >= 10
            and registered >= PERMANENT + 10
            and informer.expected >= least,
        )
        report.promise("0 missed, 0 twice, 0 out of order, by the raw watch", raw.clean and raw.expected > 0)
        report.promise("0 missed, 0 twice, 0 out of order, by the informer", informer.clean)
        report.promise("the copy is what the store holds", copy == is_so)
        report.promise("no node called dead, none lost its registration", not dead and not anew)
        report.promise(
            f"current within {CURRENT_WITHIN:g} s of each return", max(self.current) <= CURRENT_WITHIN
        )
        for line in (*self.nodes.find("lost"), *self.nodes.find("displaced"), *dead)[:5]:
            report.fact("trouble", line)
        return report


def _shown(nodes: dict[str, list[str]]) -> dict[str, list[str]]:
    """Return uid and state by node; what one who saw it go calls `unknown` for a while a newcomer calls `offline`."""
    return {name: [uid, "offline" if state == "unknown" else state] for name, (uid, state) in nodes.items()}


@asynccontextmanager
async def _trial(url: str, directory: Path) -> AsyncIterator[Trial]:
    async with helper("chaos.witness", directory, "witness", url) as witness:
        await witness.until("synced")
        await witness.until("following")
        counts = (str(TTL), str(PERMANENT), str(PASSING))
        async with helper("chaos.nodes", directory, "nodes", url, *counts) as nodes:
            for number in range(PERMANENT):
                await nodes.until("registered", name=f"permanent-{number}")
            yield Trial(url, nodes, witness)


async def store_restart(options: Options) -> Report:
    """Each server killed with -9 and started again 3 times, under nodes that come, go and change."""

    async def one(engine: str) -> Report:
        async with server_of(engine) as (server, directory), _trial(server.url, directory) as trial:

            async def restart() -> None:
                await asyncio.to_thread(server.kill)
                await asyncio.sleep(1.0)
                await asyncio.to_thread(server.start)

            for _ in range(3):
                await asyncio.sleep(4.0)
                await trial.outage(restart)
            await asyncio.sleep(4.0)
            return await trial.end()

    return await on_each(options.stores, one)


async def _leader(cluster: EtcdCluster) -> Etcd:
    async with asyncio.timeout(15):
        while True:
            try:
                return await asyncio.to_thread(cluster.leader)
            except ServerError:  # a busy machine makes them elect one now and then
                await asyncio.sleep(0.1)


async def leader_kill(options: Options) -> Report:
    """Three etcd members on one machine; whoever leads is killed with -9 every 10 s for a minute, and started again."""
    if "etcd" not in options.stores:
        report = Report()
        report.fact("not tried", "it is etcd's")
        return report
    async with _cluster() as (cluster, directory), _trial(cluster.url, directory) as trial:
        dead: list[Etcd] = []

        async def kill() -> None:
            leader = await _leader(cluster)
            dead.append(leader)
            await asyncio.to_thread(leader.kill)
            alive = next(member for member in cluster.members if member is not leader)
            # Until a read that the new leader has made sure of.
            await asyncio.to_thread(alive.wait_ready)

        for number in range(6):
            turn = trial.began + 10 * number
            await asyncio.sleep(max(0.0, turn + 4.0 - boottime()))
            await trial.outage(kill)
            await asyncio.sleep(max(0.0, turn + 8.0 - boottime()))
            await asyncio.to_thread(dead.pop().start)
        await asyncio.sleep(3.0)
        return await trial.end()


@asynccontextmanager
async def _cluster() -> AsyncIterator[tuple[EtcdCluster, Path]]:
    with tempfile.TemporaryDirectory(prefix="roster-") as directory:
        cluster = EtcdCluster(Path(directory) / "etcd")
        try:
            await asyncio.to_thread(cluster.start)
            yield cluster, Path(directory)
        finally:
            await asyncio.to_thread(cluster.close)
