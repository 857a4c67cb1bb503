"""A little team that the commands are tried on, and a way to run them in this process."""

from __future__ import annotations

import asyncio
import contextlib
import io
import itertools
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.conftest import passport

from roster import Context, Node, Registry
from roster._loops import LoopThread
from roster.cli import main
from roster.store import open_store

_numbers = itertools.count()

WRITE: dict[str, Any] = {
    "name": "write_article",
    "description": "Написание статей",
    "idempotent": True,
    "input_schema": {
        "topic": "string",
        "style": "string?",
        "words": "integer?",
        "share": "number?",
        "draft": "boolean?",
    },
    "output_schema": {"article": "string", "metadata": "object"},
}
EDIT: dict[str, Any] = {
    "name": "edit_text",
    "input_schema": {"text": "string"},
    "output_schema": {"edited_text": "string"},
}


@dataclass(frozen=True, slots=True)
class Result:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its output, read as JSON."""
        return json.loads(self.out)

    @property
    def rows(self) -> list[list[str]]:
        """Its output as awk would see it, without the headings."""
        return [line.split() for line in self.out.splitlines()[1:]]


def roster(*args: str, stdin: bytes = b"") -> Result:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    keyboard, sys.stdin = sys.stdin, io.TextIOWrapper(io.BytesIO(stdin))
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(args)
    finally:
        sys.stdin = keyboard
    return Result(status, out.getvalue(), err.getvalue())


def writer(name: str, **options: Any) -> Node:
    """Return a node that writes articles, and answers some topics in other ways."""
    node = Node(
        passport(
            name,
            WRITE,
            **{"namespace": "ai-team", "labels": {"role": "writer"}, **options.pop("document", {})},
        ),
        **options,
    )

    @node.capability("write_article")
    async def write_article(
        topic: str,
        context: Context,
        style: str | None = None,
        words: int | None = None,
        share: float | None = None,
        draft: bool | None = None,
    ) -> dict[str, Any]:
        if topic == "trouble":
            raise RuntimeError("no ink \x1b[31m left")
        if topic == "waiting":
            await asyncio.sleep(60)
        context.progress(step=1, of=2)
        metadata = {"style": style, "words": words, "share": share, "draft": draft}
        return {
            "article": f"All about {topic}",
            "metadata": {k: v for k, v in metadata.items() if v is not None},
        }

    return node


def editor(name: str, **options: Any) -> Node:
    """Return a node that edits texts."""
    node = Node(passport(name, EDIT, at_once=1), **options)

    @node.capability("edit_text")
    async def edit_text(text: str) -> dict[str, str]:
        return {"edited_text": " ".join(text.split())}

    return node


@pytest.fixture(scope="session")
def running_team() -> Iterator[tuple[str, str]]:
    """Two writers in the namespace ai-team and an editor in default; nobody changes them."""
    url = f"memory://cli-{next(_numbers)}"
    options = {"registry_url": url, "bus_url": url}
    nodes = [
        writer("writer-001", **options),
        writer(
            "writer-002", **options, document={"labels": {"role": "writer", "tier": "b"}, "version": "1.2.0"}
        ),
        editor("editor-001", **options),
    ]
    thread = LoopThread("team").start()
    # The store in memory lives as long as somebody has it open.
    holder = thread.run(_opened(url))
    for node in nodes:
        thread.run(node.start(), timeout=10)
    yield url, url
    for node in nodes:
        thread.run(node.stop(), timeout=10)
    thread.run(holder.close(), timeout=10)
    thread.stop()


async def _opened(url: str) -> Registry:
    registry = await Registry.connect(url)
    await registry.synced()
    return registry


@pytest.fixture
def team(running_team: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Have commands meet the team."""
    monkeypatch.setenv("ROSTER_REGISTRY", running_team[0])
    monkeypatch.setenv("ROSTER_BUS", running_team[1])
    for name in ("ROSTER_NAMESPACE", "ROSTER_DEBUG", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return running_team


class Stage:
    """A registry and a bus of one test, and a loop where its nodes live."""

    def __init__(self, url: str, thread: LoopThread) -> None:
        self.url = url
        self.thread = thread
        self.nodes: list[Node] = []

    def start(self, make: Callable[..., Node], name: str, **options: Any) -> Node:
        """Start a node."""
        node = make(name, registry_url=self.url, bus_url=self.url, **options)
        self.thread.run(node.start(), timeout=10)
        self.nodes.append(node)
        return node

    def put(self, document: dict[str, Any], status: dict[str, Any] | None = None) -> None:
        """Write a document into the store past every check, as a hostile or founding-style agent would."""
        place = f"{document['metadata'].get('namespace', 'default')}/{document['metadata']['name']}"

        async def write() -> None:
            async with open_store(self.url) as store:
                await store.put(f"/ai-team/nodes/{place}", json.dumps(document).encode())
                if status is not None:
                    await store.put(f"/ai-team/status/{place}", json.dumps(status).encode())

        self.thread.run(write(), timeout=10)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """An empty registry and bus for one test."""
    url = f"memory://stage-{next(_numbers)}"
    monkeypatch.setenv("ROSTER_REGISTRY", url)
    monkeypatch.setenv("ROSTER_BUS", url)
    monkeypatch.delenv("ROSTER_NAMESPACE", raising=False)
    thread = LoopThread("stage").start()
    holder = thread.run(_opened(url))
    made = Stage(url, thread)
    yield made
    for node in made.nodes:
        thread.run(node.stop(grace=0.1), timeout=10)
    thread.run(holder.close(), timeout=10)
    thread.stop()


@contextlib.asynccontextmanager
async def ended(process: asyncio.subprocess.Process) -> AsyncIterator[asyncio.subprocess.Process]:
    """Have a process ended at the end of the block, whatever happens in it."""
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
