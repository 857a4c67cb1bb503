"""`watch` and `get --watch` tell what happens, a line at a time."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest
from tests.cli.conftest import ended, writer

T = TypeVar("T")


def until(get: Callable[[], T], good: Callable[[T], bool], deadline: float = 10.0) -> T:
    """Ask again until the answer is good."""
    end = time.monotonic() + deadline
    while not good(found := get()):
        assert time.monotonic() < end, found
    return found


async def start(urls: tuple[str, str], *args: str) -> asyncio.subprocess.Process:
    """Start the real command."""
    environment = {**os.environ, "ROSTER_REGISTRY": urls[0], "ROSTER_BUS": urls[1]}
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roster", *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment,
    )  # fmt: skip


async def lines(process: asyncio.subprocess.Process) -> AsyncIterator[str]:
    """Yield what it prints, each line within ten seconds."""
    assert process.stdout is not None
    while line := await asyncio.wait_for(process.stdout.readline(), 10):
        yield line.decode().rstrip("\n")


async def interrupted(process: asyncio.subprocess.Process) -> int:
    """Press Ctrl-C."""
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert await asyncio.wait_for(process.stderr.read(), 10) == b""
    return await asyncio.wait_for(process.wait(), 10)


@pytest.fixture
def urls(file_urls: tuple[str, str]) -> tuple[str, str]:
    """Other processes watch, so it is files and sockets."""
    return file_urls


async def test_watch_prints_one_line_an_event_until_interrupted(
    urls: tuple[str, str], tmp_path: Path
) -> None:
    node = writer("writer-001", registry_url=urls[0], bus_url=urls[1])
    async with ended(await start(urls, "watch", "-A", "-l", "role=writer")) as process:
        said = lines(process)
        async with node:
            while " ready 0/3" not in (line := await anext(said)):
                assert "ai-team/writer-001" in line
            await asyncio.sleep(0)
        while True:
            line = await anext(said)
            if " removed " in line:
                break
        moment, _, kind, *rest = line.split(maxsplit=2)[0], *line.split(maxsplit=2)
        assert moment.endswith("Z")
        assert kind == "removed"
        assert rest[0].startswith("ai-team/writer-001")
        assert await interrupted(process) == 130


async def test_watch_prints_json_for_programs(urls: tuple[str, str]) -> None:
    async with (
        writer("writer-001", registry_url=urls[0], bus_url=urls[1]),
        ended(await start(urls, "watch", "-n", "ai-team", "-o", "json")) as process,
    ):
        event = json.loads(await anext(lines(process)))
        assert (event["type"], event["namespace"], event["name"]) == ("added", "ai-team", "writer-001")
        assert event["capacity"] == 3
        assert await interrupted(process) == 130


async def test_get_watch_goes_on_with_rows(urls: tuple[str, str]) -> None:
    node = writer("writer-001", registry_url=urls[0], bus_url=urls[1])
    async with ended(await start(urls, "get", "nodes", "-A", "--watch")) as process:
        said = lines(process)
        assert (await anext(said)).split()[:3] == ["NAMESPACE", "NAME", "STATE"]
        async with node:
            while "ready" not in await anext(said):
                pass
        while True:
            row = (await anext(said)).split()
            if row[2] == "removed":
                break
        assert row[:2] == ["ai-team", "writer-001"]
        assert await interrupted(process) == 130


async def test_get_watch_prints_one_document_a_line(urls: tuple[str, str]) -> None:
    async with writer("writer-001", registry_url=urls[0], bus_url=urls[1]) as node:
        args = ("get", "node", "writer-001", "-n", "ai-team", "-o", "json", "-w")
        async with ended(await start(urls, *args)) as process:
            said = lines(process)
            assert json.loads(await anext(said))["metadata"]["name"] == "writer-001"
            await node.update(labels={"role": "poet"})
            while json.loads(await anext(said))["metadata"]["labels"] != {"role": "poet"}:
                pass
            assert await interrupted(process) == 130
