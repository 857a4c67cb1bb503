"""WHERE the registry's bytes live: one protocol, one module an engine, chosen by URL."""

from __future__ import annotations

from roster.errors import ConfigError
from roster.store.base import (
    MAX_KEY_BYTES,
    MAX_TTL,
    MAX_VALUE_BYTES,
    MIN_TTL,
    Batch,
    Change,
    Check,
    Delete,
    Entry,
    Grade,
    Hint,
    Lease,
    LeaseTerms,
    Op,
    Page,
    Put,
    Store,
    StoreInfo,
    Term,
)
from roster.store.rooted import at_prefix
from roster.store.url import StoreUrl, store_url

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_TTL",
    "MAX_VALUE_BYTES",
    "MIN_TTL",
    "Batch",
    "Change",
    "Check",
    "Delete",
    "Entry",
    "Grade",
    "Hint",
    "Lease",
    "LeaseTerms",
    "Op",
    "Page",
    "Put",
    "Store",
    "StoreInfo",
    "StoreUrl",
    "Term",
    "open_store",
    "store_url",
]

DEFAULT_HISTORY = 10_000


def open_store(url: str | None = None) -> Store:
    """Return a client of the store that `url`, or else the environment, names.

    Nothing is read or written yet: the store is opened on entering `async with`, or at the first use. A
    client belongs to one event loop; several clients, in several loops and threads, may share one URL.

    Args:
        url: `sqlite:///absolute/path`, `memory://NAME` (option of both: `?history=N`, the revisions that are
            kept for watches), `etcd://HOST:PORT,...`, `consul://HOST:PORT`, `zookeeper://HOST:PORT,...`
            (options: `?prefix=/team` instead of `/ai-team`, `?timeout=SECONDS` of one request; with TLS, as
            `etcds://` and so on, also `?ca=FILE`, `?cert=FILE`, `?key=FILE`). None: `ROSTER_REGISTRY`, else
            `ETCD_HOST`, else a SQLite file in the user's state directory.

    Raises:
        ConfigError: the URL is wrong, or its engine's library is not installed.

    Example:
        async with open_store("memory://") as store:
            revision = await store.put("/ai-team/nodes/default/writer-001", b"...")
    """
    parsed = store_url(url)
    history = parsed.number("history", DEFAULT_HISTORY, 1, 10_000_000)
    # Each engine is imported when it is asked for: an agent's process pays for the one it uses.
    if parsed.scheme == "memory":
        from roster.store.memory import MemoryStore, stand_ins

        if (make := stand_ins.get(parsed.name)) is not None:
            return make()
        return MemoryStore(parsed.name, history=history)
    if parsed.scheme == "sqlite":
        from roster.store.sqlite import SqliteStore

        return SqliteStore(parsed.path, history=history)
    return at_prefix(_server(parsed), parsed.prefix)


def _server(url: StoreUrl) -> Store:
    """Return a client of an engine that is a server; each needs an extra of this package's."""
    try:
        if url.engine == "etcd":
            from roster.store.etcd import EtcdStore

            return EtcdStore(url)
        if url.engine == "consul":
            from roster.store.consul import ConsulStore

            return ConsulStore(url)
        from roster.store.zookeeper import ZookeeperStore

        return ZookeeperStore(url)
    except ModuleNotFoundError as error:
        # The engine's own modules are there; what is missing is the library that it stands on.
        raise ConfigError(
            f"{url.scheme}:// needs the package {error.name}: pip install 'agent-roster[{url.engine}]'"
        ) from error
