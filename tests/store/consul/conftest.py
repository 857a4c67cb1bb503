"""Consul as its owner sees it, beside the store under test."""

from __future__ import annotations

import asyncio
import json
import urllib.error
import urllib.request
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from roster._clock import boottime
from roster.store import StoreUrl, store_url
from roster.store.consul import ConsulStore


class Owner:
    """Asks a Consul without TLS by another way than the engine does."""

    def __init__(self, url: StoreUrl) -> None:
        host, port = url.hosts[0]
        self._base = f"http://{host}:{port}"
        self._headers = {"X-Consul-Token": url.password} if url.password else {}

    def raw(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self._base + path, data=body, method=method, headers=self._headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            content: bytes = answer.read()
        return content

    async def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Return what the API answered, decoded; None for 404."""
        sent = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        try:
            content = await asyncio.to_thread(self.raw, method, path, sent)
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
                raise AssertionError(f"{method} {path}: {error.code} {error.read()!r}") from None
        try:
            return json.loads(content) if content else None
        except ValueError:
            return content

    async def shown(self, word: str) -> list[Any]:
        """Return what the health API shows of the services with a tag, live or not."""
        found: list[Any] = await self.ask("GET", f"/v1/health/service/ai-node?tag={word}")
        return found

    async def passing(self, word: str = "", service: str = "ai-node") -> list[str]:
        """Return the names of the live services that the health API finds, by what they are tagged with."""
        tag = f"&tag={word}" if word else ""
        found = await self.ask("GET", f"/v1/health/service/{service}?passing{tag}")
        return [one["Service"]["Meta"].get("name", "") for one in found]

    async def raft_index(self) -> int:
        """Return how many entries raft's log has had."""
        said = await self.ask("GET", "/v1/agent/self")
        return int(said["Stats"]["raft"]["applied_index"])


@pytest.fixture
def owner(consul_server: str) -> Owner:
    """The shared Consul, seen from outside."""
    return Owner(store_url(consul_server))


@pytest.fixture
async def store(consul_server: str) -> AsyncIterator[ConsulStore]:
    """A client of the shared Consul."""
    async with ConsulStore(store_url(consul_server)) as opened:
        yield opened


@pytest.fixture
def root() -> str:
    """A prefix of this test's own."""
    return f"/tests/{uuid.uuid4().hex}/"


async def until(condition: Callable[[], Awaitable[Any]], within: float = 15.0) -> Any:
    """Ask again until the answer is true, and return it."""
    end = boottime() + within
    while not (answer := await condition()):
        assert boottime() < end, f"{condition} did not come true within {within} s"
        await asyncio.sleep(0.02)
    return answer
