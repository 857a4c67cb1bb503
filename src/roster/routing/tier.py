"""Candidates kept in order of load: the least loaded of 100 000 is found in the same time as of ten.

What a tier promises:

- `best()` is exactly the set of the least loaded members that have room; no sampling, no approximation.
- A change of one member's load moves that member alone: it is swapped out of the list of its old load and
  appended to the list of its new one. The loads that occur stand in a sorted list with the least at its
  END, where a list is cheap to change; agents have few distinct loads, so that list is short.
- An ejected member has no place among the candidates, unless fewer than half of the members would be left:
  then ejection is ignored for the whole tier (Envoy calls this the panic threshold).

Source:
https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/load_balancing/panic_threshold
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class _Level(Generic[T]):
    """The open seats of one load."""

    __slots__ = ("rank", "seats")

    def __init__(self, rank: float) -> None:
        self.rank = rank
        self.seats: list[Seat[T]] = []


class Seat(Generic[T]):
    """The place of one candidate in one tier.

    Attributes:
        what: the candidate itself.
        key: its name, `namespace/name`; `sticky` hashes it.
        order: its place in the order of arrival, unique in the tier.
        rank: minus its load, so that a greater rank is a lighter load.
        spare: how many more tasks it takes; nothing at or below 0.
        out: whether it is ejected.
        tier: the tier it is a member of, None before it joins one.
        level: where the open seats of its load are, None while it is no candidate or has no room.
        slot: its index there.
    """

    __slots__ = ("key", "level", "order", "out", "rank", "slot", "spare", "tier", "what")

    def __init__(self, what: T, key: str, order: int, rank: float, spare: int, *, out: bool = False) -> None:
        self.what = what
        self.key = key
        self.order = order
        self.rank = rank
        self.spare = spare
        self.out = out
        self.slot = 0
        self.level: _Level[T] | None = None
        self.tier: Tier[T] | None = None

    @property
    def open(self) -> bool:
        """Whether it is a candidate with room."""
        return self.level is not None


class Tier(Generic[T]):
    """One set of candidates that a strategy chooses from.

    Attributes:
        members: every seat by its order, ejected and full ones too. Read it, change it with the methods
            alone.
        out: how many members are ejected.
        panic: whether ejection is ignored, because fewer than half of the members would be left.
        room: tasks that the candidates take in all.
        version: grows with every change of membership; a strategy that keeps a list of its own compares it.
    """

    __slots__ = ("_levels", "_ranks", "members", "out", "panic", "room", "version")

    def __init__(self) -> None:
        self.members: dict[int, Seat[T]] = {}
        self.out = 0
        self.panic = False
        self.room = 0
        self.version = 0
        self._levels: dict[float, _Level[T]] = {}
        self._ranks: list[float] = []

    def best(self) -> list[Seat[T]]:
        """Return the least loaded candidates with room, all of one load; empty when nobody has room."""
        return self._levels[self._ranks[-1]].seats if self._ranks else []

    def levels(self) -> Iterator[list[Seat[T]]]:
        """Yield the candidates with room, a list for each load, the lightest load first."""
        for rank in reversed(self._ranks):
            yield self._levels[rank].seats

    def has_candidate(self, exclude: Collection[str] = ()) -> bool:
        """Whether there is a candidate that is not excluded, with room or without."""
        if exclude:
            return any(seat.key not in exclude for seat in self.candidates())
        return len(self.members) > (0 if self.panic else self.out)

    def candidates(self) -> Iterator[Seat[T]]:
        """Yield the members that are not left out by ejection, with room or without."""
        for seat in self.members.values():
            if self.panic or not seat.out:
                yield seat

    def counts(self, seat: Seat[T]) -> bool:
        """Whether this member is a candidate now, with room or without."""
        return self.panic or not seat.out

    def place(self, seat: Seat[T], rank: float, spare: int) -> None:
        """Move a member to its new load."""
        if seat.out and not self.panic:
            seat.rank = rank
            seat.spare = spare
            return
        self.room += spare - seat.spare
        level = seat.level
        if level is not None:
            if spare and rank == level.rank:
                seat.spare = spare
                return
            self._lift(seat, level)
        seat.rank = rank
        seat.spare = spare
        if spare:
            self._drop(seat)

    def join(self, seat: Seat[T]) -> None:
        """Take a new member in."""
        self.members[seat.order] = seat
        seat.tier = self
        self.version += 1
        if seat.out:
            self.out += 1
        if self.counts(seat):
            self._enter(seat)
        self._settle()

    def leave(self, seat: Seat[T]) -> None:
        """Let a member go."""
        del self.members[seat.order]
        seat.tier = None
        self.version += 1
        if self.counts(seat):
            self._exit(seat)
        if seat.out:
            self.out -= 1
        self._settle()

    def may_eject(self, share: float) -> bool:
        """Whether one more member may be ejected: at most `share` of them, and one always."""
        return self.out + 1 <= max(1, int(len(self.members) * share))

    def eject(self, seat: Seat[T], *, out: bool) -> None:
        """Leave a member out of the candidates, or take it back."""
        if seat.out == out:
            return
        before = self.counts(seat)
        seat.out = out
        self.out += 1 if out else -1
        after = self.counts(seat)
        if before and not after:
            self._exit(seat)
        elif after and not before:
            self._enter(seat)
        self._settle()

    def _settle(self) -> None:
        """Begin or end to ignore ejection, as the numbers say now."""
        panic = self.out > 0 and (len(self.members) - self.out) * 2 < len(self.members)
        if panic == self.panic:
            return
        self.panic = panic
        for seat in self.members.values():
            if seat.out:
                if panic:
                    self._enter(seat)
                else:
                    self._exit(seat)

    def _enter(self, seat: Seat[T]) -> None:
        self.room += seat.spare
        if seat.spare:
            self._drop(seat)

    def _exit(self, seat: Seat[T]) -> None:
        self.room -= seat.spare
        if seat.level is not None:
            self._lift(seat, seat.level)

    def _drop(self, seat: Seat[T]) -> None:
        """Append it to the seats of its load."""
        level = self._levels.get(seat.rank)
        if level is None:
            level = self._levels[seat.rank] = _Level(seat.rank)
            insort(self._ranks, seat.rank)
        # One float for all seats of a level: among 100 000 nodes each object of a seat's own is a miss of the cache.
        seat.rank = level.rank
        seat.level = level
        seat.slot = len(level.seats)
        level.seats.append(seat)

    def _lift(self, seat: Seat[T], level: _Level[T]) -> None:
        """Take it out of the seats of its load: the last one there takes its slot."""
        seats = level.seats
        last = seats.pop()
        if last is not seat:
            last.slot = seat.slot
            seats[seat.slot] = last
        elif not seats:
            del self._levels[level.rank]
            del self._ranks[bisect_left(self._ranks, level.rank)]
        seat.level = None
