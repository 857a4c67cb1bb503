"""The bus: how to reach a node."""

from __future__ import annotations

from roster.bus.base import Bus, Consumer, Delivery, Exchange, Subscription
from roster.bus.local import LocalBus
from roster.bus.memory import MemoryBus
from roster.bus.message import MAX_MESSAGE_BYTES, Kind, Load, Message, error_from
from roster.bus.url import parse_url

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Bus",
    "Consumer",
    "Delivery",
    "Exchange",
    "Kind",
    "Load",
    "Message",
    "Subscription",
    "error_from",
    "open_bus",
]


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
    return MemoryBus(where.name)
