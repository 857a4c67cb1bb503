"""What the tests of the ZooKeeper engine share: clients of the server at hand, and a look at the znodes themselves."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient

from roster.store.url import store_url
from roster.store.zookeeper import ZookeeperStore


def client(url: str) -> ZookeeperStore:
    """Return a client of the engine itself."""
    return ZookeeperStore(store_url(url))


async def eventually(condition: Callable[[], Awaitable[Any]], within: float = 30.0) -> Any:
    """Ask again until the answer is true, and return it."""
    async with asyncio.timeout(within):
        while not (answer := await condition()):
            await asyncio.sleep(0.02)
        return answer


@pytest.fixture
async def store(zookeeper_server: str) -> AsyncIterator[ZookeeperStore]:
    """A client of the server that the tests share."""
    async with client(zookeeper_server) as opened:
        yield opened


@pytest.fixture
async def other(zookeeper_server: str) -> AsyncIterator[ZookeeperStore]:
    """Another client of it."""
    async with client(zookeeper_server) as opened:
        yield opened


@pytest.fixture
def root() -> str:
    """A prefix of this test's own."""
    return f"/tests/{uuid.uuid4().hex}/"


@pytest.fixture
def znodes(zookeeper_server: str) -> Iterator[Any]:
    """kazoo itself, as others would look at the server."""
    kazoo = KazooClient(zookeeper_server.partition("://")[2])
    kazoo.start(timeout=10)
    yield kazoo
    kazoo.stop()
    kazoo.close()
