"""Which store a URL or the environment names, and how that URL is shown without its secrets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from roster._address import Tls, read_hosts, read_options, read_port, secret, show_hosts, tls_files
from roster._paths import state_dir
from roster.errors import ConfigError

_PORTS = {
    "etcd": 2379,
    "etcds": 2379,
    "consul": 8500,
    "consuls": 8501,
    "zookeeper": 2181,
    "zookeepers": 2281,
}
_TLS = {"etcds", "consuls", "zookeepers"}
_OPTIONS = {"sqlite": {"history"}, "memory": {"history"}} | {
    scheme: {"prefix", "timeout"} | ({"ca", "cert", "key"} if scheme in _TLS else set()) for scheme in _PORTS
}
_FORMS = (
    "sqlite:///absolute/path, memory://NAME, etcd://HOST:PORT, consul://HOST:PORT or zookeeper://HOST:PORT "
    "(etcds://, consuls://, zookeepers:// with TLS)"
)

DEFAULT_PREFIX = "/ai-team"
DEFAULT_TIMEOUT = 5
# Plain words between slashes: whatever an engine does with odd names, a prefix never meets it.
_PREFIX = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]{0,62}){1,4}\Z")


@dataclass(frozen=True, slots=True)
class StoreUrl:
    """A registry URL in parts.

    Attributes:
        scheme: `sqlite`, `memory`, `etcd`, `consul`, `zookeeper`; the last three with an `s` appended: with TLS.
        path: the database file of `sqlite`, else empty.
        name: the name of a `memory` store, else empty.
        hosts: the servers of the other engines, `(host, port)`.
        options: what stood behind the `?`.
        username: from the URL, else from `ROSTER_REGISTRY_USER`; never shown.
        password: from the URL, else from `ROSTER_REGISTRY_PASSWORD` (Consul: its token, else
            `CONSUL_HTTP_TOKEN`); never shown.
        tls: None without TLS. Its files are named by `?ca=`, `?cert=`, `?key=`, else by `ROSTER_TLS_CA`,
            `ROSTER_TLS_CERT`, `ROSTER_TLS_KEY`.
    """

    scheme: str
    path: str = ""
    name: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    username: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    tls: Tls | None = None

    @property
    def engine(self) -> str:
        """The engine: the scheme without the `s` of TLS."""
        return self.scheme.removesuffix("s") if self.scheme in _TLS else self.scheme

    @property
    def prefix(self) -> str:
        """Where the registry lives in the store, such as `/ai-team`; begins with a slash, ends with none.

        Raises:
            ConfigError: `?prefix=` is not a short path of plain words.
        """
        text = dict(self.options).get("prefix", DEFAULT_PREFIX)
        plain = "/" + text.strip("/")
        if not _PREFIX.match(plain):
            raise ConfigError(
                f"?prefix= of a {self.scheme}:// URL is a path of one to four words of letters, digits, '.', '_', "
                f"'-', such as {DEFAULT_PREFIX}"
            )
        return plain

    @property
    def timeout(self) -> float:
        """Seconds for one request to the servers, and for connecting to them.

        Raises:
            ConfigError: `?timeout=` is not a whole number of seconds from 1 to 60.
        """
        return float(self.number("timeout", DEFAULT_TIMEOUT, 1, 60))

    @property
    def display(self) -> str:
        """The URL for people: rebuilt from scheme, hosts and path, so that no secret can be left in it."""
        if self.scheme == "sqlite":
            return f"sqlite://{quote(os.fsencode(self.path))}"
        if self.scheme == "memory":
            return f"memory://{quote(self.name)}"
        return f"{self.scheme}://{show_hosts(self.hosts)}"

    def number(self, option: str, default: int, lowest: int, highest: int) -> int:
        """Return an option that is a whole number.

        Raises:
            ConfigError: it is not a number in that range.
        """
        text = dict(self.options).get(option)
        if text is None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) < 19 and lowest <= int(text) <= highest):
            raise ConfigError(
                f"?{option}= of a {self.scheme}:// URL is a whole number from {lowest} to {highest}; "
                f"leave it out for {default}"
            )
        return int(text)


def store_url(url: str | None = None) -> StoreUrl:
    """Read a registry URL; without one: `ROSTER_REGISTRY`, else `ETCD_HOST`/`ETCD_PORT`, else the user's
    file.

    `sqlite:///var/lib/roster/registry.db` is an absolute path: what follows `sqlite://` is the path itself.

    Raises:
        ConfigError: the URL cannot be read; the text says what to write instead and never repeats the URL.

    Example:
        >>> store_url("etcd://user:secret@db1,db2:4001/?prefix=/team").display
        'etcd://db1:2379,db2:4001'
    """
    if url is not None:
        return _parse(url, "the registry URL")
    if named := os.environ.get("ROSTER_REGISTRY"):
        return _parse(named, "ROSTER_REGISTRY")
    if host := os.environ.get("ETCD_HOST"):
        return _with_environment(
            StoreUrl(
                "etcd",
                hosts=((host.strip("[]"), read_port(os.environ.get("ETCD_PORT") or "2379", "ETCD_PORT")),),
            )
        )
    return StoreUrl("sqlite", path=str(state_dir().absolute() / "registry.db"))


def _parse(url: str, what: str) -> StoreUrl:
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise ConfigError(f"{what} cannot be read: write {_FORMS}") from error
    scheme = parts.scheme
    if scheme not in _OPTIONS or not url[len(scheme) :].startswith("://"):
        raise ConfigError(f"{what} names no known store: write {_FORMS}")
    if parts.fragment:
        raise ConfigError(
            f"{what} has a '#' part, which means nothing here; write '#' in a path or password as %23"
        )
    options = read_options(parts.query, _OPTIONS[scheme], scheme, what)
    if scheme == "sqlite":
        return StoreUrl(scheme, path=_sqlite_path(parts.netloc, parts.path, what), options=options)
    if scheme == "memory":
        if parts.path.strip("/") or "@" in parts.netloc:
            raise ConfigError(f"{what}: a memory store has a name and no path: write memory://NAME")
        return StoreUrl(scheme, name=unquote(parts.netloc), options=options)
    return _server_url(scheme, parts.netloc, parts.path, options, what)


def _sqlite_path(netloc: str, path: str, what: str) -> str:
    if netloc or not path.strip("/"):
        hint = "" if "@" in netloc else f", for example sqlite://{quote(str(Path.cwd() / 'registry.db'))}"
        raise ConfigError(f"{what}: sqlite takes an absolute path after three slashes{hint}")
    plain = unquote(path)
    if "\0" in plain:
        raise ConfigError(f"{what}: the path of the database holds a NUL")
    if plain == "/:memory:":
        raise ConfigError(f"{what}: for a registry in memory write memory://")
    if plain.endswith("/"):
        raise ConfigError(f"{what} names a directory: add the file, such as registry.db")
    return os.path.normpath("/" + plain.lstrip("/"))


def _server_url(
    scheme: str, netloc: str, path: str, options: tuple[tuple[str, str], ...], what: str
) -> StoreUrl:
    if path not in ("", "/"):
        raise ConfigError(f"{what}: {scheme}:// takes no path; a prefix goes into ?prefix=/team")
    user, _, places = netloc.rpartition("@")
    name, colon, password = user.partition(":")
    return _with_environment(
        StoreUrl(
            scheme,
            hosts=read_hosts(places, scheme, _PORTS[scheme], what),
            options=options,
            username=unquote(name) if user else None,
            password=unquote(password) if colon else None,
        )
    )


def _with_environment(url: StoreUrl) -> StoreUrl:
    """Fill in what the URL leaves out: a secret in a URL is seen by whoever sees the command line."""
    username, password = url.username, url.password
    if url.engine == "consul" and password is None:
        username, password = (
            None,
            username,
        )  # a token has no user: consul://TOKEN@host and consul://:TOKEN@host
    if username is None and password is None:
        username = os.environ.get("ROSTER_REGISTRY_USER") or None
        password = secret("ROSTER_REGISTRY_PASSWORD")
        if url.engine == "consul":
            password = password or os.environ.get("CONSUL_HTTP_TOKEN") or None
    tls = tls_files(dict(url.options), url.scheme) if url.scheme in _TLS else None
    return replace(url, username=username, password=password, tls=tls)
