"""Whether the nodes whose leases have ended are at fault, or the store: then they are given one TTL to come back.

An etcd that was frozen for longer than the TTL revokes leases the moment it thaws, though their holders kept them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

logger = logging.getLogger("roster.registry")

# More nodes than this share and than this number vanish within a TTL: suspect the store, not them.
MASS_SHARE = 0.15
MASS_COUNT = 2


def many(count: int, known: int) -> bool:
    """Whether so many of the known nodes do not go at once by themselves."""
    return count > MASS_COUNT and count > MASS_SHARE * known


class Grace:
    """Remembers who vanished within the last TTL, and when the store was away.

    Args:
        now: the clock that decides.
        enabled: without it nobody is given grace.
    """

    def __init__(self, now: Callable[[], float], *, enabled: bool) -> None:
        self._now = now
        self._enabled = enabled
        self._vanished: dict[str, tuple[float, float]] = {}  # key -> when, its TTL
        self._outage_end = float("-inf")

    def outage_over(self) -> None:
        """The store is back: whoever vanishes within a TTL from now is suspected of nothing."""
        self._outage_end = self._now()

    def forget(self, key: str) -> None:
        """This one is back, or has left in good order."""
        self._vanished.pop(key, None)

    def given(self, ttls: Mapping[str, float], live: int) -> set[str]:
        """Return who is given grace: some of those who have just vanished, or all who did within their TTL.

        Args:
            ttls: those who have just vanished, each with its TTL.
            live: how many live ones are known, them included.
        """
        now = self._now()
        graced = set()
        for key, ttl in ttls.items():
            self._vanished[key] = (now, ttl)
            if now <= self._outage_end + ttl:
                graced.add(key)
        for key, (when, ttl) in list(self._vanished.items()):
            if now > when + ttl:
                del self._vanished[key]
        # Those who vanished earlier are not counted as live any more.
        known = live + sum(1 for key in self._vanished if key not in ttls)
        if many(len(self._vanished), known):
            graced = set(self._vanished)
        if not self._enabled:
            return set()
        if graced:
            logger.warning(
                "%d of %d nodes lost their leases at once or after an outage of the store: "
                "unknown for one TTL, not offline",
                len(graced),
                known,
            )
        return graced
