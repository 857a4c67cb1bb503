"""What one peer's callers saw through a script of faults, and what each kind of fault cost them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any

# A call that began so shortly before a fault was in somebody's hands when it came.
IN_HAND = 0.25
# So many seconds over the normal p99 is no longer normal.
OVER_NORMAL = 0.2


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that was done to a peer.

    Attributes:
        kind: what.
        began: when, seconds after the start of the load.
        ended: when it was undone: the process up again, or awake.
    """

    kind: str
    began: float
    ended: float


@dataclass(frozen=True, slots=True)
class Call:
    """One call, as its caller saw it.

    Attributes:
        command: its name.
        began: when, seconds after the start of the load.
        taken: seconds to its end; infinity: it had none.
        outcome: `answered`, `failed` (the caller was told an error) or `lost` (nothing came before its deadline).
    """

    command: str
    began: float
    taken: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Toll:
    """What a kind of fault cost.

    Attributes:
        faults: how often it was done.
        calls: how many began from the first of them to the next kind.
        lost: of those.
        failed: of those.
        twice: of those, how many had their work finished more than once.
        slowest: seconds of the slowest answer.
        recovery: seconds from a fault until the last call that it made slow, or that it cost, was over; at the longest.
    """

    faults: int
    calls: int
    lost: int
    failed: int
    twice: int
    slowest: float
    recovery: float

    def __str__(self) -> str:
        return (
            f"{self.faults} x, {self.calls} calls: {self.lost} lost, {self.failed} failed, {self.twice} done twice, "
            f"slowest {seconds(self.slowest)}, well after {seconds(self.recovery)}"
        )


@dataclass(slots=True)
class Course:
    """All of it.

    Attributes:
        name: of the peer.
        calls: in order of their begin.
        faults: in order of their begin.
        twice: commands whose work was finished more than once.
        timeout: seconds after which an answer is of no use.
    """

    name: str
    calls: list[Call]
    faults: list[Fault]
    twice: set[str] = field(default_factory=set)
    timeout: float = inf

    @property
    def calm(self) -> list[Call]:
        """The calls before the first fault, but for those of the first second."""
        first = min((fault.began for fault in self.faults), default=inf)
        return [call for call in self.calls if 1.0 <= call.began < first - IN_HAND]

    def normal(self, share: float) -> float:
        """Return a quantile of the calm calls, in seconds."""
        taken = sorted(call.taken for call in self.calm)
        return taken[min(len(taken) - 1, int(len(taken) * share))] if taken else inf

    def tolls(self) -> dict[str, Toll]:
        """Return what each kind of fault cost, in order of time."""
        limit = self.normal(0.99) + OVER_NORMAL
        kinds = list(dict.fromkeys(fault.kind for fault in self.faults))
        begins = [min(fault.began for fault in self.faults if fault.kind == kind) for kind in kinds]
        tolls = {}
        for kind, begin, end in zip(kinds, begins, [*begins[1:], inf], strict=True):
            moments = [fault.began for fault in self.faults if fault.kind == kind]
            calls = [call for call in self.calls if begin - IN_HAND <= call.began < end - IN_HAND]
            outcomes = Counter(call.outcome for call in calls)
            touched = [call for call in calls if call.outcome != "answered" or call.taken > limit]
            tolls[kind] = Toll(
                faults=len(moments),
                calls=len(calls),
                lost=outcomes["lost"],
                failed=outcomes["failed"],
                twice=sum(call.command in self.twice for call in calls),
                slowest=max((call.taken for call in calls if call.outcome == "answered"), default=inf),
                recovery=max((_after(call, moments, self.timeout) for call in touched), default=0.0),
            )
        return tolls


def _after(call: Call, moments: Iterable[float], timeout: float) -> float:
    """Return how long after the fault before it a call was over."""
    return (
        call.began
        + min(call.taken, timeout)
        - max(moment for moment in moments if moment <= call.began + IN_HAND)
    )


def seconds(value: float) -> str:
    """Return a duration as people read it."""
    if value == inf:
        return "never"
    return f"{value * 1e3:.0f} ms" if value < 1 else f"{value:.1f} s"


def calls_of(lines: Iterable[Mapping[str, Any]], zero: float, timeout: float, *, died: bool) -> list[Call]:
    """Read what a caller has noted.

    Args:
        zero: when the load began, on the clock of the notes.
        timeout: seconds that each call was given.
        died: it was killed: what was out then is nobody's loss.
    """
    began: dict[str, float] = {}
    calls = []
    for line in lines:
        command = line["command"]
        if line["what"] == "called":
            began[command] = line["began"] - zero
            continue
        outcome = "answered"
        if line["what"] == "failed":
            # Whatever the library calls it: its caller has waited to the end.
            outcome = "lost" if line["taken"] >= timeout - 0.5 else "failed"
        # A caller whose library holds one call at a time counts from when the call was to be made.
        begin = line["at"] - line["taken"] - zero
        began.pop(command, None)
        calls.append(Call(command, begin, line["taken"], outcome))
    if not died:
        calls += [Call(command, at, inf, "lost") for command, at in began.items()]
    return sorted(calls, key=lambda call: call.began)
