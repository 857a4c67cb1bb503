"""Which bus a URL means."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from roster._address import Hosts, Tls, read_hosts, read_options, secret, show_hosts, tls_files
from roster._paths import state_dir
from roster.errors import ConfigError

_KNOWN = "local:///directory, memory://name, amqp://host:port/vhost or amqps://host:port/vhost"
_PORTS = {"amqp": 5672, "amqps": 5671}
_OPTIONS = {
    "amqp": {"heartbeat", "timeout"},
    "amqps": {"heartbeat", "timeout", "ca", "cert", "key"},
}
# The user that a new RabbitMQ has; it lets him in from the broker's own machine alone.
_GUEST = "guest"


@dataclass(frozen=True, slots=True)
class BusURL:
    """A bus's address, read.

    Attributes:
        scheme: `local`, `memory`, `amqp` or `amqps`.
        display: the URL for people to read, rebuilt without secrets.
        directory: where a local bus has its sockets.
        name: which in-memory bus of this process is meant.
        hosts: the brokers of one cluster, `(host, port)`.
        vhost: the virtual host there.
        username: from the URL, else from `ROSTER_BUS_USER`, else `guest`; never shown.
        password: from the URL, else from `ROSTER_BUS_PASSWORD`, else `guest`; never shown.
        tls: None without TLS. Its files are named by `?ca=`, `?cert=`, `?key=`, else by `ROSTER_TLS_CA`,
            `ROSTER_TLS_CERT`, `ROSTER_TLS_KEY`.
        heartbeat: seconds after which, twice over, a silent broker or client counts as dead: `?heartbeat=`.
        timeout: seconds for one question to the broker, and for connecting: `?timeout=`.
    """

    scheme: str
    display: str
    directory: Path | None = None
    name: str = ""
    hosts: Hosts = ()
    vhost: str = "/"
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: Tls | None = None
    heartbeat: int = 10
    timeout: int = 5


def parse_url(url: str | None = None) -> BusURL:
    """Read a bus URL; None takes `ROSTER_BUS`, else `RABBITMQ_HOST`, else the default.

    Raises:
        ConfigError: the URL cannot be read, or names no engine; the text never repeats the URL.

    Example:
        >>> parse_url("amqp://agent:secret@mq1,mq2:5673/team").display
        'amqp://mq1:5672,mq2:5673/team'
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
    if scheme not in ("local", "memory", *_PORTS) or not colon:
        raise ConfigError(f"{where} has no scheme that Roster knows; use {_KNOWN}")
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    if scheme in _PORTS:
        return _broker(scheme, parts, where)
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


def _broker(scheme: str, parts: SplitResult, where: str) -> BusURL:
    if parts.fragment:
        raise ConfigError(f"{where} has a '#' part, which means nothing here; write '#' in a password as %23")
    user, _, places = parts.netloc.rpartition("@")
    name, _, password = map(unquote, user.partition(":"))
    hosts = read_hosts(places, scheme, _PORTS[scheme], where)
    options = dict(read_options(parts.query, _OPTIONS[scheme], scheme, where))
    # amqp://host and amqp://host/ are the virtual host `/`; another has a name and no further slash.
    vhost = unquote(parts.path[1:]) or "/"
    if "/" in parts.path[1:] or len(vhost.encode()) > 255:
        raise ConfigError(
            f"{where}: the virtual host is one name of at most 255 bytes, a slash in it written %2F"
        )
    if not user:
        name = os.environ.get("ROSTER_BUS_USER", "")
        password = secret("ROSTER_BUS_PASSWORD") or ""
    shown = "" if vhost == "/" else f"/{quote(vhost, safe='')}"
    return BusURL(
        scheme,
        f"{scheme}://{show_hosts(hosts)}{shown}",
        hosts=hosts,
        vhost=vhost,
        username=name or _GUEST,
        password=password or (_GUEST if not name else ""),
        tls=tls_files(options, scheme) if scheme == "amqps" else None,
        heartbeat=_number(options, "heartbeat", 10, 1, 600, scheme),
        timeout=_number(options, "timeout", 5, 1, 60, scheme),
    )


def _number(options: dict[str, str], name: str, default: int, lowest: int, highest: int, scheme: str) -> int:
    text = options.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 9 and lowest <= int(text) <= highest):
        raise ConfigError(
            f"?{name}= of an {scheme}:// URL is a whole number from {lowest} to {highest}; leave it out for {default}"
        )
    return int(text)
