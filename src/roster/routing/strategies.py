"""The strategies: each chooses one seat among the candidates of a tier.

A strategy is one class with one method, `choose`. To add one: write the class, and enter it in
`STRATEGIES`; it is then known by that name to `Router`, `select_best_node` and whatever takes a strategy's
name. It reads the tier (`best()`, `levels()`, `members`) and changes nothing there. One instance serves one
pool, so it may remember.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Collection
from hashlib import blake2b
from typing import Any, Protocol

from roster.errors import ConfigError
from roster.routing.tier import Seat, Tier


class Strategy(Protocol):
    """Chooses one node among candidates."""

    def choose(
        self, tier: Tier[Any], rng: random.Random, key: str | None, exclude: Collection[str]
    ) -> Seat[Any] | None:
        """Return an open seat whose key is not excluded, None when there is none.

        Args:
            tier: the candidates.
            rng: where chance comes from.
            key: what the caller wants to stick by; only `sticky` reads it.
            exclude: keys that were tried before.
        """


class LeastLoaded:
    """One of those with the least load, each with equal chance: the default.

    Exact and not the better of two at random: finding the minimum costs the same, and two at random leaves
    nodes idle that agents, with room for a handful of long tasks each, cannot afford to leave idle.
    """

    def choose(
        self, tier: Tier[Any], rng: random.Random, key: str | None, exclude: Collection[str]
    ) -> Seat[Any] | None:
        """Return one of the least loaded."""
        if not exclude:
            best = tier.best()
            # int(random() * n) and not randrange: a fifth of its time, and its bias below 2**-30 is
            # nobody's harm.
            return best[int(rng.random() * len(best))] if best else None
        for level in tier.levels():
            seat = _one_of(level, rng, exclude)
            if seat is not None:
                return seat
        return None


class Random:
    """Any candidate with room, each with equal chance."""

    def choose(
        self, tier: Tier[Any], rng: random.Random, key: str | None, exclude: Collection[str]
    ) -> Seat[Any] | None:
        """Return any open seat."""
        levels = list(tier.levels())
        if exclude:
            levels = [[seat for seat in level if seat.key not in exclude] for level in levels]
        at = int(rng.random() * sum(map(len, levels)))
        for level in levels:
            if at < len(level):
                return level[at]
            at -= len(level)
        return None


class RoundRobin:
    """The next in order of arrival after the one chosen last, full ones stepped over.

    The first is drawn by chance. Nodes that come and go do not disturb the turn of the others. One choice
    costs the run of full nodes it steps over.
    """

    def __init__(self) -> None:
        self._last: int | None = None
        self._tier: Tier[Any] | None = None
        self._version = -1
        self._seats: list[Seat[Any]] = []
        self._orders: list[int] = []

    def choose(
        self, tier: Tier[Any], rng: random.Random, key: str | None, exclude: Collection[str]
    ) -> Seat[Any] | None:
        """Return the next open seat."""
        if not tier.best():
            return None
        if tier is not self._tier or tier.version != self._version:
            self._orders = sorted(tier.members)
            self._seats = [tier.members[order] for order in self._orders]
            self._tier, self._version = tier, tier.version
        size = len(self._seats)
        # Callers that start together must not all start with the same node.
        start = int(rng.random() * size) if self._last is None else bisect_right(self._orders, self._last)
        for step in range(size):
            seat = self._seats[(start + step) % size]
            if seat.open and seat.key not in exclude:
                self._last = seat.order
                return seat
        return None


def rendezvous(key: str) -> Callable[[str], bytes]:
    """Return a function that scores nodes (`namespace/name`) for a key; the highest is the key's own.

    Source: D. Thaler, C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
    """
    # The caller's key may be longer than the 64 bytes that blake2b takes as its key: digest it first.
    start = blake2b(key=blake2b(key.encode("utf-8", "surrogatepass")).digest(), digest_size=8)

    def score(name: str) -> bytes:
        scorer = start.copy()
        scorer.update(name.encode("utf-8", "surrogatepass"))
        return scorer.digest()

    return score


class Sticky:
    """The same node for the same key, in every process, while it is there and has room; else the next.

    Rendezvous hashing: each node scores blake2b(node's key, keyed by the caller's key), and the highest
    open one wins, so a node that leaves moves only the keys that were its own. One choice looks at every
    member: about half a microsecond each.

    Source: D. Thaler, C. Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996.
    """

    def choose(
        self, tier: Tier[Any], rng: random.Random, key: str | None, exclude: Collection[str]
    ) -> Seat[Any] | None:
        """Return the open seat with the highest score for the key."""
        if key is None:
            raise ConfigError(
                "the sticky strategy needs a key: say what the calls that belong together share"
            )
        score_of = rendezvous(key)
        winner: Seat[Any] | None = None
        highest = b""
        for seat in tier.members.values():
            if seat.level is None or seat.key in exclude:
                continue
            score = score_of(seat.key)
            if winner is None or score > highest:
                winner, highest = seat, score
        return winner


STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "least_loaded": LeastLoaded,
    "round_robin": RoundRobin,
    "random": Random,
    "sticky": Sticky,
}


def make_strategy(name: str) -> Strategy:
    """Return a new instance of the strategy of this name.

    Raises:
        ConfigError: there is no such strategy.
    """
    made = STRATEGIES.get(name)
    if made is None:
        raise ConfigError(f"no routing strategy {name!r}: choose one of {', '.join(STRATEGIES)}")
    return made()


def _one_of(level: list[Seat[Any]], rng: random.Random, exclude: Collection[str]) -> Seat[Any] | None:
    """Return one seat of the list that is not excluded, each with equal chance."""
    # Few are excluded as a rule, so a blind draw hits at once; only when it does not is the whole list
    # looked through.
    for _ in range(8):
        seat = level[int(rng.random() * len(level))]
        if seat.key not in exclude:
            return seat
    rest = [seat for seat in level if seat.key not in exclude]
    return rest[int(rng.random() * len(rest))] if rest else None
