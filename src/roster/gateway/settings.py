"""How a gateway is set up: where it listens, whom it lets in, and its limits."""

from __future__ import annotations

import ipaddress
import resource
from dataclasses import dataclass, field
from pathlib import Path

from roster.errors import ConfigError

DEFAULT_LISTEN = "127.0.0.1:8700"
_RESERVED_DESCRIPTORS = 256  # the store, the bus, files: what a gateway needs beside its clients


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of what clients may ask for.

    Attributes:
        header_seconds: from the connection's first moment (or the end of the request before) to the end of the
            headers, however slowly they come.
        body_seconds: from the end of the headers to the end of the body.
        write_seconds: that a client may take to read what waits for it.
        idle_seconds: that a connection may stay open between two requests.
        header_bytes: of the request line and the headers.
        body_bytes: of a request's body.
        connections: open at a time; never more than the limit of file descriptors leaves room for.
        streams: event streams and long polls among them.
        rate: requests a second of one token, or of one address without a token.
        burst: how many of them at once.
        failures: wrong tokens a minute from one address.
    """

    header_seconds: float = 10.0
    body_seconds: float = 30.0
    write_seconds: float = 30.0
    idle_seconds: float = 75.0
    header_bytes: int = 32 * 1024
    body_bytes: int = 1024 * 1024
    connections: int = 4096
    streams: int = 3072
    rate: float = 5000.0
    burst: int = 10_000
    failures: int = 30


@dataclass(frozen=True, slots=True)
class Settings:
    """One gateway.

    Attributes:
        host: where it listens, an address or a name.
        port: 0 takes a free one.
        tokens: the token file; without it everybody who reaches a loopback address is an operator.
        names: further host names under which clients may reach it (the `Host` header), such as behind a proxy.
        origins: further origins whose pages may use it, such as `https://roster.example.org`.
        retention: seconds that a finished asynchronous call is kept.
        orchestrate: take up runs of process cards that nobody has, from the beginning on.
        limits: see `Limits`.
    """

    host: str = "127.0.0.1"
    port: int = 8700
    tokens: Path | None = None
    names: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    retention: float = 600.0
    orchestrate: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def loopback(self) -> bool:
        """Whether nobody but this machine can reach it."""
        return is_loopback(self.host)

    def check(self) -> None:
        """Raise if it must not start.

        Raises:
            ConfigError: it would listen beyond this machine without tokens.
        """
        if not self.loopback and self.tokens is None:
            raise ConfigError(
                f"the gateway would listen on {self.host}, which others can reach, with nobody asked for a token: "
                "give it a token file (--token-file FILE, see docs/gateway.md), or listen on 127.0.0.1"
            )


def is_loopback(host: str) -> bool:
    """Return whether a host to listen on is this machine alone: a loopback address, or `localhost`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_listen(text: str) -> tuple[str, int]:
    """Read `HOST:PORT`; an IPv6 address stands in brackets.

    Raises:
        ConfigError: it is not.

    Example:
        >>> read_listen("127.0.0.1:8700"), read_listen("[::1]:0")
        (('127.0.0.1', 8700), ('::1', 0))
    """
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if bracketed:
        host = host[1:-1]
    if (
        not colon
        or not host
        or (":" in host) is not bracketed
        or not (port.isascii() and port.isdecimal() and len(port) <= 5 and int(port) < 65536)
    ):
        raise ConfigError(
            f"an address to listen on is HOST:PORT, such as {DEFAULT_LISTEN}, not {text[:80]!r}"
        )
    return host, int(port)


def room_for_connections(wanted: int) -> int:
    """Raise this process's limit of file descriptors as far as it needs and may, and return how many connections fit.

    A process that runs out of descriptors cannot accept, nor reach its store: so there is always room kept.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        more = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
            soft = more
        except (OSError, ValueError):
            pass  # what there is must do: the limit below is made to fit
    if soft == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, soft - _RESERVED_DESCRIPTORS))
