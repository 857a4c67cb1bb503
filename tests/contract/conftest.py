"""One fixture that opens clients of whatever store is under test."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from roster.store import Store, open_store

# An engine joins the suite by adding a function from a fresh directory to a URL of an empty store.
STORES: dict[str, Callable[[Path], str]] = {
    "memory": lambda _: f"memory://{uuid.uuid4().hex}",
    "sqlite": lambda directory: f"sqlite://{directory}/registry.db",
}
# Whoever has a server at hand names it: it must be empty under /contract/.
NAMED = os.environ.get("ROSTER_TEST_STORE", "")
if NAMED:
    STORES = {NAMED.partition(":")[0]: lambda _: NAMED}


@pytest.fixture(params=sorted(STORES))
def store_address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    return STORES[request.param](tmp_path)


@pytest.fixture
async def store(store_address: str) -> AsyncIterator[Store]:
    """A client of an empty store."""
    async with open_store(store_address) as opened:
        yield opened


@pytest.fixture
async def another(store_address: str, store: Store) -> AsyncIterator[Callable[[], Store]]:
    """A function that opens further clients of the same store."""
    async with AsyncExitStack() as stack:
        opened: list[Store] = []

        def make() -> Store:
            client = open_store(store_address)
            opened.append(client)
            stack.push_async_callback(client.close)
            return client

        yield make
