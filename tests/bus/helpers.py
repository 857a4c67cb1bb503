"""What the tests of the bus share: waiting for a condition, loops in threads, processes to kill."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from roster.bus import Bus, Delivery, Message

T = TypeVar("T")
PATIENCE = 30.0  # a machine that is busy with other tests is slow, and not wrong


async def until(condition: Callable[[], bool], within: float = PATIENCE) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        await asyncio.sleep(0.002)


async def soon(awaitable: Awaitable[T], within: float = PATIENCE) -> T:
    """Await something that must not take long."""
    async with asyncio.timeout(within):
        return await awaitable


def echo(delivery: Delivery) -> None:
    """A handler that starts each command and answers it with its params."""
    delivery.start()
    delivery.reply(Message.result_for(delivery.message, delivery.message.params))


async def ask(bus: Bus, queue: str, **params: Any) -> Any:
    """Send a command and return the result in its answer."""
    exchange = await soon(bus.send(queue, Message.command("ask", params)))
    return (await soon(exchange.answer)).data["result"]


class Elsewhere:
    """An event loop on a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine there and wait for it here."""
        return await soon(asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self.loop)))

    def stop(self) -> None:
        """End the loop and its thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE)
        self.loop.close()


class Child:
    """A Python process of its own that runs a program and speaks in lines."""

    def __init__(self, program: str, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def line(self) -> str:
        """Return the next line that it writes."""
        stdout = self.process.stdout
        assert stdout is not None
        line = await soon(asyncio.to_thread(stdout.readline), 20)
        assert line, f"the child has ended with {self.process.poll()}"
        return line.strip()

    def tell(self, line: str) -> None:
        """Write it a line."""
        stdin = self.process.stdin
        assert stdin is not None
        stdin.write(line + "\n")
        stdin.flush()

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone."""
        self.process.kill()
        self.end()

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # what was left to say to the dead
