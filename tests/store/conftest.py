"""Registry files and the processes that use them."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ACTORS = Path(__file__).with_name("actors.py")


class Actor:
    """A real process, its lines of output read as they come."""

    def __init__(self, *args: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ACTORS), *(str(arg) for arg in args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.lines: list[list[str]] = []
        self._arriving: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._arriving.put(line)
        self._arriving.put(None)

    def until(self, condition: Callable[[list[list[str]]], object], within: float = 20.0) -> list[list[str]]:
        """Read lines until a condition holds for all that have come."""
        deadline = time.monotonic() + within
        while not condition(self.lines):
            try:
                line = self._arriving.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                pytest.fail(
                    f"no more came within {within} s after {len(self.lines)} lines: {self.lines[-3:]}"
                )
            assert line is not None, f"the process ended; it had said {self.lines[-3:]}"
            assert not line.startswith("error"), line
            self.lines.append(line.split())
        return self.lines

    def said(self, word: str, within: float = 20.0) -> list[str]:
        """Wait for the first line that begins with a word."""
        lines = self.until(lambda lines: any(line[0] == word for line in lines), within)
        return next(line for line in lines if line[0] == word)

    def rest(self) -> list[list[str]]:
        """Wait until the process has ended, and return all that it has said."""
        self.process.wait(20)
        self._reader.join(20)
        while (line := self._arriving.get(timeout=20)) is not None:
            self.lines.append(line.split())
        return self.lines

    def ask(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process.poll() is None:
            self.signal(signal.SIGKILL)
        self.process.wait(20)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        if self.process.args[2] == "crowd":  # type: ignore[index]  # it is the list given above
            self.process.wait(30)  # it ends its children itself
        self.kill()
        self._reader.join(20)
        self.process.stdout.close()


@pytest.fixture
def actor() -> Iterator[Callable[..., Actor]]:
    """A function that starts processes; they are ended after the test."""
    started: list[Actor] = []

    def start(*args: object) -> Actor:
        one = Actor(*args)
        started.append(one)
        return one

    yield start
    for one in started:
        one.close()


@pytest.fixture
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a registry file may be made; short, so that its sockets have room beside it."""
    return tmp_path_factory.mktemp("s") / "registry.db"


@pytest.fixture
def url(database: Path) -> str:
    return f"sqlite://{database}"
