"""Servers that come back with nothing, or with an older state, under nodes that run and readers that follow."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from servers.helper import Helper

from chaos.helper import helper
from chaos.report import Options, Report
from chaos.stores import mark, on_each, server_of
from roster import Registry
from roster._clock import boottime
from servers import Etcd, Server

TTL = 6.0
PERMANENT = 6
BACK_WITHIN = TTL / 3 + 5
_ALIVE = ("starting", "ready", "busy", "draining")


class Rebuilding:
    """Running nodes and an open informer on a server whose data is replaced."""

    def __init__(self, server: Server, nodes: Helper, witness: Helper, report: Report) -> None:
        self.server = server
        self.nodes = nodes
        self.witness = witness
        self.report = report

    async def replaced(self, how: str, fault: Callable[[], object]) -> None:
        """Replace the data, and hold what follows against the promises."""
        names = {f"chaos/permanent-{number}" for number in range(PERMANENT)}
        before = await self.nodes_in_copy()
        await asyncio.to_thread(fault)
        returned = boottime()
        await mark(self.server.url, how)
        try:
            heard = (await self.witness.until("event", name=how))["at"] - returned
        except TimeoutError:
            heard = float("inf")
        back = float("inf")
        alive: set[str] = set()
        while boottime() < returned + 4 * TTL:
            # By a newcomer, who only sees what is there.
            async with Registry.connect(self.server.url) as registry:
                alive = {node.key for node in await registry.find(namespace="chaos", state=_ALIVE)}
            if names <= alive:
                back = boottime() - returned
                break
            await asyncio.sleep(0.1)
        # Whoever is back goes on to change its state, and the old informer hears of it.
        states = dict.fromkeys(names, 0)
        until = boottime() + 2 * TTL
        while min(states.values()) == 0 and boottime() < until:
            await asyncio.sleep(0.1)
            for line in self.witness.find("event"):
                key = f"chaos/{line['name']}"
                if key in states and line["at"] > returned + back and line["type"] in _ALIVE:
                    states[key] += 1
        after = await self.nodes_in_copy()
        stuck = [name for name in names if states[name] == 0 or after.get(name, ["", ""])[1] not in _ALIVE]
        dead = [
            line
            for line in self.witness.find("event")
            if f"chaos/{line['name']}" in names
            and line["at"] >= returned
            and line["type"] in ("offline", "removed")
        ]
        anew = sum(before[name][0] != after.get(name, [""])[0] for name in names)
        self.report.fact(f"{how}: a new write heard of / all nodes back", f"{heard:.2f} s / {back:.2f} s")
        self.report.fact(
            f"{how}: nodes that registered anew / called dead", f"{anew} of {len(names)} / {len(dead)}"
        )
        for name in stuck[:3]:
            self.report.fact(f"{how}: stuck", f"{name} {after.get(name)}")
        self.report.promise(f"{how}: no watch stays silent, a new write is heard of within 5 s", heard <= 5)
        self.report.promise(
            f"{how}: every live node is back by itself within TTL/3 + 5 s", back <= BACK_WITHIN
        )
        self.report.promise(f"{how}: nobody is stuck, nobody was called dead", not stuck and not dead)

    async def nodes_in_copy(self) -> dict[str, list[str]]:
        """Return the informer's copy: uid and state by node."""
        reports = len(self.witness.find("copy"))
        self.witness.say("report")
        async with asyncio.timeout(10):
            while len(copies := self.witness.find("copy")) == reports:
                await asyncio.sleep(0.02)
        copy: dict[str, list[str]] = copies[-1]["nodes"]
        return copy


async def store_wiped(options: Options) -> Report:
    """Each server's data deleted, and etcd's replaced by an older backup, under running nodes and open informers."""

    async def one(engine: str) -> Report:
        report = Report()
        async with (
            server_of(engine) as (server, directory),
            helper("chaos.witness", directory, "witness", server.url) as witness,
        ):
            await witness.until("synced")
            async with helper(
                "chaos.nodes", directory, "nodes", server.url, str(TTL), str(PERMANENT), "1"
            ) as nodes:
                for number in range(PERMANENT):
                    await nodes.until("registered", name=f"permanent-{number}")
                scene = Rebuilding(server, nodes, witness, report)
                await asyncio.sleep(1.0)
                backup = directory / "backup.db"
                if isinstance(server, Etcd):
                    await asyncio.to_thread(server.snapshot, backup)
                await scene.replaced("wiped", server.wipe)
                if isinstance(server, Etcd):
                    # It shows the same nodes in their lives before.
                    await asyncio.sleep(1.0)
                    await scene.replaced("restored", lambda: server.restore(backup))
        return report

    return await on_each(options.stores, one)
