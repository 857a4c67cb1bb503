"""How to reach a broker, and how long to wait for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from roster._address import Hosts
from roster._tls import client_context
from roster.bus.url import BusURL


@dataclass(frozen=True, slots=True)
class Settings:
    """How to reach a broker.

    Attributes:
        hosts: `(host, port)` of each broker of a cluster.
        vhost: the virtual host.
        username: who we are.
        password: the password.
        tls: the context for TLS, or None.
        display: the URL for people to read.
        heartbeat: seconds; a silent peer is noticed within twice that.
        timeout: seconds for one question to the broker, and for connecting.
    """

    hosts: Hosts
    vhost: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    tls: ssl.SSLContext | None
    display: str
    heartbeat: int
    timeout: float


def settings_of(url: BusURL) -> Settings:
    """Return how to reach the broker that a URL names.

    Raises:
        ConfigError: TLS files that cannot be read.
    """
    return Settings(
        url.hosts,
        url.vhost,
        url.username,
        url.password,
        client_context(url.tls, url.display) if url.tls else None,
        url.display,
        url.heartbeat,
        float(url.timeout),
    )
