"""The bus of one process, where loops come and go."""

from __future__ import annotations

import asyncio
import os
import uuid

import pytest
from tests.bus.helpers import Elsewhere, ask, echo

from roster.bus import Message, open_bus
from roster.errors import BusUnavailableError


async def test_a_consumer_whose_loop_has_ended_is_nobody_and_its_queue_is_free() -> None:
    url = f"memory://{uuid.uuid4().hex}"
    other = Elsewhere()
    lost = open_bus(url)
    await other.run(lost.serve("q", echo))
    caller = open_bus(url)
    assert await ask(caller, "q", n=1) == {"n": 1}
    other.stop()
    with pytest.raises(BusUnavailableError, match="nobody consumes"):
        await caller.send("q", Message.command("a"))
    await caller.serve("q", echo)
    assert await ask(caller, "q", n=2) == {"n": 2}
    await caller.close()


async def test_names_keep_buses_apart() -> None:
    name = uuid.uuid4().hex
    async with open_bus(f"memory://{name}/1") as node, open_bus(f"memory://{name}/2") as caller:
        await node.serve("q", echo)
        with pytest.raises(BusUnavailableError):
            await caller.send("q", Message.command("a"))


# From 3.12 on Python warns of threads at a fork; pytest has one for its timeout.
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
async def test_a_forked_child_finds_nobody() -> None:
    async with open_bus("memory://forked") as node:
        await node.serve("q", echo)
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:
            word = b"no error"
            try:
                asyncio.run(open_bus("memory://forked").send("q", Message.command("a")))
            except BusUnavailableError:
                word = b"nobody"
            finally:
                os.write(writable, word)
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as stream:
            assert stream.read() == b"nobody"
        os.waitpid(child, 0)
