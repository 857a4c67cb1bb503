"""One fixture that opens clients of whatever store is under test."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.engines import shared_url, store_params

from roster.store import Store, open_store

# An engine joins the suite by adding a function from a fresh directory to a URL of an empty store, and its grade.
STORES: dict[str, Callable[[Path], str]] = {
    "memory": lambda _: f"memory://{uuid.uuid4().hex}",
    "sqlite": lambda directory: f"sqlite://{directory}/registry.db",
    "etcd": lambda _: shared_url("etcd"),
    "consul": lambda _: shared_url("consul"),
    "zookeeper": lambda _: shared_url("zookeeper"),
}
GRADES = {"consul": "state", "zookeeper": "state"}  # all others: history
# Whoever has a server at hand names it: it must be empty under /contract/.
NAMED = os.environ.get("ROSTER_TEST_STORE", "")
if NAMED:
    STORES = {NAMED.partition(":")[0]: lambda _: NAMED}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out the clauses that the engine of a grade does not promise."""
    kept = [item for item in items if _promised(item)]
    if len(kept) < len(items):
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept


def _promised(item: pytest.Item) -> bool:
    call = getattr(item, "callspec", None)
    engine = call.params.get("store_address") if call is not None else None
    if engine is None:
        return True
    other = "history" if GRADES.get(engine.removesuffix("s")) == "state" else "state"
    return item.get_closest_marker(other) is None


@pytest.fixture(params=sorted(STORES) if NAMED else store_params(*STORES))
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
