"""Opens the engine that a URL names."""

from __future__ import annotations

from roster.bus.base import Bus
from roster.bus.local import LocalBus
from roster.bus.memory import MemoryBus, stand_ins
from roster.bus.url import parse_url


def open_bus(url: str | None = None) -> Bus:
    """Return the bus that a URL names; it is opened by `async with` or by its first use.

    Args:
        url: `local:///directory`, `memory://name`; None takes the environment (`ROSTER_BUS`), else the local
            bus in the state directory.

    Raises:
        ConfigError: the URL cannot be read, or names an engine that is not there.
    """
    where = parse_url(url)
    if where.directory is not None:
        return LocalBus(where.directory)
    if (make := stand_ins.get(where.name)) is not None:
        return make()
    return MemoryBus(where.name)
