"""Real processes, really killed and really frozen, over one registry file."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import eventually

from roster._clock import boottime
from roster.registry import Registry

AGENT = Path(__file__).with_name("agent.py")
Start = Callable[..., Awaitable["Agent"]]


class Agent:
    """A process that has one node registered."""

    def __init__(self, process: Process) -> None:
        self.process = process

    async def hear(self, event: str, deadline: float = 20.0) -> dict[str, Any]:
        """Wait for the next line about this kind of event."""
        assert self.process.stdout is not None
        async with asyncio.timeout(deadline):
            while line := await self.process.stdout.readline():
                said: dict[str, Any] = json.loads(line)
                if said["event"] == event:
                    return said
        raise AssertionError(f"the agent ended without saying {event}")

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    """An empty registry file."""
    return f"sqlite://{tmp_path}/registry.db"


@pytest.fixture
async def start(file_url: str) -> AsyncIterator[Start]:
    """A function that starts an agent; all are ended with the test."""
    async with AsyncExitStack() as stack:

        async def starter(name: str = "writer-001", ttl: float = 2.0, retention: float = 60.0) -> Agent:
            process = await asyncio.create_subprocess_exec(
                sys.executable, str(AGENT), file_url, name, str(ttl), str(retention), stdout=PIPE
            )
            agent = Agent(process)
            stack.push_async_callback(agent.end)
            return agent

        yield starter


@pytest.fixture
async def registry(file_url: str) -> AsyncIterator[Registry]:
    """A registry of this process over the same file."""
    async with Registry.connect(file_url) as opened:
        yield opened


def state(registry: Registry, name: str = "writer-001") -> str | None:
    record = registry.informer.get(f"default/{name}")
    return record.state if record is not None else None


async def test_a_process_frozen_for_longer_than_its_ttl_registers_again_under_a_new_uid(
    start: Start, registry: Registry
) -> None:
    agent = await start(ttl=1.0)
    first = (await agent.hear("registered"))["uid"]
    await registry.get("writer-001")
    agent.signal(signal.SIGSTOP)
    await eventually(lambda: state(registry) == "offline")
    agent.signal(signal.SIGCONT)
    # Whoever says it first: its own clock, or the store whose answer it was waiting for when it was frozen.
    why = (await agent.hear("lost"))["why"]
    assert "stood still" in why or "has ended" in why
    second = (await agent.hear("registered"))["uid"]
    assert second != first
    await eventually(lambda: state(registry) == "ready")
    assert (await registry.get("writer-001")).uid == second


async def test_a_process_killed_and_started_again_at_once_does_not_wait_for_its_old_lease(
    start: Start, registry: Registry
) -> None:
    first = await start(ttl=600.0)
    uid = (await first.hear("registered"))["uid"]
    await registry.get("writer-001")
    first.signal(signal.SIGKILL)
    await first.process.wait()
    began = boottime()
    second = await start(ttl=600.0)
    said = await second.hear("registered")
    assert boottime() - began < 60
    assert said["uid"] != uid
    await eventually(lambda: (r := registry.informer.get("default/writer-001")) and r.uid == said["uid"])
    assert state(registry) == "ready"


async def test_a_killed_process_is_listed_as_offline_for_its_retention_and_then_goes(
    start: Start, registry: Registry
) -> None:
    agent = await start(ttl=1.0, retention=3.0)
    await agent.hear("registered")
    await registry.get("writer-001")
    agent.signal(signal.SIGKILL)
    await eventually(lambda: state(registry) == "offline")
    await eventually(lambda: state(registry) is None, 10)


async def test_a_second_process_of_the_same_name_is_told_who_holds_it(
    start: Start, registry: Registry
) -> None:
    first = await start(ttl=600.0)
    uid = (await first.hear("registered"))["uid"]
    second = await start(ttl=600.0)
    assert f"pid {first.process.pid}, which is alive" in (await second.hear("conflict"))["text"]
    # A frozen process is alive too.
    first.signal(signal.SIGSTOP)
    third = await start(ttl=600.0)
    assert f"pid {first.process.pid}, which is alive" in (await third.hear("conflict"))["text"]
    first.signal(signal.SIGCONT)
    assert (await registry.get("writer-001")).uid == uid


async def test_a_process_whose_name_was_taken_over_ends_by_itself(start: Start, registry: Registry) -> None:
    agent = await start(ttl=1.0)
    await agent.hear("registered")
    record = await registry.get("writer-001")
    async with await registry.register(record.passport, takeover=True) as mine:
        assert "taken over" in (await agent.hear("displaced"))["text"]
        assert await agent.process.wait() == 0
        assert (await registry.get("writer-001")).uid == mine.uid


async def test_a_process_frozen_while_another_took_its_name_does_not_take_it_back(
    start: Start, registry: Registry
) -> None:
    agent = await start(ttl=1.0)
    await agent.hear("registered")
    record = await registry.get("writer-001")
    agent.signal(signal.SIGSTOP)
    await eventually(lambda: state(registry) == "offline")
    async with await registry.register(record.passport) as mine:
        agent.signal(signal.SIGCONT)
        await agent.hear("lost")
        assert str(mine.key) in (await agent.hear("displaced"))["text"]
        assert (await registry.get("writer-001")).uid == mine.uid
