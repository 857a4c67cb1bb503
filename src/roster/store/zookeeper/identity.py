"""A name for the data behind a URL: ZooKeeper has none, and reading must not write one."""

from __future__ import annotations

from roster.store.url import StoreUrl
from roster.store.zookeeper.packets import Stat

_EMPTY = "empty"

# What was found last and what it was called, by servers and first znode; for all clients of this process.
_known: dict[tuple[tuple[tuple[str, int], ...], str], tuple[str, str]] = {}


def first_znode(url: StoreUrl) -> str:
    """Return the path of the znode under which a registry lies, or several that lie in one another."""
    return "/" + url.prefix.split("/")[1]


def name_of(url: StoreUrl, first: Stat | None) -> str:
    """Return the name of what is there, given its first znode.

    That znode is made once, at the first write; when it is another one, or gone, the data was wiped or restored. A registry
    that was empty goes by that name in this process when something is written to it: nothing of it was lost.
    """
    place = (tuple(sorted(url.hosts)), first_znode(url))
    found = _EMPTY if first is None else f"{first.czxid:x}-{first.ctime:x}"
    before, name = _known.get(place, (found, found))
    if found != before and before != _EMPTY:
        name = found
    _known[place] = (found, name)
    return name
