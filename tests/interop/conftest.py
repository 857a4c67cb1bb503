"""Programs of the founding document as processes, on the libraries that it names."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from servers.ports import LOOPBACK
from tests.docs.founding_snippets import program
from tests.docs.markdown import ROOT
from tests.engines import not_here, store_params
from tests.interop import snippets

from roster import Registry
from servers import Consul, Etcd

PYTHON = ROOT / ".interop" / "bin" / "python"
READY = ROOT / ".interop" / ".ready"
EXAMPLE = ROOT / "examples" / "passports" / "writer-001.yaml"
DEADLINE = 30.0
NAME = "writer-001"
KEY = f"ai-team/{NAME}"
QUEUE = "agent.writer.001"


class Program:
    """A running program of the founding document."""

    def __init__(self, process: Process) -> None:
        self._process = process

    async def ended(self) -> tuple[int, str]:
        """Wait until it has ended by itself; return its exit status and what it said on standard error."""
        assert self._process.stderr is not None
        async with asyncio.timeout(DEADLINE):
            said = await self._process.stderr.read()
            return await self._process.wait(), said.decode()

    async def find(self, capability: str) -> dict[str, tuple[Any, bool]]:
        """Have the founding document's orchestrator look: passport by name, and whether it takes it for healthy."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._process.stdin.write(f"{capability}\n".encode())
        async with asyncio.timeout(DEADLINE):
            answer = await self._process.stdout.readline()
            assert answer, (await self._process.stderr.read()).decode()
        found, healthy = json.loads(answer)
        names = [each["metadata"]["name"] for each in found]
        assert len(set(names)) == len(names)
        return {each["metadata"]["name"]: (each, each["metadata"]["name"] in healthy) for each in found}

    async def kill(self) -> None:
        """End it as a crash does, with SIGKILL."""
        if self._process.returncode is None:
            self._process.kill()
        # Not `communicate`: it fails if what `find` reads was cut off in the middle of a line.
        await self._process.wait()


def state(registry: Registry) -> str | None:
    """Return what we take the agent's state for; None: it is not listed."""
    record = registry.informer.get(KEY)
    return None if record is None else record.state


async def roster(*words: str, url: str) -> str:
    """Run a command of ours to its end and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "roster", *words),
        env={**os.environ, "ROSTER_REGISTRY": url},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(DEADLINE):
        out, said = await process.communicate()
    assert process.returncode in (0, 1), said.decode()
    return out.decode()


Start = Callable[..., Awaitable[Program]]


@dataclass(frozen=True, slots=True)
class Place:
    """A server of this test alone, and how the founding document's programs find it.

    Attributes:
        url: the registry URL.
        environment: of its programs; they write four times a second, and grant leases of two seconds.
        orchestrator: the program that finds and judges.
        agent: an agent that does what it takes to live on.
        agent_once: an agent that writes its passport once, without a lease.
    """

    url: str
    environment: dict[str, str]
    orchestrator: str
    agent: str
    agent_once: str


@pytest.fixture
def etcd(start_etcd: Callable[..., Etcd]) -> Place:
    """An etcd, with python-etcd3."""
    server = start_etcd(fsync=False)
    return Place(
        server.url,
        {"ETCD_HOST": LOOPBACK, "ETCD_PORT": str(server.ports["client"]), "TTL": "2", "BEAT": "0.25"},
        snippets.ORCHESTRATOR,
        snippets.AGENT_THAT_REFRESHES,
        snippets.AGENT_THAT_PUTS_ONCE,
    )


@pytest.fixture
def consul(start_consul: Callable[..., Consul]) -> Place:
    """A Consul, with its client for Python."""
    server = start_consul(dev=True)
    return Place(
        server.url,
        {"CONSUL_HOST": LOOPBACK, "CONSUL_PORT": str(server.http_port), "BEAT": "0.25"},
        snippets.CONSUL_ORCHESTRATOR,
        snippets.CONSUL_AGENT,
        snippets.CONSUL_AGENT_THAT_PUTS_ONCE,
    )


@pytest.fixture(params=store_params("etcd", "consul"))
def place(request: pytest.FixtureRequest) -> Place:
    """Each of the two."""
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def node_passport(tmp_path: Path) -> Path:
    """The founding document's passport, where its programs look for it."""
    where = tmp_path / "node_passport.yaml"
    shutil.copyfile(EXAMPLE, where)
    return where


@pytest.fixture
def declared(node_passport: Path) -> Any:
    """The document of that file."""
    return yaml.safe_load(node_passport.read_text(encoding="utf-8"))


@pytest.fixture
async def start(node_passport: Path) -> AsyncIterator[Start]:
    """A function that starts a snippet as a program; keywords are its environment."""
    if not READY.exists():
        not_here("the founding document's libraries", "run scripts/setup-interop, then this again")
    started: list[Program] = []

    async def begin(snippet: str, **environment: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *(PYTHON, "-W", "ignore", "-c", program(snippet)),
            cwd=node_passport.parent,
            env={**os.environ, "PYTHONUTF8": "1", **environment},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=2**24,
        )
        started.append(Program(process))
        return started[-1]

    yield begin
    for each in started:
        await each.kill()
