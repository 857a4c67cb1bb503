"""Which bus a URL means."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from roster._paths import state_dir
from roster.errors import ConfigError

_NOT_YET = {"amqp": "RabbitMQ", "amqps": "RabbitMQ"}
_KNOWN = "local:///directory or memory://name"


@dataclass(frozen=True, slots=True)
class BusURL:
    """A bus's address, read.

    Attributes:
        scheme: `local` or `memory`.
        display: the URL for people to read, rebuilt without secrets.
        directory: where a local bus has its sockets.
        name: which in-memory bus of this process is meant.
    """

    scheme: str
    display: str
    directory: Path | None = None
    name: str = ""


def parse_url(url: str | None = None) -> BusURL:
    """Read a bus URL; None takes `ROSTER_BUS`, else `RABBITMQ_HOST`, else the default.

    Raises:
        ConfigError: the URL cannot be read, or names an engine that is not there.
    """
    where = "the bus URL"
    if url is None:
        if named := os.environ.get("ROSTER_BUS"):
            url, where = named, "ROSTER_BUS"
        elif host := os.environ.get("RABBITMQ_HOST"):
            url, where = f"amqp://{host}", "RABBITMQ_HOST"
        else:
            url = "local://"
    scheme, colon, _ = url.partition("://")
    scheme = scheme.lower()
    if scheme in _NOT_YET and colon:
        raise ConfigError(
            f"{where} asks for {_NOT_YET[scheme]} ({scheme}://), whose engine is not available"
            f" in this version; use {_KNOWN}"
        )
    if scheme not in ("local", "memory") or not colon:
        raise ConfigError(f"{where} has no scheme that Roster knows; use {_KNOWN}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    if parts.query or parts.fragment or "@" in parts.netloc:
        raise ConfigError(f"{where} ({scheme}://) takes no user, query or fragment; use {_KNOWN}")
    if scheme == "memory":
        name = unquote(parts.netloc + parts.path)
        return BusURL("memory", f"memory://{quote(name)}", name=name)
    if parts.netloc:
        raise ConfigError(
            f"{where} names a host ({parts.netloc!r}); a local bus has a directory: local:///directory"
        )
    path = unquote(parts.path)
    if "\0" in path:
        raise ConfigError(f"{where} holds a NUL")
    directory = Path(path) if path not in ("", "/") else (state_dir() / "bus").absolute()
    return BusURL("local", f"local://{quote(str(directory))}", directory=directory)
