"""Examines this machine: versions, clocks, the state directory."""

from __future__ import annotations

import os
import platform
import sqlite3
import stat
import time
from collections.abc import Mapping
from pathlib import Path

from roster import __version__
from roster._paths import state_dir
from roster.cli.doctor.finding import Finding, fail, ok, warn

AREA = "machine"
# No release of Roster is older; a clock that shows less was never set.
_EARLIEST = 1_735_689_600.0  # 2025-01-01
_TIMENS_OFFSETS = Path("/proc/self/timens_offsets")


def versions() -> Finding:
    """Name what runs here."""
    return ok(
        AREA,
        f"Roster {__version__}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{platform.system()} {platform.release()}",
    )


def clocks(
    environment: Mapping[str, str], *, offsets: Path = _TIMENS_OFFSETS, wall: float | None = None
) -> list[Finding]:
    """Examine the clock that decides, and the one that is shown.

    Args:
        environment: of this process.
        offsets: where the kernel tells of a time namespace (time_namespaces(7)).
        wall: seconds of the wall clock; None reads it.
    """
    found = []
    if not hasattr(time, "CLOCK_BOOTTIME"):
        found.append(
            warn(
                AREA,
                "this system has no CLOCK_BOOTTIME: leases do not count the time that it sleeps",
                "expect a node of a laptop that slept to be shown as alive for up to one TTL after it woke",
            )
        )
    shift = _boottime_offset(offsets)
    if shift:
        found.append(
            fail(
                AREA,
                f"this process lives in a time namespace whose boot clock is {shift:+g} s off: it and processes outside "
                "judge each other's leases wrongly",
                "run all users of a registry file in one time namespace",
            )
        )
    faked = "libfaketime" in environment.get("LD_PRELOAD", "") or environment.get("FAKETIME", "")
    if faked and environment.get("FAKETIME_DONT_FAKE_MONOTONIC") != "1":
        found.append(
            warn(
                AREA,
                "libfaketime fakes the clock that leases run by",
                "set FAKETIME_DONT_FAKE_MONOTONIC=1: then only the time that is shown is false",
            )
        )
    if (time.time() if wall is None else wall) < _EARLIEST:
        found.append(
            warn(
                AREA,
                "the wall clock shows a time before 2025",
                "set it: readers of the founding document compare it with last_heartbeat",
            )
        )
    return found or [ok(AREA, "clocks: CLOCK_BOOTTIME decides, no time namespace in between")]


def _boottime_offset(offsets: Path) -> float:
    try:
        lines = offsets.read_text("ascii").splitlines()
    except (OSError, UnicodeDecodeError):
        return 0.0  # no time namespaces in this kernel
    for line in lines:
        fields = line.split()
        if len(fields) == 3 and fields[0] == "boottime":
            return int(fields[1]) + int(fields[2]) / 1e9
    return 0.0


def state_directory() -> Finding:
    """Examine the directory where Roster keeps its files unless URLs say otherwise."""
    path = state_dir().absolute()
    try:
        found = path.stat()
    except FileNotFoundError:
        return ok(AREA, f"the state directory {path} is not there yet; what needs it makes it")
    except OSError as error:
        return fail(
            AREA,
            f"the state directory {path} cannot be looked at: {error.strerror}",
            "give this user the rights, or choose another with ROSTER_STATE_DIR",
        )
    if not stat.S_ISDIR(found.st_mode):
        return fail(
            AREA, f"{path} is no directory", "remove it, or choose another place with ROSTER_STATE_DIR"
        )
    if found.st_uid != os.getuid():
        return fail(
            AREA,
            f"the state directory {path} belongs to another user (uid {found.st_uid})",
            "choose another with ROSTER_STATE_DIR, or run as that user",
        )
    if not os.access(path, os.W_OK | os.X_OK):
        return fail(AREA, f"the state directory {path} cannot be written", f"chmod 700 {path}")
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return warn(
            AREA,
            f"the state directory {path} is open to others (mode {mode:o}): whoever can write there can send commands",
            f"chmod 700 {path}",
        )
    return ok(AREA, f"the state directory {path} is private")
