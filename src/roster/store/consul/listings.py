"""What a client of Consul remembers of its looks for a minute: Consul can neither page nor tell what is gone."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from roster.store.base import Entry, Page
from roster.store.consul.kv import Look

HELD = 4
HELD_FOR = 60.0

Versions = dict[str, tuple[int, int]]
"""CreateIndex and ModifyIndex of each key: two looks differ where these do."""


def versions_of(entries: Iterable[Entry]) -> Versions:
    """Return what to compare the next look with."""
    return {entry.key: (entry.create_revision, entry.mod_revision) for entry in entries}


@dataclass(slots=True)
class _Held:
    versions: Versions
    entries: tuple[Entry, ...] | None
    timer: asyncio.TimerHandle | None = None


class Listings:
    """The last few listings, by prefix and revision."""

    def __init__(self) -> None:
        self._held: OrderedDict[tuple[str, int], _Held] = OrderedDict()

    def page(self, prefix: str, look: Look, limit: int) -> Page:
        """Return the first page of a look, and remember what its other pages and a watch need."""
        page = _page(look.entries, look.index, limit, None)
        held = self._held.get((prefix, look.index))
        if held is None or (held.entries is None and page.next is not None):
            # Only who asked for pages will ask for another.
            entries = look.entries if page.next is not None else None
            self._hold(prefix, look.index, _Held(versions_of(look.entries), entries))
        return page

    def next_page(self, prefix: str, revision: int, after: str | None, limit: int) -> Page | None:
        """Return another page, or None if the listing is no longer remembered."""
        held = self._held.get((prefix, revision))
        if held is None or held.entries is None:
            return None
        return _page(held.entries, revision, limit, after)

    def remember(self, prefix: str, revision: int, versions: Mapping[str, tuple[int, int]]) -> None:
        """Remember what a watch has shown up to a revision, so that another can go on from there."""
        self._hold(prefix, revision, _Held(dict(versions), None))

    def shown(self, prefix: str, revision: int) -> Versions | None:
        """Return what whoever read up to this revision has seen, None if that is not remembered."""
        held = self._held.get((prefix, revision))
        return dict(held.versions) if held else None

    def clear(self) -> None:
        """Forget everything."""
        while self._held:
            self._drop(next(iter(self._held)))

    def _hold(self, prefix: str, revision: int, held: _Held) -> None:
        place = (prefix, revision)
        self._drop(place)
        while len(self._held) >= HELD:
            self._drop(next(iter(self._held)))
        held.timer = asyncio.get_running_loop().call_later(HELD_FOR, self._drop, place)
        self._held[place] = held

    def _drop(self, place: tuple[str, int]) -> None:
        held = self._held.pop(place, None)
        if held is not None and held.timer is not None:
            held.timer.cancel()


def _page(entries: tuple[Entry, ...], revision: int, limit: int, after: str | None) -> Page:
    first = 0 if after is None else bisect_right(entries, after, key=lambda entry: entry.key)
    last = len(entries) if not limit else min(len(entries), first + limit)
    return Page(entries[first:last], revision, entries[last - 1].key if last < len(entries) else None)
