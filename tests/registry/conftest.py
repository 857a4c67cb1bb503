"""Registries over a store of the test's own, in memory and in a file."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.engines import STORES, shared_url, store_params
from tests.registry.fakes import FaultyStore

from roster.registry import Registry
from roster.store import open_store

Open = Callable[[], Awaitable[Registry]]


# Most tests ask the registry, not the engine, and run in memory; those marked so run over every engine.
each_engine = pytest.mark.parametrize("url", store_params(*STORES), indirect=True)


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store of this test alone; on a shared server, a prefix of its own."""
    engine = getattr(request, "param", "memory")
    if engine == "memory":
        return f"memory://{uuid.uuid4().hex}"
    if engine == "sqlite":
        return f"sqlite://{tmp_path}/registry.db"
    return f"{shared_url(engine)}/?prefix=/t{uuid.uuid4().hex}"


@pytest.fixture
def memory_url() -> str:
    """An empty store in memory."""
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
async def open_registry(url: str) -> AsyncIterator[Open]:
    """A function that opens one more registry over the test's store."""
    async with AsyncExitStack() as stack:
        yield lambda: stack.enter_async_context(Registry.connect(url))


@pytest.fixture
async def registry(open_registry: Open) -> Registry:
    """A registry over the test's store."""
    return await open_registry()


@pytest.fixture
async def faulty(memory_url: str) -> AsyncIterator[tuple[FaultyStore, Registry, Registry]]:
    """A store with a switch, a registry over it, and another one that the switch does not touch."""
    async with Registry.connect(memory_url) as other:
        store = FaultyStore(open_store(memory_url))
        async with Registry(store) as registry:
            yield store, registry, other
