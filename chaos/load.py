"""Commands at a steady pace, and what came back of them."""

from __future__ import annotations

import asyncio
import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from roster import CallAnswer, CallError, Orchestrator
from roster._clock import boottime


@dataclass(slots=True)
class Outcome:
    """What came back.

    Attributes:
        answers: by command.
        errors: by command.
        answered: how often each command was answered to its caller.
        latencies: seconds from call to answer of commands answered at the first try.
        rerouted: seconds from call to answer of the others.
        gaps: seconds from the end of a failed try to the begin of the next.
        began: when each command was called, CLOCK_BOOTTIME seconds.
    """

    answers: dict[str, CallAnswer] = field(default_factory=dict)
    errors: dict[str, CallError] = field(default_factory=dict)
    answered: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    rerouted: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    began: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def twice(self) -> int:
        """Commands answered more than once to their caller."""
        return sum(count > 1 for count in self.answered.values())

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
    **options: Any,
) -> Outcome:
    """Send `count` commands, at most `in_flight` at once, and return what came back.

    Args:
        seconds: how long the work of one command takes.
        rate: commands a second at most; None: as fast as answers come.
        options: for `Orchestrator.ask`.
    """
    outcome = Outcome()
    room = asyncio.Semaphore(in_flight)
    began = boottime()

    async def one(number: int) -> None:
        command = f"{prefix}{number}"
        started = outcome.began[command] = boottime()
        try:
            answer = await orchestrator.ask(
                capability,
                {"command": command, "seconds": seconds},
                namespace="chaos",
                **{"timeout": 30.0, **options},
            )
        except CallError as error:
            outcome.errors[command] = error
            return
        finally:
            room.release()
        outcome.answered[command] += 1
        outcome.answers[command] = answer
        taken = boottime() - started
        if len(answer.attempts) == 1:
            outcome.latencies.append(taken)
        else:
            outcome.rerouted.append(taken)
            for before, after in zip(answer.attempts, answer.attempts[1:], strict=False):
                outcome.gaps.append(after.started - before.started - before.duration)

    async with asyncio.TaskGroup() as group:
        for number in range(count):
            if rate is not None:
                late = began + number / rate - boottime()
                if late > 0:
                    await asyncio.sleep(late)
            await room.acquire()
            group.create_task(one(number))
    outcome.seconds = boottime() - began
    return outcome
