"""What really happened: agents write a line for each effect, and the harness counts them afterwards."""

from __future__ import annotations

import json
import os
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from roster._clock import boottime


class LedgerWriter:
    """Appends lines; one `write` each with O_APPEND, so that processes do not cut into each other's lines."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **fields: Any) -> None:
        """Write one line, with this process and both clocks as it sees them. What is written before a kill -9 stays."""
        line = {**fields, "pid": os.getpid(), "at": round(boottime(), 4), "wall": round(time.time(), 3)}
        os.write(self._fd, (json.dumps(line, separators=(",", ":")) + "\n").encode())


@dataclass(slots=True)
class Effects:
    """The ledger read back.

    Attributes:
        started: executions begun, by command.
        ended: executions finished, by command.
        stopped: executions that were stopped in the middle, by command.
        nodes: who began each command, in order.
        finishers: who finished each command, in order.
        lines: every line: `what`, `command`, `node`, `pid`, `at` (CLOCK_BOOTTIME) and `wall` (the writer's wall clock).
    """

    started: Counter[str] = field(default_factory=Counter)
    ended: Counter[str] = field(default_factory=Counter)
    stopped: Counter[str] = field(default_factory=Counter)
    nodes: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    finishers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lines: list[dict[str, Any]] = field(default_factory=list)

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
            effects.lines.append(entry)
            command = entry["command"]
            if entry["what"] == "start":
                effects.started[command] += 1
                effects.nodes[command].append(entry["node"])
            elif entry["what"] == "end":
                effects.ended[command] += 1
                effects.finishers[command].append(entry["node"])
            else:
                effects.stopped[command] += 1
        return effects

    @property
    def finished_twice(self) -> list[str]:
        """Commands whose work was finished more than once."""
        return [command for command, count in self.ended.items() if count > 1]

    def running(self, node: str, moment: float = inf) -> list[str]:
        """Return the commands that a node (`namespace/name`) had begun by a moment, and neither finished nor stopped."""
        open_ = Counter[str]()
        for line in self.lines:
            if line["node"] == node and line["at"] <= moment:
                open_[line["command"]] += 1 if line["what"] == "start" else -1
        return [command for command, count in open_.items() if count > 0]
