"""What a store has seen of an etcd's past, by which it knows whether that etcd still has the same one.

A cluster's id is made of its configuration: an etcd that was wiped, or restored from a backup, and started as before keeps
it. Its revision has gone back then, but may have passed the old one again before anybody looks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Fact:
    """At `revision`, `key` was as the change of `mod_revision` had left it (0: deleted)."""

    key: bytes
    mod_revision: int
    revision: int


class Past:
    """The newest fact, and how often facts turned out to be of another past.

    Attributes:
        fact: None before anything was seen.
        changes: how many other pasts were met.
    """

    def __init__(self) -> None:
        self.fact: Fact | None = None
        self.changes = 0

    def listed(self, entries: Iterable[tuple[str, int]], revision: int) -> None:
        """Take in keys and their revisions as a listing shows them; it does not replace what is known already.

        A listing asks nobody whether the store is still the same; a watch is only opened by those who did.
        """
        newest = max(entries, key=lambda entry: entry[1], default=None)
        if self.fact is None and newest is not None:
            self.fact = Fact(newest[0].encode(), newest[1], revision)

    def watched(self, key: bytes, mod_revision: int, revision: int) -> None:
        """Take in the last change that a watch brought (`mod_revision` 0: a deletion)."""
        self.fact = Fact(key, mod_revision, revision)

    def unchanged(self, scope: tuple[bytes, bytes], since: int, until: int) -> None:
        """Take in that nothing else changed in a range from one revision to another; older ones may get compacted."""
        fact, (start, end) = self.fact, scope
        if fact is None or since > fact.revision + 1 or until <= fact.revision:
            return
        if start <= fact.key and (end == b"\0" or fact.key < end):
            self.fact = replace(fact, revision=until)

    def disproved(self, fact: Fact) -> None:
        """Note that a fact does not hold any more: this is another past, of which nothing is known."""
        self.changes += 1
        if self.fact is fact:
            self.fact = None
