"""Who is alive: what the lease file, the clock and the holders' locks say of a lease."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from roster.store.sqlite.boot import boot_id
from roster.store.sqlite.holders import is_dead
from roster.store.sqlite.leasefile import LeaseFile, Slot

# A deadline this many seconds further off than its TTL allows comes from a clock that is not ours.
CLOCK_SLACK = 5.0
# One look tests at most so many holders (about 8 us each), those first that were not tested for longest.
TESTS_PER_LOOK = 256
_REMEMBERED = 8192


def lease_name(number: int, slot: int) -> str:
    """Return a lease's id: its number, and where its slot is."""
    return f"{number:x}-{slot:x}"


def lease_place(name: str) -> tuple[int, int] | None:
    """Return number and slot of a lease id, or None if it is not one of ours."""
    number, _, slot = name.partition("-")
    try:
        place = (int(number, 16), int(slot, 16))
    except ValueError:
        return None
    return place if lease_name(*place) == name and place[0] < 2**63 and place[1] < 2**32 else None


class Census:
    """One client's knowledge of who is alive. Verdicts of death are for ever, verdicts of life have an age.

    Args:
        run: the directory of the holders' files.
        now: the clock of the leases, seconds.

    Attributes:
        own: the number of this client's own holder, 0 if it holds nothing.
    """

    def __init__(self, run: Path, now: Callable[[], float]) -> None:
        self._run = run
        self._now = now
        self._boot = boot_id()
        self.own = 0
        self._dead: set[int] = set()
        self._alive_at: dict[int, float] = {}
        self._unreadable: dict[int, float] = {}

    def ended(
        self,
        leases: LeaseFile | None,
        number: int,
        index: int,
        *,
        max_age: float = 0.0,
        ttl: float = float("inf"),
    ) -> bool:
        """Judge one lease, by its slot in the file as it is now."""
        if leases is None:
            return True
        return self.judge(number, leases.read(index), max_age=max_age, ttl=ttl)

    def judge(
        self, number: int, slot: Slot | None, *, max_age: float = 0.0, ttl: float = float("inf")
    ) -> bool:
        """Return whether a lease has ended.

        Args:
            number: the lease.
            slot: what its slot says; None if that is unreadable.
            max_age: how old, in seconds, a verdict that its holder lives may be.
            ttl: seconds after which an unreadable slot counts as ended.
        """
        now = self._now()
        if slot is None:
            return now - self._unreadable.setdefault(number, now) >= ttl
        if self._unreadable:
            self._unreadable.pop(number, None)
        if slot.number != number or slot.ended or slot.released or slot.boot != self._boot:
            return True
        if slot.deadline <= now:
            return True
        return not slot.lingering and self.dead(slot.holder, max_age)

    def far(self, slot: Slot) -> float | None:
        """Return how many seconds too far off a deadline is, or None if it is credible."""
        excess = slot.deadline - self._now() - slot.ttl
        return excess if excess > CLOCK_SLACK else None

    def known_dead(self, holder: int) -> bool:
        """Return whether a holder was proven dead before."""
        return holder in self._dead

    def dead(self, holder: int, max_age: float = 0.0) -> bool:
        """Return whether a holder is proven dead."""
        if holder == self.own:
            return False
        if holder in self._dead:
            return True
        now = self._now()
        if now - self._alive_at.get(holder, float("-inf")) <= max_age:
            return False
        if is_dead(self._run, holder):
            self._dead.add(holder)
            self._alive_at.pop(holder, None)
            if len(self._dead) > _REMEMBERED:
                self._dead.clear()  # they can be proven dead again
            return True
        self._alive_at[holder] = now
        if len(self._alive_at) > _REMEMBERED:
            self._alive_at.clear()
        return False

    def refresh(self, holders: Iterable[int]) -> bool:
        """Test some of the holders, those first that were not tested for longest; return whether one is dead."""
        waiting = sorted(holders, key=lambda holder: self._alive_at.get(holder, float("-inf")))
        return sum(self.dead(holder) for holder in waiting[:TESTS_PER_LOOK]) > 0

    def reusable(self, slot: Slot | None) -> bool:
        """Return whether a slot that no lease of the database has may be given to another.

        Not while its last holder may still write to it: a process that stood still in the middle of a
        renewal does so when it wakes.
        """
        if slot is None or slot.released or slot.boot != self._boot:
            return True
        return slot.holder != self.own and is_dead(self._run, slot.holder) is not False
