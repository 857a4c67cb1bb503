"""What really happened: agents write a line for each effect, and the harness counts them afterwards."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class LedgerWriter:
    """Appends lines; one `write` each with O_APPEND, so that processes do not cut into each other's lines."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **fields: Any) -> None:
        """Write one line. What is written before a kill -9 stays."""
        os.write(self._fd, (json.dumps(fields, separators=(",", ":")) + "\n").encode())


@dataclass(slots=True)
class Effects:
    """The ledger read back.

    Attributes:
        started: executions begun, by command.
        ended: executions finished, by command.
        nodes: who began each command, in order.
    """

    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, path: Path) -> Effects:
        """Read a ledger; a last line cut off by a kill counts as not written."""
        effects = cls()
        if not path.exists():
            return effects
        for line in path.read_bytes().split(b"\n"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["what"] == "start":
                effects.started[entry["command"]] += 1
                effects.nodes[entry["command"]].append(entry["node"])
            else:
                effects.ended[entry["command"]] += 1
        return effects

    @property
    def finished_twice(self) -> list[str]:
        """Commands whose work was finished more than once."""
        return [command for command, count in self.ended.items() if count > 1]
