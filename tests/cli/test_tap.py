"""`tap` shows what is published, whoever reads it, and ends when it is told to."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from tests.cli.conftest import ended, roster
from tests.cli.test_watch import lines
from tests.conftest import eventually
from tests.engines import own_bus

from roster import MindBus

ATTACK = "\x1b]0;owned\x07\x1b[2J\r\u202egnp\x9b31m"


@pytest.fixture(params=["local", "amqp"])
def bus_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A bus of this test alone that other processes can open."""
    return own_bus() if request.param == "amqp" else f"local://{tmp_path}/bus"


@pytest.fixture
def local_url(tmp_path: Path) -> str:
    """A local bus of this test alone."""
    return f"local://{tmp_path}/bus"


async def tapping(url: str, *args: str) -> asyncio.subprocess.Process:
    """Start the real command, and return when it listens."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roster", "tap", *args,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, "ROSTER_BUS": url},
    )  # fmt: skip
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.readline(), 20)
    assert said.startswith(b"listening on "), said
    return process


async def over(process: asyncio.subprocess.Process) -> tuple[int, str]:
    """Wait until it has ended; return its status and what else it said."""
    assert process.stderr is not None
    said = await asyncio.wait_for(process.stderr.read(), 20)
    return await asyncio.wait_for(process.wait(), 20), said.decode()


async def test_events_and_control_are_shown_until_ctrl_c_which_is_a_good_end(bus_url: str) -> None:
    async with (
        ended(await tapping(bus_url, "evt.#", "ctl.*.ai-team")) as process,
        MindBus.connect(bus_url, source="/ai-team/editor-001") as mindbus,
    ):
        said = lines(process)
        await mindbus.publish_event("articles", "done", {"title": "Пчёлы"})
        await mindbus.publish_control("all", "elsewhere", "pause")
        await mindbus.publish_control("all", "ai-team", "pause")
        first, second = (await anext(said)).split(" ", 1), (await anext(said)).split(" ", 1)
        process.send_signal(signal.SIGINT)
        assert await over(process) == (0, "")
    assert first[0].endswith("Z")
    assert first[1] == 'event   evt.articles.done /ai-team/editor-001 {"title": "Пчёлы"}'
    assert second[1] == 'control ctl.all.ai-team /ai-team/editor-001 {"signal": "pause"}'


async def test_programs_get_one_cloudevent_a_line(bus_url: str) -> None:
    async with (
        ended(await tapping(bus_url, "evt.#", "--count", "2", "-o", "json")) as process,
        MindBus.connect(bus_url, source="/ai-team/editor-001") as mindbus,
    ):
        said = lines(process)
        await mindbus.publish_event("articles", "done", {"title": ATTACK})
        await mindbus.publish_event("articles", "lost")
        first, second = await anext(said), await anext(said)
        assert await over(process) == (0, "")
    assert not set(first) & set(ATTACK[:1] + "\r\u202e\x9b")
    event = JSONFormat().read(CloudEvent, first)
    assert event.get_type() == "ai.team.event"
    assert event.get_source() == "/ai-team/editor-001"
    assert event.get_attributes()["routingkey"] == "evt.articles.done"
    assert event.get_data() == {"title": ATTACK}
    assert json.loads(second)["routingkey"] == "evt.articles.lost"


async def test_a_reader_that_goes_away_ends_it_at_once_and_quietly(local_url: str) -> None:
    async with ended(await tapping(local_url)) as process:
        assert process.stdout is not None
        process.stdout._transport.close()  # type: ignore[attr-defined]  # asyncio gives no other way to close a reader
        assert await over(process) == (141, "")


@pytest.fixture
async def unread(local_url: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """A tap, and the reading end of its output, which nobody reads yet."""
    read, write = os.pipe()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "roster", "tap", "evt.#",
        stdout=write, stderr=asyncio.subprocess.PIPE, env={**os.environ, "ROSTER_BUS": local_url},
    )  # fmt: skip
    os.close(write)
    async with ended(process):
        assert process.stderr is not None
        await asyncio.wait_for(process.stderr.readline(), 20)
        yield process, read
    os.close(read)


def _waiting(descriptor: int) -> int:
    """Return how many bytes a pipe holds."""
    answer = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
    return int(struct.unpack("i", answer)[0])


async def _publish(url: str, count: int) -> None:
    async with MindBus.connect(url) as mindbus:
        for number in range(count):
            await mindbus.publish_event("n", "x", {"n": number, "text": "." * 1000})


async def test_ctrl_c_ends_it_though_nobody_reads(
    local_url: str, unread: tuple[asyncio.subprocess.Process, int]
) -> None:
    process, read = unread
    await _publish(local_url, 100)
    await eventually(lambda: _waiting(read) > 50_000)
    process.send_signal(signal.SIGINT)
    assert await over(process) == (0, "")


async def test_a_slow_reader_loses_the_oldest_and_is_told_how_many(
    local_url: str, unread: tuple[asyncio.subprocess.Process, int]
) -> None:
    process, read = unread
    # More than waits in the pipe, in the process, in the socket, and at the one who publishes, all together.
    async with MindBus.connect(local_url) as mindbus:
        for number in range(16_000):
            await mindbus.publish_event("n", "x", {"n": number, "text": "." * 1000})
        shown = bytearray()
        with os.fdopen(os.dup(read), "rb", buffering=0) as output:

            def read_all() -> None:
                while block := output.read(65_536):
                    shown.extend(block)

            reading = asyncio.create_task(asyncio.to_thread(read_all))
            await eventually(lambda: b'"n": 15999' in shown[-8_000:], 30)
            process.send_signal(signal.SIGINT)
            status, said = await over(process)
            await reading
    numbers = [int(found) for found in re.findall(rb'"n": (\d+)', shown)]
    warning = said.splitlines()[-1]
    assert status == 0
    assert (
        warning
        == f"warning: {16_000 - len(numbers)} messages lost: they come faster than this output is read"
    )
    assert numbers == sorted(set(numbers))
    assert 10_000 <= len(numbers) < 15_000


def test_it_ends_after_a_time_and_says_what_did_not_come(team: tuple[str, str]) -> None:
    result = roster("tap", "--timeout", "50ms")
    assert (result.status, result.out) == (0, "")
    assert result.err.startswith(f"listening on {team[1]} to everything; ")

    result = roster("tap", "evt.#", "--count", "3", "--timeout", "50ms")
    assert result.status == 10
    assert result.err.endswith("error: 0 of 3 messages came within 0.05 s\n")


async def test_what_strangers_publish_is_made_safe(local_url: str) -> None:
    async with (
        ended(await tapping(local_url, "--count", "1")) as process,
        MindBus.connect(local_url, source="/x\u202ey") as mindbus,
    ):
        await mindbus.publish_event(ATTACK[:9].replace("\x1b", ""), "\u202edone", {ATTACK: ATTACK})
        line = await anext(lines(process))
        assert await over(process) == (0, "")
    assert line.isprintable()
    assert "\\u202edone" in line
