"""What the tests of the ZooKeeper engine share: clients of the server at hand, and a look at the znodes themselves."""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest
from kazoo.client import KazooClient

from roster.errors import StoreUnavailableError
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


async def until(condition: Callable[..., bool], *given: Any, within: float = 30.0) -> None:
    """Wait until a condition holds for what is given."""
    async with asyncio.timeout(within):
        while not condition(*given):
            await asyncio.sleep(0.01)


async def answers(store: ZookeeperStore) -> bool:
    """Return whether the server is within reach."""
    try:
        await store.info()
    except StoreUnavailableError:
        return False
    return True


def threads() -> int:
    """Return how many threads the engine has in this process."""
    return sum(each.name == "roster-zookeeper" for each in threading.enumerate())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """Whatever a test opens it closes, and what is closed has no thread any more."""
    yield
    assert threads() == 0


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
