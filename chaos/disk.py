"""A small disk that can be filled: a tmpfs where this user may mount one, else a limit on how far files may grow."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK = 1 << 12


class Disk:
    """A directory for a registry, and the fault that nothing more can be written into it.

    Attributes:
        directory: where the files go.
        real: whether it is a file system of its own; else `fill` limits processes (`RLIMIT_FSIZE`), which is what an
            ordinary user can do: a write beyond the limit fails with EFBIG instead of ENOSPC.
    """

    def __init__(self, directory: Path, *, real: bool) -> None:
        self.directory = directory
        self.real = real
        self._limited: list[int] = []

    def fill(self, pids: Collection[int]) -> None:
        """Leave no room. `pids` are the processes that write there, which must be this user's."""
        if self.real:
            with (self.directory / "filler").open("wb", buffering=0) as filler:
                try:
                    while True:
                        filler.write(bytes(_CHUNK))
                except OSError:
                    return
        largest = max(path.stat().st_size for path in self.directory.rglob("*") if path.is_file())
        for pid in pids:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, hard))
            self._limited.append(pid)

    def free(self) -> None:
        """Make room again."""
        if self.real:
            (self.directory / "filler").unlink()
        for pid in self._limited:
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        self._limited.clear()


@contextmanager
def small_disk(directory: Path, megabytes: int = 4) -> Iterator[Disk]:
    """Yield a disk of that size, mounted on `directory`, which is made; whatever is on it goes with it."""
    directory.mkdir(mode=0o700)
    options = f"size={megabytes}m,mode=0700,uid={os.getuid()}"
    mounted = os.getuid() == 0 and not subprocess.call(
        ["mount", "-t", "tmpfs", "-o", options, "roster-test", directory], stderr=subprocess.DEVNULL
    )
    try:
        yield Disk(directory, real=mounted)
    finally:
        if mounted:
            subprocess.check_call(["umount", "--lazy", directory])
