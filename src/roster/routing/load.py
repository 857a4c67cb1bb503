"""How busy a node is, as far as one caller can know: what it reported, and what this caller sent it.

The load of a node is `(others + mine) / capacity`. `mine` is this caller's own count of its commands
outstanding there: exact, so it never waits for a report. `others` is what everybody else has there, from
the node's newest report. An answer carries the node's own count of this caller's work (`mine` as the node
sees it), so `others = active - mine` is exact at that moment; a registry status does not, so what this
caller has outstanding is taken off instead. `seq` is one counter at the node for both kinds: an older
report never overwrites a newer one.
"""

from __future__ import annotations

from math import inf
from typing import NamedTuple, TypeAlias

Report: TypeAlias = tuple[int, int, int, int]
"""What an answer says of its node: tasks active there, how many of them this caller's, capacity, seq."""

# Loads are compared as floats and yet exactly. Division is correctly rounded (IEEE 754), so equal fractions
# give equal floats; and two different fractions a/b < c/d lie at least 1/(b*d) apart, relative to c/d at
# least 1/(b*c): more than the two roundings (2**-53 each) as long as b*c < 2**52. So counts stay below
# 2**26: others, mine, capacity <= 2**25.
LIMIT = 2**25


class Load(NamedTuple):
    """The load of one node as this caller sees it.

    Attributes:
        active: tasks there, `others + mine`.
        capacity: how many it takes at once.
        mine: this caller's commands outstanding there.
        others: everybody else's, by the newest report.
        seq: the node's counter at that report.
    """

    active: int
    capacity: int
    mine: int
    others: int
    seq: int

    @property
    def fraction(self) -> float:
        """Return active / capacity; infinite for a node that takes nothing."""
        return self.active / self.capacity if self.capacity else inf


def rank_of(active: int, capacity: int) -> float:
    """Return minus the load, exact in comparison up to `LIMIT`: a greater rank is a lighter load."""
    return -active / capacity if capacity else -inf


def clamp(count: object) -> int | None:
    """Return a count brought within 0..LIMIT, None for what is no integer."""
    if type(count) is not int:
        return None
    return 0 if count < 0 else min(count, LIMIT)


class Count:
    """The running count of one node's load.

    Attributes:
        trial: the node is back from an ejection and has not succeeded since: this caller sends it no second
            command while one is outstanding.
    """

    __slots__ = ("capacity", "mine", "others", "seq", "trial")

    def __init__(self) -> None:
        self.capacity = 0
        self.mine = 0
        self.others = 0
        self.seq = -1
        self.trial = False

    def status(self, active: int, capacity: int, seq: int) -> None:
        """Take in what the registry says: the node's own numbers, written at most every few seconds.

        A report of the same seq as the newest one speaks of the same moment, and the answer that carried it
        knew more. Nodes that write only a passport have no counter (seq 0): their last word counts.
        """
        if seq < self.seq:
            return
        if seq > self.seq or seq == 0:
            self.others = max(0, min(active, LIMIT) - self.mine)
            self.seq = seq
        self.capacity = max(0, min(capacity, LIMIT))

    def answered(self, report: Report) -> None:
        """Take in what an answer says; a malformed report is worth nothing and changes nothing."""
        active, mine, capacity = (clamp(count) for count in report[:3])
        seq = report[3]
        if active is None or mine is None or capacity is None or type(seq) is not int or seq < self.seq:
            return
        self.others = max(0, active - mine)
        self.capacity = capacity
        self.seq = seq

    def standing(self) -> tuple[float, int]:
        """Return the load's rank, and how many more tasks the node takes from this caller."""
        active = self.others + self.mine
        capacity = self.capacity
        if active >= capacity:
            return rank_of(active, capacity), 0
        if self.trial:
            return -active / capacity, 0 if self.mine else 1
        return -active / capacity, capacity - active

    def load(self) -> Load:
        """Return the numbers."""
        return Load(self.others + self.mine, self.capacity, self.mine, self.others, self.seq)
