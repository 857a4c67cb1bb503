"""How to reach a broker, and how long to wait for it."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field

from roster._address import Hosts, Tls
from roster.bus.url import BusURL
from roster.errors import ConfigError


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
        _context(url.tls, url.display) if url.tls else None,
        url.display,
        url.heartbeat,
        float(url.timeout),
    )


def _context(tls: Tls, display: str) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.cert is not None:
            # Without a password of its own OpenSSL would ask for one at the terminal, and wait.
            context.load_cert_chain(tls.cert, tls.key, password="")
    except OSError as error:
        raise ConfigError(
            f"the TLS files of {display} cannot be used ({error}): they are PEM, the key without a password"
        ) from error
    return context
