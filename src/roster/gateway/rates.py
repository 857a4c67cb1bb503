"""Token buckets by key: how often somebody may come."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from roster._clock import boottime

_MOST = 10_000


class Rates:
    """A bucket for each key. The least recent ones are dropped: waiting would have filled them as well.

    Args:
        rate: how many a second.
        burst: how many at once.
        now: the clock, seconds.
    """

    def __init__(self, rate: float, burst: float, now: Callable[[], float] = boottime) -> None:
        self._rate = rate
        self._burst = burst
        self._now = now
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, key: str) -> float:
        """Take one; return 0, or the seconds after which there is one again."""
        left = self._left(key) - 1.0
        if left < 0:
            return -left / self._rate
        self._put(key, left)
        return 0.0

    def _left(self, key: str) -> float:
        left, when = self._buckets.get(key, (self._burst, 0.0))
        return min(self._burst, left + (self._now() - when) * self._rate)

    def _put(self, key: str, left: float) -> None:
        self._buckets[key] = (left, self._now())
        self._buckets.move_to_end(key)
        if len(self._buckets) > _MOST:
            self._buckets.popitem(last=False)
