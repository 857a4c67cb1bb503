"""Registries over real servers that die and are wiped, and over sessions that are lost."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator

import pytest
from tests.conftest import eventually, passport
from tests.engines import store_params
from tests.registry.test_processes import AGENT, Agent

from roster.errors import StoreUnavailableError
from roster.registry import NodeEvent, Registration, Registry
from servers import Consul, Etcd, ZooKeeper

WRITER = passport("writer-001", "write")
KEY = "default/writer-001"


@pytest.fixture(params=store_params("etcd", "consul", "zookeeper"))
async def server(request: pytest.FixtureRequest) -> Etcd | Consul | ZooKeeper:
    """A server of this test alone."""
    started: Etcd | Consul | ZooKeeper = request.getfixturevalue(f"start_{request.param}")()
    return started


class Told:
    """What a watch tells, read all the while."""

    def __init__(self, events: AsyncIterator[NodeEvent]) -> None:
        self.events: list[str] = []
        self._reading = asyncio.create_task(self._read(events))

    async def _read(self, events: AsyncIterator[NodeEvent]) -> None:
        async for event in events:
            self.events.append(f"{event.type} {event.name}")

    async def __aenter__(self) -> Told:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)


async def registered(registry: Registry, name: str) -> Registration:
    """Register a node with a server that may be on its way back."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await registry.register(passport(name, "write"))
            except StoreUnavailableError:
                await asyncio.sleep(0.05)


async def test_a_server_that_dies_and_returns_takes_no_node_with_it(
    server: Etcd | Consul | ZooKeeper,
) -> None:
    async with Registry.connect(server.url) as here, Registry.connect(server.url) as there:
        registration = await here.register(WRITER)
        async with there.watch() as events, Told(events) as told:
            await eventually(lambda: told.events == ["added writer-001"])
            await asyncio.to_thread(server.kill)
            await eventually(lambda: there.staleness > 0, 30)
            assert there.informer.all()[0].state == "ready"
            await asyncio.to_thread(server.start)
            await registered(here, "new")
            await eventually(lambda: told.events == ["added writer-001", "added new"], 30)
            assert there.staleness == 0
        assert (await there.get("writer-001")).uid == registration.uid


async def test_nodes_of_a_wiped_server_register_again_and_nobody_calls_them_dead(
    server: Etcd | Consul | ZooKeeper,
) -> None:
    async with Registry.connect(server.url) as here, Registry.connect(server.url) as there:
        registration = await here.register(WRITER, ttl=10)
        before = registration.uid
        async with there.watch() as events, Told(events) as told:
            await eventually(lambda: told.events == ["added writer-001"])
            await asyncio.to_thread(server.wipe)

            def back() -> bool:
                record = there.informer.get(KEY)
                assert record is not None
                return (record.uid, record.state) == (registration.uid, "ready") and record.uid != before

            await eventually(back, 40)
            assert there.staleness == 0
            assert not {"offline writer-001", "removed writer-001"} & set(told.events), told.events


@pytest.mark.store("zookeeper")
async def test_a_process_that_stood_still_past_its_session_registers_under_a_new_uid(
    zookeeper_server: str,
) -> None:
    url = f"{zookeeper_server}/?prefix=/stood-still"
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(AGENT), url, "writer-001", "1", stdout=PIPE
    )
    agent = Agent(process)
    try:
        async with Registry.connect(url) as registry:
            first = (await agent.hear("registered"))["uid"]
            assert (await registry.get("writer-001")).uid == first
            agent.signal(signal.SIGSTOP)
            await eventually(lambda: registry.informer.all()[0].state == "offline", 30)
            agent.signal(signal.SIGCONT)
            second = (await agent.hear("registered"))["uid"]
            assert second != first
            await eventually(lambda: registry.informer.all()[0].uid == second)
            assert registry.informer.all()[0].state == "ready"
    finally:
        await agent.end()
