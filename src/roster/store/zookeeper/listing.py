"""Reads all keys below a prefix, and remembers for a while what a listing has shown."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from roster._clock import boottime
from roster.errors import RevisionCompactedError
from roster.store.base import Entry, Page
from roster.store.zookeeper.names import (
    BIRTHS,
    RESERVED,
    ancestors,
    directory_of_prefix,
    to_key,
    to_value,
    under,
)
from roster.store.zookeeper.packets import Reply, Request, Stat, children, exists, get_all, nodes_of, sync
from roster.store.zookeeper.planning import lease_of, owner_of

Ask = Callable[[Sequence[Request]], Awaitable[list[Reply]]]

# Of each store: so many listings, so long after a page of theirs was asked for.
_REMEMBERED = 8
_SECONDS = 60.0


def entry_of(key: str, data: bytes, stat: Stat) -> Entry | None:
    """Return the entry that a znode is; None for a directory."""
    if not data:
        return None
    return Entry(key, to_value(data), stat.czxid, stat.mzxid, lease_of(owner_of(stat)))


@dataclass(frozen=True, slots=True)
class Walk:
    """What was read below a prefix.

    Attributes:
        entries: by key, unordered.
        revision: at which the reading began; what was written since may be in it.
        newest: since this revision nothing came, went or changed there, up to the reading.
    """

    entries: dict[str, Entry]
    revision: int
    newest: int


async def walk(ask: Ask, prefix: str) -> Walk:
    """Read all keys that begin with a prefix."""
    top = directory_of_prefix(prefix)
    way = ["/", *ancestors(top)]
    started, *above, listed = await ask([sync(), *map(exists, way), children(top)])
    # A znode knows when the last child came or went. Where the directory is missing, the deepest one on the way knows.
    newest = [stat.pzxid for each in above if (stat := each.stat()) is not None][-1]
    found: dict[str, Entry] = {}
    directories = [(top, listed)]
    while directories:
        keys: dict[str, str] = {}
        for directory, names in directories:
            for name in names.names() if names.error is None else ():
                path = under(directory, name)
                if name == BIRTHS or path == under("/", RESERVED):
                    continue
                key = to_key(path)
                if key is not None and key.startswith(prefix):
                    keys[path] = key
        deeper = []
        for path, node in zip(keys, nodes_of(await ask(get_all(list(keys)))), strict=True):
            if node is None:
                continue  # deleted since its name was read
            data, stat = node
            newest = max(newest, stat.mzxid, stat.pzxid)
            if (entry := entry_of(keys[path], data, stat)) is not None:
                found[entry.key] = entry
            if stat.children:
                deeper.append(path)
        directories = list(zip(deeper, await ask([children(path) for path in deeper]), strict=True))
    return Walk(found, started.zxid, newest)


@dataclass(slots=True)
class Listing:
    """What a listing of a prefix has shown.

    Attributes:
        revision: of the listing.
        entries: in key order.
        until: the CLOCK_BOOTTIME second up to which it is kept.
    """

    revision: int
    entries: tuple[Entry, ...]
    until: float

    def page(self, limit: int, after: str | None) -> Page:
        """Return the page behind a key."""
        first = 0
        if after is not None:
            first = bisect_right(self.entries, after.encode(), key=lambda entry: entry.key.encode())
        rest = self.entries[first:]
        if limit and len(rest) > limit:
            return Page(rest[:limit], self.revision, rest[limit - 1].key)
        return Page(rest, self.revision)


class Memory:
    """The last listings of one store, one a prefix."""

    def __init__(self) -> None:
        self._listings: OrderedDict[str, Listing] = OrderedDict()

    def keep(self, prefix: str, entries: dict[str, Entry], revision: int) -> Listing:
        """Remember a listing, and forget what is old."""
        now = boottime()
        listing = Listing(
            revision, tuple(entries[key] for key in sorted(entries, key=str.encode)), now + _SECONDS
        )
        self._listings.pop(prefix, None)
        for old in [each for each, kept in self._listings.items() if kept.until < now]:
            del self._listings[old]
        while len(self._listings) >= _REMEMBERED:
            self._listings.popitem(last=False)
        self._listings[prefix] = listing
        return listing

    def recall(self, prefix: str, revision: int) -> Listing | None:
        """Return what a listing of this prefix has shown at a revision, if that is remembered."""
        listing = self._listings.get(prefix)
        if listing is None or listing.revision != revision or listing.until < boottime():
            return None
        return listing

    def further(self, prefix: str, revision: int) -> Listing:
        """Return the listing whose next page is asked for.

        Raises:
            RevisionCompactedError: it is not remembered.
        """
        listing = self.recall(prefix, revision)
        if listing is None:
            raise RevisionCompactedError(
                f"revision {revision} of {prefix!r} is not at hand any more: list again from the beginning",
                revision,
            )
        listing.until = boottime() + _SECONDS
        return listing
