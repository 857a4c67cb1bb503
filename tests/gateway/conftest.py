"""A gateway of one test, served on a free port in this process, and clients of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.conftest import passport

from roster.gateway import Gateway, Settings, serve
from roster.gateway.server import bind

BOUND = 60.0  # for whatever must happen, on a machine that is busy


@dataclass(frozen=True)
class Served:
    """A gateway that clients can connect to."""

    gateway: Gateway
    client: httpx.AsyncClient
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    def as_(self, token: str) -> dict[str, str]:
        """The header of a token."""
        return {"authorization": f"Bearer {token}"}


def team_passport(name: str, *capabilities: Any, **more: Any) -> dict[str, Any]:
    """A passport in the namespace ai-team."""
    return passport(name, *capabilities, **{"namespace": "ai-team", **more})


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serving(memory_urls: tuple[str, str], tmp_path: Path) -> Serving:
    """Serve a gateway: `async with serving(limits=...) as served`."""

    @asynccontextmanager
    async def serving(urls: tuple[str, str] = memory_urls, **settings: Any) -> AsyncIterator[Served]:
        wanted = Settings(**{"port": 0, **settings})
        listening = bind(wanted)
        started = asyncio.Event()
        host, port = listening.getsockname()[:2]
        async with Gateway(
            wanted, registry_url=urls[0], bus_url=urls[1], runs_url=f"sqlite:///{tmp_path}/runs.sqlite"
        ) as gateway:
            task = asyncio.create_task(serve(gateway, listening, on_started=started.set, signals=False))
            try:
                async with asyncio.timeout(BOUND):
                    await started.wait()
                    await until(lambda: gateway.not_ready is None)
                shown = "127.0.0.1" if host == "0.0.0.0" else host
                async with httpx.AsyncClient(base_url=f"http://{shown}:{port}", timeout=BOUND) as client:
                    yield Served(gateway, client, shown, port)
            finally:
                task.cancel()
                await asyncio.wait([task])
                listening.close()

    return serving


@pytest.fixture
async def served(serving: Serving) -> AsyncIterator[Served]:
    async with serving() as one:
        yield one


async def until(condition: Callable[[], Any] | Callable[[], Awaitable[Any]], bound: float = BOUND) -> Any:
    """Wait until a condition holds, and return what it returned."""
    async with asyncio.timeout(bound):
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return found
            await asyncio.sleep(0.01)


class Events:
    """Server-sent events as a browser reads them."""

    def __init__(self, lines: AsyncIterator[str]) -> None:
        self._lines = lines

    async def next(self) -> tuple[str, Any, str | None]:
        """The next event: its name, its data, its id."""
        name, data, place = "message", "", None
        async with asyncio.timeout(BOUND):
            async for line in self._lines:
                if line.startswith(":"):
                    continue
                if not line:
                    if data:
                        return name, json.loads(data), place
                    continue
                field, _, value = line.partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    data += value
                elif field == "id":
                    place = value
        raise AssertionError("the stream ended")

    async def until(self, name: str) -> tuple[list[tuple[str, Any, str | None]], str | None]:
        """Everything up to an event of this name, and its id."""
        seen: list[tuple[str, Any, str | None]] = []
        while True:
            event = await self.next()
            if event[0] == name:
                return seen, event[2]
            seen.append(event)


@asynccontextmanager
async def events(served: Served, path: str, **options: Any) -> AsyncIterator[Events]:
    async with served.client.stream("GET", path, **options) as answer:
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield Events(answer.aiter_lines())
