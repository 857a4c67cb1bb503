"""Commands at a steady pace, and what came back of them."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from roster import CallAnswer, CallError, Orchestrator
from roster._clock import boottime

_TICK = 0.005


class Notes(Protocol):
    """Is told of each call as it begins and as it ends."""

    def called(self, command: str, began: float) -> None: ...

    def answered(self, command: str, answer: CallAnswer, taken: float) -> None: ...

    def failed(self, command: str, error: CallError, taken: float) -> None: ...


@dataclass(slots=True)
class Outcome:
    """What came back.

    Attributes:
        answers: by command.
        errors: by command.
        times: how often each command was answered to its caller.
        latencies: seconds from call to answer of commands answered at the first try.
        rerouted: seconds from call to answer of the others.
        gaps: seconds from the end of a failed try to the begin of the next.
        began: when each command was called, CLOCK_BOOTTIME seconds.
        taken: seconds from call to answer or error, by command.
        seconds: that it all took.
        stall: seconds that the caller's own process got no turn, at the longest: no answer can be told sooner than that.
    """

    answers: dict[str, CallAnswer] = field(default_factory=dict)
    errors: dict[str, CallError] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    rerouted: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)
    taken: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    stall: float = 0.0

    def called(self, command: str, began: float) -> None:
        """A call begins."""
        self.began[command] = began

    def answered(self, command: str, answer: CallAnswer, taken: float) -> None:
        """A call has brought its result."""
        self.times[command] += 1
        self.answers[command] = answer
        self.taken[command] = taken
        if len(answer.attempts) == 1:
            self.latencies.append(taken)
            return
        self.rerouted.append(taken)
        for before, after in zip(answer.attempts, answer.attempts[1:], strict=False):
            self.gaps.append(after.started - before.started - before.duration)

    def failed(self, command: str, error: CallError, taken: float) -> None:
        """A call has failed."""
        self.errors[command] = error
        self.taken[command] = taken

    def merged(self, other: Outcome) -> Outcome:
        """Return what came back to two callers, whose commands have different names."""
        return Outcome(
            self.answers | other.answers,
            self.errors | other.errors,
            self.times + other.times,
            self.latencies + other.latencies,
            self.rerouted + other.rerouted,
            self.gaps + other.gaps,
            self.began | other.began,
            self.taken | other.taken,
            max(self.seconds, other.seconds),
            max(self.stall, other.stall),
        )

    @property
    def lost(self) -> int:
        """Commands that were called and not answered."""
        return len(self.began) - len(self.answers)

    @property
    def slowest(self) -> float:
        """Seconds of the slowest answer."""
        return max([*self.latencies, *self.rerouted], default=0.0)

    @property
    def twice(self) -> int:
        """Commands answered more than once to their caller."""
        return sum(count > 1 for count in self.times.values())

    def quantile(self, share: float) -> float:
        """Return a quantile of the undisturbed latencies, in seconds."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0

    @property
    def median(self) -> float:
        """The median of the undisturbed latencies, in seconds."""
        return statistics.median(self.latencies) if self.latencies else 0.0


async def send(
    orchestrator: Orchestrator,
    count: int,
    *,
    in_flight: int,
    seconds: float,
    rate: float | None = None,
    capability: str = "work",
    prefix: str = "c",
    note: Notes | None = None,
    **options: Any,
) -> Outcome:
    """Send `count` commands, at most `in_flight` at once, and return what came back.

    Args:
        seconds: how long the work of one command takes.
        rate: commands a second at most; None: as fast as answers come.
        note: is told of each call, too.
        options: for `Orchestrator.ask`.
    """
    outcome = Outcome()
    told: list[Notes] = [outcome] if note is None else [outcome, note]
    room = asyncio.Semaphore(in_flight)
    began = boottime()

    async def one(number: int) -> None:
        command = f"{prefix}{number}"
        started = boottime()
        for each in told:
            each.called(command, started)
        try:
            answer = await orchestrator.ask(
                capability,
                {"command": command, "seconds": seconds},
                namespace="chaos",
                **{"timeout": 30.0, **options},
            )
        except CallError as error:
            for each in told:
                each.failed(command, error, boottime() - started)
        else:
            for each in told:
                each.answered(command, answer, boottime() - started)
        finally:
            room.release()

    ticking = asyncio.create_task(_tick(outcome))
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            if rate is not None:
                late = began + number / rate - boottime()
                if late > 0:
                    await asyncio.sleep(late)
            await room.acquire()
            group.create_task(one(number))
    ticking.cancel()
    outcome.seconds = boottime() - began
    return outcome


async def _tick(outcome: Outcome) -> None:
    """Note how late this process gets its turn."""
    while True:
        before = boottime()
        await asyncio.sleep(_TICK)
        outcome.stall = max(outcome.stall, boottime() - before - _TICK)
