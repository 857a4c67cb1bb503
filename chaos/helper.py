"""A process of a fault run that is told words on its input and writes lines into a file."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from servers.helper import Helper
from servers.helper import helper as _helper


@asynccontextmanager
async def helper(
    module: str, directory: Path, name: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Helper]:
    """Start `python -m MODULE FILE ARGUMENTS` and kill it at the end; what it logs is in `NAME.log`.

    Args:
        environment: more variables for the process.
    """
    file = directory / f"{name}.jsonl"
    command = [sys.executable, "-m", module, str(file), *arguments]
    async with _helper(command, file, environment=environment) as one:
        yield one
