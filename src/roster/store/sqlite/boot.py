"""Which boot of this machine we live in: a lease of another boot has ended, whatever its deadline says."""

from __future__ import annotations

import sys
import uuid
from functools import cache
from pathlib import Path


@cache
def boot_id() -> bytes:
    """Return 16 bytes that differ from boot to boot.

    Linux: `/proc/sys/kernel/random/boot_id`. macOS: `kern.bootsessionuuid`. Elsewhere zeros: there a lease
    outlives a restart of the machine by as much as the clock needs to catch up with its deadline.
    """
    if sys.platform == "darwin":
        return _darwin_boot_id()
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)


def _darwin_boot_id() -> bytes:
    # Imported here: it costs a megabyte, and only this system needs it.
    import ctypes

    size = ctypes.c_size_t(64)
    text = ctypes.create_string_buffer(size.value)
    libc = ctypes.CDLL(None)
    if libc.sysctlbyname(b"kern.bootsessionuuid", text, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return bytes(16)
    try:
        return uuid.UUID(text.value.decode()).bytes
    except ValueError:
        return bytes(16)
