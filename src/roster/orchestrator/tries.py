"""The tries of one call: the command is sent to one node, its answer awaited, and what came of it written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus import Message, error_from, tracing
from roster.bus.context import TOO_LITTLE, WAY_BACK
from roster.bus.failure import UNHEARD, says
from roster.bus.message import Kind
from roster.errors import (
    Attempt,
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
)
from roster.errors import Outcome as Known
from roster.orchestrator.contracts import Contract
from roster.orchestrator.vigil import Outstanding
from roster.registry import NodeRecord
from roster.routing.router import Outcome

if TYPE_CHECKING:
    from roster.orchestrator.call import Call
    from roster.orchestrator.candidates import Candidates

# What a node needs to notice a deadline by itself and say so, before its caller gives up on hearing of it.
_ANSWER_MARGIN = 0.25
_SOLO = {"solo": "true"}


class Tries:
    """The part of one call that sends, to one node a try."""

    __slots__ = ("_call", "_candidates", "_count", "_out", "_trace")

    def __init__(self, call: Call, candidates: Candidates) -> None:
        self._call = call
        self._candidates = candidates
        self._count = 0
        self._out: set[Outstanding] = set()
        self._trace: tracing.Trace | None = None

    async def send(self, node: NodeRecord, contract: Contract) -> Message:
        """Send to one node and return its result message.

        Raises:
            CallError: every other end.
        """
        call, team = self._call, self._call.team
        router = team.router
        started = boottime()
        left = call.deadline - started
        if left < TOO_LITTLE:
            if call.last is not None:
                raise call.too_late(call.last)
            raise CallTimeoutError(f"{call.query.capability} had no time left to be sent", outcome="not_sent")
        limit = min(value for value in (left, contract.timeout, call.attempt_timeout) if value is not None)
        # Where the caller's own deadline leaves no margin, the node has so much less of it.
        message = self.message(node, min(limit, left - min(WAY_BACK, left / 10)))
        router.sent(node.key, uid=node.uid)
        outcome: Outcome = "cancelled"
        load: tuple[int, int, int, int] | None = None
        try:
            exchange = await tracing.send(
                team.bus, node.mindbus_queue, message, on_progress=self._progress(node), within=call.span
            )
            outstanding = Outstanding(exchange, message, node, self, contract, started)
            try:
                # Handing it over may have had to wait for the bus.
                left = call.deadline - boottime()
                answer = await self._answer(outstanding, min(left, limit + _ANSWER_MARGIN))
            except CallTimeoutError:
                outcome = "timeout"
                raise
            if outstanding.answered_by:
                # The node that answered has its own account of it; this one was silent.
                outcome = "timeout"
                note = f"silent; {outstanding.answered_by} answered in its place"
                self._note(node, started, DeliveryError(note, outcome="unknown"))
                return answer
            if answer.load is not None:
                load = (answer.load.active, answer.load.mine, answer.load.capacity, answer.load.seq)
                team.suspects.forget(node.key)
            if answer.kind is Kind.RESULT:
                outcome = "ok"
                if call.keyed is not None:
                    call.keyed.done(node)
                self._note(node, started, None)
                return answer
            error = error_from(answer)
            outcome = _blame(error)
            raise error
        except CallError as error:
            if load is None and isinstance(error, (BusUnavailableError, DeliveryError)):
                # What was out on our own line when that was lost says nothing of the node.
                if not (isinstance(error, DeliveryError) and says(error, UNHEARD)):
                    # The bus says that it is gone, which the registry cannot know yet.
                    team.suspects.mark(node.key, node.uid, "its connection was lost just now")
                if call.keyed is not None:
                    call.keyed.cut = True
            self._note(node, started, error)
            raise
        finally:
            router.done(node.key, outcome, load=load, duration=boottime() - started, uid=node.uid)
            team.room(node)

    async def elsewhere(self, node: NodeRecord) -> tuple[NodeRecord, Message] | None:
        """Send the same work to another node while `node` is silent; return its answer, None if nobody has room.

        Raises:
            CallError: the other one failed, too.
        """
        other = self.other_node(node)
        if other is None:
            return None
        contract = self._call.team.contracts.of(other, self._call.query.capability)
        return other, await self.send(other, contract)

    def other_node(self, node: NodeRecord) -> NodeRecord | None:
        """Return a node with room that could have this work besides `node`, or None."""
        return self._candidates.besides(node)

    def stop(self, why: str) -> None:
        """End what is out, since the work that it was done for is over."""
        for outstanding in list(self._out):
            outstanding.settle(stopped(why, outstanding.known))

    async def _answer(self, outstanding: Outstanding, limit: float) -> Message:
        """Wait for the answer; past the limit, or when the caller goes away, the command is taken back."""
        call, exchange, vigil = self._call, outstanding.exchange, self._call.team.vigil
        self._out.add(outstanding)
        vigil.watch(outstanding)
        if call.above is not None and call.above.stopped is not None:
            self.stop(call.above.stopped)  # while the command was being handed over
        duration: float | None = None
        try:
            async with asyncio.timeout(limit):
                answer = await exchange.answer
            if answer.kind is Kind.RESULT:
                duration = boottime() - outstanding.sent
            return answer
        except TimeoutError:
            exchange.cancel()
            raise CallTimeoutError(
                f"no answer to {call.query.capability} within {limit:.3f} s",
                outcome=outstanding.known,
                retryable=True,
            ) from None
        except asyncio.CancelledError:
            if call.keyed is None or not call.keyed.leaves_it_running:
                exchange.cancel()
            raise
        finally:
            self._out.discard(outstanding)
            vigil.forget(outstanding, duration)

    def _note(self, node: NodeRecord, started: float, error: CallError | None) -> None:
        """Write a try down; the one that brought the result stays last."""
        call, attempts = self._call, self._call.attempts
        attempt = Attempt(
            node.key,
            started - call.began,
            boottime() - started,
            error="" if error is None else error.summary or type(error).__name__,
            code=None if error is None else error.code,
            outcome=None if error is None else error.outcome,
        )
        attempts.append(attempt)
        if len(attempts) > 1 and not attempts[-2].error:
            attempts[-2:] = attempts[:-3:-1]

    # -- the command ----------------------------------------------------------------------------------------------

    def message(self, node: NodeRecord, limit: float) -> Message:
        """Return the command as the next try sends it, with `limit` seconds for it."""
        call = self._call
        above, revived, keyed = call.above, call.revived, call.keyed
        ancestors: tuple[str, ...] = () if revived is None else revived.ancestors
        if above is not None:
            ancestors = (*above.message.ancestors, above.node)
        if (trace := self._trace) is None:
            span = call.span
            parent = revived if above is None else above.message
            trace = self._trace = tracing.trace_below(parent) if span is None else span.trace
        return Message.command(
            call.query.capability,
            call.params,
            source=call.team.source if keyed is None else keyed.source,
            timeout=limit,
            priority=call.priority,
            uid=node.uid,
            key="" if keyed is None else keyed.key,
            ancestors=ancestors,
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
            extensions=self._marks(),
        )

    def _marks(self) -> dict[str, str] | None:
        """Mark a repeated try with its number, so that a node can tell it from the first, and a solo one as such."""
        self._count += 1
        revived = self._call.revived
        marks = {} if revived is None else dict(revived.extensions)
        marks.pop("attempt", None)
        if self._count > 1:
            marks["attempt"] = str(self._count)
        return (marks | _SOLO if self._call.alone else marks) or None

    def _progress(self, node: NodeRecord) -> Callable[[Message], None] | None:
        listener = self._call.on_progress
        if listener is None:
            return None
        return lambda message: listener(node, message.data)


def stopped(why: str, outcome: Known) -> CallCancelledError:
    """Return how a call ends whose purpose is over."""
    return CallCancelledError(f"stopped, because the work it was done for was: {why}", outcome=outcome)


def _blame(error: CallError) -> Outcome:
    """Say for the router how the node did: an error that its handler raised on purpose is an answer like any other."""
    if error.outcome in ("not_sent", "refused"):
        return "refused"
    if error.code is Code.DEADLINE_EXCEEDED:
        return "timeout"
    if error.code is Code.CANCELLED:
        return "cancelled"
    return "failed" if error.retryable else "ok"
