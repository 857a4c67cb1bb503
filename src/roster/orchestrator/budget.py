"""How often to try again, in numbers: a budget for retries and the pause before each."""

from __future__ import annotations

import random

MAX_ATTEMPTS = 3
"""Executions of one call at most, whatever the budget holds."""

SOLO_AFTER = 2
"""After so many nodes have gone with a command in hand, it is sent alone."""

_RATIO = 0.1
_RESERVE = 10.0
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0


class RetryBudget:
    """A token bucket: each call earns a tenth of a retry, and few can be saved.

    When everything fails, retries add at most a tenth to the load (and the reserve, once), so that a struggling team is
    not finished off by its callers. A retry that brought the result gives its token back: it was worth its price, and
    while some nodes of many are out of order every call is still answered. So retries in vain are at most a tenth of the
    calls. A command that surely did not start costs nothing: handing it to the next node is not a repetition.

    Source: "Handling Overload", Site Reliability Engineering, chapter 21 (per-client retry budget of 10 %).
    """

    __slots__ = ("_tokens", "denied", "spent")

    def __init__(self) -> None:
        self._tokens = _RESERVE
        self.spent = 0
        self.denied = 0

    def earn(self) -> None:
        """Count one call."""
        self._tokens = min(self._tokens + _RATIO, _RESERVE)

    def spend(self) -> bool:
        """Take one retry if there is one."""
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            self.spent += 1
            return True
        self.denied += 1
        return False

    def refund(self) -> None:
        """Give back the token of a retry that brought the result."""
        self._tokens = min(self._tokens + 1.0, _RESERVE)


def pause(attempt: int, rng: random.Random) -> float:
    """Return the seconds to wait before another try: full jitter over an exponential bound.

    Args:
        attempt: how many tries were made, from 1.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return rng.uniform(0.0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempt, 16)))
