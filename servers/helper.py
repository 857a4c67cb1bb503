"""A process that is told words on its input and writes lines of JSON into a file."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_LOOK = 0.02


class Lines:
    """A file of lines of JSON that is being written, and what has been read of it.

    Attributes:
        lines: what `read` has found up to now, in order.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._at = 0
        self.lines: list[dict[str, Any]] = []

    def read(self) -> list[dict[str, Any]]:
        """Read what is new, and return every line so far; a last line that is not whole yet waits."""
        with self._file.open("rb") as file:
            file.seek(self._at)
            whole = file.read().rpartition(b"\n")[0]
        self._at += len(whole) + 1 if whole else 0
        self.lines += [json.loads(line) for line in whole.split(b"\n") if line]
        return self.lines

    def find(self, what: str, **fields: object) -> list[dict[str, Any]]:
        """Return the lines of one kind with these fields."""
        return [
            line
            for line in self.read()
            if line["what"] == what and all(line.get(name) == value for name, value in fields.items())
        ]


class Helper(Lines):
    """A running process, and what it has written so far."""

    def __init__(self, process: asyncio.subprocess.Process, file: Path, *, group: bool = False) -> None:
        super().__init__(file)
        self._process = process
        self._group = group

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.returncode is None

    def say(self, word: str) -> None:
        """Write a word on its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    async def until(self, what: str, deadline: float = 30.0, **fields: object) -> dict[str, Any]:
        """Wait for a line of one kind with these fields and return it.

        Raises:
            TimeoutError: there was none in time.
        """
        try:
            async with asyncio.timeout(deadline):
                while not (found := self.find(what, **fields)):
                    if not self.running:
                        raise TimeoutError
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            log = self._file.with_suffix(".log").read_text(errors="replace").strip()
            raise TimeoutError(
                f"{self._file.stem} did not say {what} {fields or ''} within {deadline:g} s; its log ends: {log[-600:]}"
            ) from None
        return found[0]

    def signal(self, number: int) -> None:
        """Send a signal to it, and to those that it has started if it leads a group of its own."""
        if self._group:
            os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)

    async def ended(self, deadline: float) -> int | None:
        """Wait until it ends, and return its exit status; None: it has not in time."""
        try:
            return await asyncio.wait_for(self._process.wait(), deadline)
        except TimeoutError:
            return None

    async def end(self) -> None:
        """Kill it and reap it."""
        try:
            self.signal(signal.SIGKILL)
        except ProcessLookupError:
            pass  # it has ended
        await self._process.wait()


@asynccontextmanager
async def helper(
    command: Sequence[str],
    file: Path,
    *,
    environment: Mapping[str, str] | None = None,
    group: bool = False,
) -> AsyncIterator[Helper]:
    """Start a process that writes into a file, and kill it at the end; what it logs is beside that file, in `.log`.

    Args:
        environment: more variables for the process.
        group: it leads a group of its own: who starts others is killed and frozen together with them.
    """
    one = await start(command, file, environment=environment, group=group)
    try:
        yield one
    finally:
        await one.end()


async def start(
    command: Sequence[str],
    file: Path,
    *,
    environment: Mapping[str, str] | None = None,
    group: bool = False,
) -> Helper:
    """Start such a process; whoever does so ends it. The arguments are those of `helper`."""
    file.touch()
    with file.with_suffix(".log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *command,
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=group,
        )
    return Helper(process, file, group=group)
