"""Lines to standard output that wait for whoever reads them, without holding up the loop meanwhile."""

from __future__ import annotations

import asyncio
import errno
import os
import select
import stat
import sys
from typing import Any

from roster._text import safe
from roster.cli.encode import to_json

# What POSIX says that a pipe takes at once when it says that it takes anything.
_AT_ONCE = select.PIPE_BUF


class Stream:
    """Standard output of a command that prints as things happen: `async with Stream() as stream`.

    A reader that stops reading stops `line` and `json`, and nothing else: what comes meanwhile is counted where it is
    lost, and Ctrl-C ends the command. A reader that goes away ends the block with `BrokenPipeError` at once, not at the
    next line.
    """

    def __init__(self) -> None:
        self._fd = _watchable(sys.stdout)
        self._gone = False
        self._task: asyncio.Task[Any] | None = None
        self._cancelling = 0

    async def line(self, text: str) -> None:
        """Print one line."""
        await self._write(safe(text))

    async def json(self, value: Any) -> None:
        """Print a value as JSON on one line."""
        await self._write(to_json(value, indent=None))

    async def _write(self, text: str) -> None:
        if self._fd is None:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            return
        left = memoryview(f"{text}\n".encode(sys.stdout.encoding, "backslashreplace"))
        while left:
            await _writable(self._fd)
            left = left[os.write(self._fd, left[:_AT_ONCE]) :]

    async def __aenter__(self) -> Stream:
        sys.stdout.flush()
        self._task = asyncio.current_task()
        if self._task is not None:
            self._cancelling = self._task.cancelling()
        if self._fd is not None and stat.S_ISFIFO(os.fstat(self._fd).st_mode):
            # Nothing can be read from this end: it "can be read" when the other end is closed.
            asyncio.get_running_loop().add_reader(self._fd, self._on_gone)
        return self

    def _on_gone(self) -> None:
        self._forget()
        self._gone = True
        if self._task is not None:
            self._task.cancel()

    def _forget(self) -> None:
        if self._fd is not None:
            asyncio.get_running_loop().remove_reader(self._fd)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._forget()
        if not self._gone or self._task is None:
            return
        others = self._task.uncancel() > self._cancelling
        if kind is None or (issubclass(kind, asyncio.CancelledError) and not others):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def _watchable(stream: Any) -> int | None:
    """Return the descriptor of a pipe, a terminal or a socket; None for what takes everything at once."""
    try:
        fd = int(stream.fileno())
    except (OSError, ValueError, AttributeError):  # it is no file
        return None
    mode = os.fstat(fd).st_mode
    return fd if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode) else None


async def _writable(fd: int) -> None:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if poll.poll(0):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_writer(fd)
