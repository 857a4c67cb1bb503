"""One call: what is asked, what has been tried, and how it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from roster._clock import boottime
from roster.bus import Message, tracing
from roster.bus.context import Handling, current_command
from roster.errors import Attempt, CallError, CallTimeoutError
from roster.orchestrator.budget import SOLO_AFTER
from roster.orchestrator.failover import Failover
from roster.orchestrator.query import Query
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.keyed import KeyedCall
    from roster.orchestrator.teamview import TeamView


@dataclass(slots=True, eq=False)
class Call:
    """One call from its beginning to its answer: what is asked, and what is known so far. `Failover` takes it there.

    Attributes:
        team: as the orchestrator sees it that makes it.
        query: which nodes will do.
        params: the input.
        deadline: on our own clock; for everything.
        attempt_timeout: seconds for one try, None for what the capability says.
        priority: 0 to 9, higher goes first.
        on_busy: `wait` for room, or `fail`.
        on_progress: called with each progress event.
        attempts: the tries that have ended, oldest first; one that brought the result stays last.
        began: when, on our own clock.
        keyed: what its idempotency key asks for, if it has one.
        revived: the dead letter that is sent again by it.
        above: the command whose handler makes it.
        span: how it is traced.
        last: how the last try failed.
        executions: how many tries may have started the work.
        strikes: the nodes that were gone before they answered.
    """

    team: TeamView
    query: Query
    params: Mapping[str, Any]
    deadline: float
    attempt_timeout: float | None
    priority: int
    on_busy: str
    on_progress: Callable[[NodeRecord, Mapping[str, Any]], None] | None
    attempts: list[Attempt] = field(default_factory=list)
    began: float = field(default_factory=boottime)
    keyed: KeyedCall | None = None
    revived: Message | None = None
    above: Handling | None = None
    span: tracing.Span | None = None
    last: CallError | None = None
    executions: int = 0
    strikes: list[str] = field(default_factory=list)

    async def run(self) -> Any:
        """Return the result.

        Raises:
            CallError: with the attempts made.
        """
        self.team.budget.earn()
        return await self._recorded(lambda: Failover(self).run())

    async def once(self, node: NodeRecord) -> Any:
        """Ask this node and no other; return its result.

        Raises:
            CallError: with the one attempt made.
        """
        return await self._recorded(lambda: Failover(self).once(node))

    async def _recorded(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do the work of this call as part of what it was made for, and as one span."""
        self.above = above = current_command.get()
        with tracing.call(
            self.query.capability, self.revived if above is None else above.message
        ) as self.span:
            try:
                return await work()
            finally:
                if self.span is not None:
                    self.span.tried(len(self.attempts))

    @property
    def alone(self) -> bool:
        """Whether its command must have its node for itself."""
        return self.revived is not None or len(self.strikes) >= SOLO_AFTER

    def too_late(self, last: CallError) -> CallTimeoutError:
        """Return what to say when the deadline has passed after a try that failed."""
        return CallTimeoutError(
            f"the deadline of {self.query.capability} passed while it was being sent again: {last.summary}",
            outcome=last.outcome,
        )

    def give_up(self, error: CallError) -> NoReturn:
        """Raise the final error, with all that is known."""
        error.attempts = tuple(self.attempts)
        if any(attempt.outcome == "unknown" for attempt in self.attempts):
            # Whatever became of the last try, an earlier one may have done the work.
            error.outcome = "unknown"
        raise error
