"""Servers as URLs and the environment name them: hosts and ports, options, the files of TLS, passwords."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from roster.errors import ConfigError

Hosts = tuple[tuple[str, int], ...]

_MAX_SECRET = 64 * 1024


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for a connection with TLS, in PEM.

    Attributes:
        ca: certificates of who may sign the server's; None: the system's.
        cert: our own certificate, for servers that ask for one.
        key: its private key.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


def read_hosts(places: str, scheme: str, port: int, what: str) -> Hosts:
    """Read `HOST:PORT,HOST:PORT`.

    Args:
        scheme: the URL's, for the text of an error.
        port: of a host that has none beside it.
        what: where the URL stands, for the text of an error.

    Raises:
        ConfigError: it cannot be read.
    """
    hosts = []
    for place in places.split(","):
        host, number = place, str(port)
        if place.startswith("["):
            host, bracket, rest = place[1:].partition("]")
            if not bracket or (rest and not rest.startswith(":")):
                raise ConfigError(f"{what}: an IPv6 address stands in brackets: {scheme}://[::1]:{port}")
            number = rest[1:] or number
        elif ":" in place:
            host, _, number = place.partition(":")
        if not host:
            raise ConfigError(f"{what} names no host: write {scheme}://HOST:{port}")
        hosts.append((host, read_port(number, f"the port in {what}")))
    return tuple(hosts)


def read_port(text: str, what: str) -> int:
    """Read a port.

    Raises:
        ConfigError: it is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= 65535):
        raise ConfigError(f"{what} is a number from 1 to 65535")
    return int(text)


def show_hosts(hosts: Sequence[tuple[str, int]]) -> str:
    """Return hosts as they stand in a URL."""
    return ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in hosts)


def read_options(query: str, known: Collection[str], scheme: str, what: str) -> tuple[tuple[str, str], ...]:
    """Read what stands behind the `?` of a URL.

    Raises:
        ConfigError: it cannot be read, or an option is unknown or there twice.
    """
    try:
        pairs = (
            parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=16) if query else []
        )
    except ValueError as error:
        raise ConfigError(f"{what}: what stands behind '?' is written name=value&name=value") from error
    names = [name for name, _ in pairs]
    if len(set(names)) != len(names) or not set(names) <= set(known):
        raise ConfigError(
            f"{what} has an unknown or repeated option; {scheme}:// knows: {', '.join(sorted(known))}"
        )
    return tuple(pairs)


def tls_files(given: Mapping[str, str], scheme: str) -> Tls:
    """Return the files that options name (`ca`, `cert`, `key`), else `ROSTER_TLS_CA`, `ROSTER_TLS_CERT`, `ROSTER_TLS_KEY`.

    Raises:
        ConfigError: one does not exist, or certificate and key are not both there.
    """
    files = {
        name: given.get(name) or os.environ.get(variable)
        for name, variable in (
            ("ca", "ROSTER_TLS_CA"),
            ("cert", "ROSTER_TLS_CERT"),
            ("key", "ROSTER_TLS_KEY"),
        )
    }
    if bool(files["cert"]) != bool(files["key"]):
        raise ConfigError(
            f"with a certificate of ours {scheme}:// needs its key as well: ?cert=FILE&key=FILE, "
            "or ROSTER_TLS_CERT and ROSTER_TLS_KEY"
        )
    paths = {name: Path(file) for name, file in files.items() if file}
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"the TLS file {name} of the {scheme}:// URL does not exist: {path}")
    return Tls(paths.get("ca"), paths.get("cert"), paths.get("key"))


def secret(variable: str) -> str | None:
    """Return a password from the environment: `VARIABLE` itself, else the file that `VARIABLE_FILE` names.

    A secret that is mounted as a file is neither inherited by child processes nor shown by `docker inspect`. One line break
    at its end does not count, as editors and `echo` leave one.

    Raises:
        ConfigError: both are set, or the file cannot be read as one password. The text never repeats it.
    """
    by_file = f"{variable}_FILE"
    value, file = os.environ.get(variable), os.environ.get(by_file)
    if not file:
        return value or None
    if value:
        raise ConfigError(f"{variable} and {by_file} are both set: unset one of them")
    try:
        with Path(file).open("rb") as opened:
            raw = opened.read(_MAX_SECRET + 1)
    except OSError as error:
        raise ConfigError(f"{by_file}: {file} cannot be read: {error.strerror or error}") from None
    try:
        text = raw.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        text = ""
    if not text or len(raw) > _MAX_SECRET or any(mark in text for mark in "\0\r\n"):
        raise ConfigError(
            f"{by_file}: {file} must hold one password: one line of UTF-8 text, at most {_MAX_SECRET // 1024} KiB"
        )
    return text
