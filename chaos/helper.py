"""A process of a fault run that is told words on its input and writes lines into a file."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_LOOK = 0.02


class Helper:
    """A running process of this package, and what it has written so far.

    Attributes:
        lines: what `read` has found up to now, in order.
    """

    def __init__(self, process: asyncio.subprocess.Process, file: Path) -> None:
        self._process = process
        self._file = file
        self._read = 0
        self.lines: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def say(self, word: str) -> None:
        """Write a word on its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())

    def read(self) -> list[dict[str, Any]]:
        """Read what is new, and return every line so far."""
        with self._file.open("rb") as file:
            file.seek(self._read)
            whole = file.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        self.lines += [json.loads(line) for line in whole.split(b"\n") if line]
        return self.lines

    def find(self, what: str, **fields: object) -> list[dict[str, Any]]:
        """Return the lines of one kind with these fields."""
        return [
            line
            for line in self.read()
            if line["what"] == what and all(line.get(name) == value for name, value in fields.items())
        ]

    async def until(self, what: str, deadline: float = 30.0, **fields: object) -> dict[str, Any]:
        """Wait for a line of one kind with these fields and return it.

        Raises:
            TimeoutError: there was none in time.
        """
        try:
            async with asyncio.timeout(deadline):
                while not (found := self.find(what, **fields)):
                    if self._process.returncode is not None:
                        raise TimeoutError
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            log = self._file.with_suffix(".log").read_text(errors="replace").strip()
            raise TimeoutError(
                f"{self._file.stem} did not say {what} {fields or ''} within {deadline:g} s; its log ends: {log[-600:]}"
            ) from None
        return found[0]

    async def end(self) -> None:
        """Kill it and reap it."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def helper(
    module: str, directory: Path, name: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Helper]:
    """Start `python -m MODULE FILE ARGUMENTS` and kill it at the end; what it logs is in `NAME.log`.

    Args:
        environment: more variables for the process.
    """
    file = directory / f"{name}.jsonl"
    file.touch()
    with (directory / f"{name}.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *[sys.executable, "-m", module, str(file), *arguments],
            env={**os.environ, **(environment or {})},
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
    one = Helper(process, file)
    try:
        yield one
    finally:
        await one.end()
