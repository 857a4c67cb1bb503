"""Outlier ejection: a node that keeps failing is left out for a growing while, then tried with one command.

Modelled on Envoy: consecutive failures or a failure rate of a minimum volume eject; the time grows with
each ejection and shrinks while the node does well; at most a share of the candidates is out, one always may
be. Two differences. The window is the last so many results, not an interval of time: agents answer in
seconds to minutes, and a quiet node must not be judged by nothing. And a node that returns is on trial, as
behind a circuit breaker that is half open: it gets one command at a time until one succeeds, and its first
failure sends it out again; otherwise each return of a dead node would cost as many commands as it has room
for.

Source: https://www.envoyproxy.io/docs/envoy/latest/intro/arch_overview/upstream/outlier
"""

from __future__ import annotations

from dataclasses import dataclass

from roster.errors import ConfigError


@dataclass(frozen=True, slots=True)
class EjectionPolicy:
    """When a node is left out, and for how long.

    Attributes:
        consecutive: failures in a row that eject.
        window: how many of the last results the failure rate looks at.
        volume: results the window must hold before the rate counts.
        rate: share of failures among them that ejects, above 0 up to 1.
        base: seconds of the first ejection; each further one lasts twice as long.
        cap: seconds that no ejection exceeds, jitter aside.
        jitter: share added at random, so that callers do not return to a node all at once.
        share: at most this share of a pool's candidates is out at a time (one always may be).
        heal: successes in a row that take back one doubling.
    """

    consecutive: int = 5
    window: int = 20
    volume: int = 10
    rate: float = 0.5
    base: float = 10.0
    cap: float = 300.0
    jitter: float = 0.2
    share: float = 0.5
    heal: int = 10

    def __post_init__(self) -> None:
        if not (self.consecutive >= 1 and 1 <= self.volume <= self.window and self.heal >= 1):
            raise ConfigError("ejection: consecutive and heal are at least 1, volume is 1 to window")
        if not (0 < self.rate <= 1 and 0 <= self.share <= 0.5 and 0 <= self.jitter <= 1):
            raise ConfigError("ejection: rate is above 0 up to 1, share is 0 to 0.5, jitter is 0 to 1")
        if not 0 < self.base <= self.cap:
            raise ConfigError("ejection: base is above 0 seconds and at most cap")

    def duration(self, strikes: int, chance: float) -> float:
        """Return the seconds of the ejection after `strikes` earlier ones; `chance` is random in [0, 1)."""
        # Bounded exponent: a float overflows at 2**1024, and cap is reached long before.
        return min(self.cap, self.base * 2.0 ** min(strikes, 60)) * (1 + self.jitter * chance)


class Record:
    """What one node's last commands came to.

    Attributes:
        failures: failures that spoke for its ejection, shown while it is out.
        strikes: ejections not yet healed.
        until: when its ejection ends, on the caller's clock; None while it is not ejected.
    """

    __slots__ = ("_bits", "_healing", "_streak", "failures", "strikes", "until")

    def __init__(self) -> None:
        # The last results, the newest lowest, 1 = failed, under a leading 1 that marks how many they are.
        self._bits = 1
        self._streak = 0
        self._healing = 0
        self.failures = 0
        self.strikes = 0
        self.until: float | None = None

    def succeeded(self, policy: EjectionPolicy) -> None:
        """Count a success."""
        self._push(0, policy.window)
        self._streak = 0
        if self.strikes:
            self._healing += 1
            if self._healing >= policy.heal:
                self._healing = 0
                self.strikes -= 1

    def failed(self, policy: EjectionPolicy, *, trial: bool) -> bool:
        """Count a failure, perhaps of a node on trial. Return whether the node should be left out now."""
        self._push(1, policy.window)
        self._streak += 1
        self._healing = 0
        if self.until is not None:
            return False
        volume = self._bits.bit_length() - 1
        failures = self._bits.bit_count() - 1
        if trial or self._streak >= policy.consecutive:
            self.failures = self._streak
            return True
        if volume >= policy.volume and failures >= policy.rate * volume:
            self.failures = failures
            return True
        return False

    def eject(self, until: float) -> None:
        """Leave it out until then."""
        self.until = until
        self.strikes += 1

    def back(self) -> None:
        """Take it back with a clean sheet."""
        self.until = None
        self._bits = 1
        self._streak = 0
        self._healing = 0

    def _push(self, bit: int, window: int) -> None:
        bits = self._bits << 1 | bit
        if bits >> window > 1:
            bits = bits & ((1 << window) - 1) | 1 << window
        self._bits = bits
