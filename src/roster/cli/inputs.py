"""What a command is to read: files, directories of them, or standard input."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from roster.errors import ConfigError

STDIN = "-"
_SUFFIXES = (".yaml", ".yml", ".json")


def files_in(path: Path) -> list[Path]:
    """Return the file that `path` is, or every `*.yaml`, `*.yml` and `*.json` in the directory that it is.

    Raises:
        ConfigError: a directory without such a file.
    """
    if not path.is_dir():
        return [path]
    found = list(_below(path))
    if not found:
        raise ConfigError(f"the directory {path} holds no *.yaml, *.yml or *.json: name another, or a file")
    return found


def _below(directory: Path) -> Iterator[Path]:
    # os.walk, because it does not follow links to directories: a loop of them would never end.
    for folder, folders, names in os.walk(directory):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.endswith(_SUFFIXES) and not name.startswith("."):
                yield Path(folder, name)


def from_stdin(limit: int) -> bytes:
    """Return what comes in on standard input, one byte more than `limit` at most."""
    return sys.stdin.buffer.read(limit + 1)
