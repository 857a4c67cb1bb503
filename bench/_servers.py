"""What the benchmarks on real servers share: a server in a directory of its own, what it used, and child processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

from servers import Server

S = TypeVar("S", bound=Server)


@contextmanager
def running(make: Callable[[Path], S]) -> Iterator[S]:
    """Run a new server that flushes its writes to the disk, as in real use, and remove its files at the end."""
    with tempfile.TemporaryDirectory(prefix="roster-bench-") as directory, make(Path(directory)) as server:
        yield server


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used, of the user and of the kernel."""
    # proc_pid_stat(5): what follows the parenthesis is field 3; utime and stime are 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Child:
    """A child process that runs a module of this package, says lines, and is killed at the end of the block.

    Args:
        module: its name.
        arguments: for it.
    """

    def __init__(self, module: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def input(self) -> IO[str]:
        """Where it listens; closed, it should end."""
        assert self._process.stdin is not None
        return self._process.stdin

    def line(self) -> str:
        """Return the next line that it says.

        Raises:
            RuntimeError: it has ended instead.
        """
        assert self._process.stdout is not None
        if not (said := self._process.stdout.readline()):
            raise RuntimeError(f"a process of the benchmark ended with {self._process.wait()}")
        return said.strip()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self._process.kill()
        self._process.communicate()
