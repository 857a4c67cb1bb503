"""Which process holds a name, and whether it provably lives or is provably dead."""

from __future__ import annotations

import os
import socket
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

Liveness = Literal["alive", "dead", "unknown"]

_MAX_TEXT = 255


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, named so that another process of the same machine can tell whether it still runs.

    A pid alone is not enough: it is used again, it means another process in another container, and after a
    reboot it means nothing. Boot id, pid namespace and start time settle each of these (proc(5)).

    Attributes:
        host: the machine's name, for people.
        boot_id: the kernel's random id of this boot; empty where there is none (macOS): then nothing can be
            proven.
        pid_namespace: which numbering `pid` belongs to.
        pid: the process.
        start: when it started, in ticks after boot: `/proc/PID/stat`, field 22.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    start: int

    def __str__(self) -> str:
        return f"host {self.host} pid {self.pid}"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {
            "host": self.host,
            "boot_id": self.boot_id,
            "pid_ns": self.pid_namespace,
            "pid": self.pid,
            "start": self.start,
        }

    @classmethod
    def from_dict(cls, data: object) -> Holder | None:
        """Read it back; None if it is not a holder (a status written by somebody else need not name one)."""
        if not isinstance(data, dict):
            return None
        for name in ("host", "boot_id", "pid_ns"):
            text = data.get(name)
            if not isinstance(text, str) or len(text) > _MAX_TEXT:
                return None
        for name in ("pid", "start"):
            number = data.get(name)
            if type(number) is not int or not 0 <= number < 2**63:
                return None
        return cls(data["host"], data["boot_id"], data["pid_ns"], data["pid"], data["start"])

    def liveness(self) -> Liveness:
        """Say what can be proven from this machine, now.

        Returns:
            `dead`: its boot is over on this very machine, or its pid is gone, or is another process now, or
            a zombie. `alive`: that very process exists (it may be stopped). `unknown`: another machine or
            container, or no /proc.
        """
        here = this_process()
        if not here.boot_id or self.boot_id != here.boot_id or self.pid_namespace != here.pid_namespace:
            # Another boot id may be another machine; host names are not unique enough to prove a reboot.
            return "unknown"
        started = _start_of(self.pid)
        if started is None or started != self.start:
            return "dead"
        return "alive"


def this_process() -> Holder:
    """Return this process as a holder."""
    pid = os.getpid()
    return _this_process(pid)


@lru_cache(maxsize=2)  # keyed by pid: a fork must not inherit its parent's answer
def _this_process(pid: int) -> Holder:
    return Holder(
        host=socket.gethostname()[:_MAX_TEXT],
        boot_id=_read(Path("/proc/sys/kernel/random/boot_id")),
        pid_namespace=_pid_namespace(),
        pid=pid,
        start=_start_of(pid) or 0,
    )


def _pid_namespace() -> str:
    if not sys.platform.startswith("linux"):
        return ""
    try:
        link = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # a link to no path: Path would say the same in more words
    except OSError:
        return ""
    return link[:_MAX_TEXT]


def _read(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()[:_MAX_TEXT]
    except OSError:
        return ""  # not Linux, or /proc is hidden: nothing can be proven, and `liveness` says so


def _start_of(pid: int) -> int | None:
    """Return the start time of a live process in ticks after boot; None if there is none, or only its zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command's name stands in parentheses and may hold anything, parentheses too: count from the last
    # one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[19])
