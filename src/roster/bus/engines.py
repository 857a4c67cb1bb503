"""Opens the engine that a URL names."""

from __future__ import annotations

from roster.bus.base import Bus
from roster.bus.local import LocalBus
from roster.bus.memory import MemoryBus, stand_ins
from roster.bus.url import parse_url
from roster.errors import ConfigError


def open_bus(url: str | None = None) -> Bus:
    """Return the bus that a URL names; it is opened by `async with` or by its first use.

    Args:
        url: `local:///directory`, `memory://name`, `amqp://host:port/vhost`, `amqps://...`; None takes the environment
            (`ROSTER_BUS`, `RABBITMQ_HOST`), else the local bus in the state directory.

    Raises:
        ConfigError: the URL cannot be read, or names an engine that is not there.
    """
    where = parse_url(url)
    if where.hosts:
        return _broker(url, where.scheme)
    if where.directory is not None:
        return LocalBus(where.directory)
    if (make := stand_ins.get(where.name)) is not None:
        return make()
    return MemoryBus(where.name)


def _broker(url: str | None, scheme: str) -> Bus:
    try:
        # Imported here: whoever is on another bus does not pay for this one.
        from roster.bus.amqp import AmqpBus
    except ModuleNotFoundError as error:
        # The engine's own modules are there; what is missing is the library that it stands on.
        raise ConfigError(
            f"{scheme}:// needs the package {error.name}: pip install 'agent-roster[rabbitmq]'"
        ) from error
    return AmqpBus(url)
