"""A stage for runs: one node with functions as capabilities, an orchestrator, and a database of this test alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually, passport
from tests.engines import own_database

from roster import Node, Orchestrator
from roster.errors import Code, RemoteError

Urls = tuple[str, str]


class Stage:
    """What a test of runs plays on."""

    def __init__(self, orchestrator: Orchestrator, urls: Urls, runs_url: str) -> None:
        self.orchestrator = orchestrator
        self.urls = urls
        self.runs_url = runs_url
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failures: Counter[str] = Counter()
        self.gates: dict[str, asyncio.Event] = {}

    def count(self, action: str) -> int:
        """How often an action was begun."""
        return sum(name == action for name, _ in self.calls)

    async def waits(self, run: str, kind: str) -> None:
        """Wait until a run waits for something."""
        async with asyncio.timeout(30):
            async for record in self.orchestrator.runs.watch(run):
                if any(step.waiting is not None and step.waiting["kind"] == kind for step in record.steps):
                    return
                assert not record.ended, record
        raise AssertionError(f"{run} never waited for {kind}")

    # -- capabilities ---------------------------------------------------------------------------------------------

    async def echo(self, value: Any = None) -> Any:
        """Return what comes."""
        self.calls.append(("echo", {"value": value}))
        return value

    async def add(self, number: float, more: float = 1) -> Any:
        """Cards do no sums."""
        self.calls.append(("add", {"number": number}))
        return number + more

    async def fail(self, times: int = 1000, retryable: bool = False, name: str = "fail") -> str:
        """Fail so many times."""
        self.calls.append(("fail", {"name": name}))
        self.failures[name] += 1
        if self.failures[name] <= times:
            raise RemoteError(f"{name} fails", code=Code.INTERNAL, retryable=retryable)
        return f"done at try {self.failures[name]}"

    async def hold(self, name: str = "gate") -> str:
        """Take until a gate is opened."""
        self.calls.append(("hold", {"name": name}))
        await self.gates.setdefault(name, asyncio.Event()).wait()
        return name

    async def write_article(self, topic: str) -> dict[str, str]:
        """The founding document's."""
        self.calls.append(("write_article", {"topic": topic}))
        return {"article": f"All about {topic}"}


CAPABILITIES = ("echo", "add", "fail", "hold", "write_article")


# For tests of what the two databases may do differently.
on_both_databases = pytest.mark.parametrize("runs_url", ["sqlite", "postgres"], indirect=True)


@pytest.fixture
def runs_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of runs of this test alone: SQLite, unless the test says `on_both_databases`."""
    if getattr(request, "param", "sqlite") == "postgres":
        return own_database()
    return f"sqlite:///{tmp_path}/runs.sqlite"


@asynccontextmanager
async def staged(
    urls: Urls, runs_url: str, only: tuple[str, ...] = CAPABILITIES, at_once: int = 20
) -> AsyncIterator[Stage]:
    """Play on a stage."""
    node = Node(passport("actor-001", *only, at_once=at_once), registry_url=urls[0], bus_url=urls[1])
    orchestrator = await Orchestrator.connect(*urls, runs_url=runs_url)
    stage = Stage(orchestrator, urls, runs_url)
    for name in only:
        node.capability(name)(getattr(stage, name))
    try:
        async with node:
            await orchestrator.start()
            await eventually(lambda: orchestrator.team.nodes_with(only[0]))
            yield stage
    finally:
        for gate in stage.gates.values():
            gate.set()
        await orchestrator.close()


@pytest.fixture
async def stage(memory_urls: Urls, runs_url: str) -> AsyncIterator[Stage]:
    """A stage in memory."""
    async with staged(memory_urls, runs_url) as made:
        yield made


def steps(*all_: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """Return a card of steps."""
    return {"name": "card", "steps": list(all_), **fields}


Make = Callable[..., dict[str, Any]]
