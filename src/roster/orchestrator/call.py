"""One call: pick a node, send, wait, and go to another when that one is gone, full or failing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from roster._clock import boottime
from roster.bus import Message, error_from, tracing
from roster.bus.context import TOO_LITTLE, WAY_BACK, Handling, current_command
from roster.bus.message import Kind
from roster.errors import (
    AllNodesBusyError,
    Attempt,
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    NoCapableNodesError,
    PassedOver,
    RemoteError,
)
from roster.errors import Outcome as Known
from roster.orchestrator.budget import MAX_ATTEMPTS, MAX_DEPTH, SOLO_AFTER, pause
from roster.orchestrator.contracts import Contract
from roster.orchestrator.vigil import Outstanding
from roster.orchestrator.waiting import Place
from roster.passport import Selector, VersionRange
from roster.registry import NodeRecord
from roster.routing.router import Outcome

if TYPE_CHECKING:
    from roster.orchestrator.keyed import KeyedCall
    from roster.orchestrator.orchestrator import Orchestrator

# What a node needs to notice a deadline by itself and say so, before its caller gives up on hearing of it.
_ANSWER_MARGIN = 0.25
_MAX_REFUSALS = 64
# How long a call waits for registered nodes that nobody can reach: what an agent needs to be started again.
_RETURN_WAIT = 3.0
# Seconds after which a call that waits looks by itself: an ejection ends by time alone, and that wakes nobody.
_LOOK_AGAIN = 1.0
_SOLO = {"solo": "true"}

logger = logging.getLogger("roster.orchestrator")


@dataclass(frozen=True, slots=True)
class Query:
    """Which nodes will do."""

    capability: str
    version: VersionRange | None = None
    selector: Selector | None = None
    namespace: str | None = None
    strategy: str | None = None
    sticky_key: str | None = None


@dataclass(slots=True, eq=False)
class Call:
    """One call from its beginning to its answer.

    What decides after a failed try is what is known of the work (`outcome`), never a guess:
    - `not_sent`, `refused`: it surely did not start. The next node gets it at once; that is not a retry.
    - the node is gone and the work may have started: sent again, unless the capability says `idempotent: false`, or the
      same command has struck three nodes already (it may be what kills them). After the second it is sent alone, to a
      node that is idle or takes nothing more until it is, so that its neighbours do not collect its strikes.
    - the node answered that it failed, and that trying again makes sense: sent again within the retry budget.
    - the node is silent past the try's time limit: sent again only if the capability says `idempotent: true`; nobody
      knows whether the silent one still works on it.

    With an idempotency key the rules are the same, but "again" is to the same node, as long as it is there (`KeyedCall`).

    A dead letter that is sent again (`revived`) is sent alone and starts once: it may do to its node what it did to others.
    """

    team: Orchestrator
    query: Query
    params: Mapping[str, Any]
    deadline: float
    attempt_timeout: float | None
    priority: int
    on_busy: str
    on_progress: Callable[[NodeRecord, Mapping[str, Any]], None] | None
    attempts: list[Attempt] = field(default_factory=list)
    began: float = field(default_factory=boottime)
    _tried: dict[str, str] = field(default_factory=dict)
    _place: Place | None = None
    _busy: AllNodesBusyError | None = None
    _executions: int = 0
    _sends: int = 0
    _strikes: list[str] = field(default_factory=list)
    _refusals: int = 0
    _paid: bool = False
    _alone_since: float | None = None
    _last: CallError | None = None
    _above: Handling | None = None
    _span: tracing.Span | None = None
    _trace: tracing.Trace | None = None
    _out: set[Outstanding] = field(default_factory=set)
    keyed: KeyedCall | None = None
    revived: Message | None = None

    async def run(self) -> Any:
        """Return the result.

        Raises:
            CallError: with the attempts made.
        """
        self.team.budget.earn()
        return await self._recorded(self._run_below)

    async def _recorded(self, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do the work of this call as part of what it was made for, and as one span."""
        self._above = above = current_command.get()
        with tracing.call(
            self.query.capability, self.revived if above is None else above.message
        ) as self._span:
            try:
                return await work()
            finally:
                if self._span is not None:
                    self._span.tried(len(self.attempts))

    async def _run_below(self) -> Any:
        if (above := self._above) is None:
            return await self._run()
        if len(above.message.ancestors) >= MAX_DEPTH:
            raise RemoteError(
                f"{self.query.capability} would be the {len(above.message.ancestors) + 1}th delegation in a row, at most "
                f"{MAX_DEPTH} are allowed: {' > '.join((*above.message.ancestors, above.node))}",
                code=Code.FAILED_PRECONDITION,
                outcome="not_sent",
            )
        loop = asyncio.get_running_loop()

        def stop(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is out any more
                loop.call_soon_threadsafe(self._stop, why)

        remove = above.on_stop(stop)
        try:
            return await self._run()
        finally:
            remove()

    async def _run(self) -> Any:
        while True:
            node = await self._choose()
            if node is None:
                continue
            contract = self.team.contracts.of(node, self.query.capability)
            try:
                contract.check(self.params)
                answer = await self._try(node, contract)
            except CallError as error:
                self._last = error
                self._paid = False
                await self._after(node, contract, error)
            else:
                if self._paid:
                    self.team.budget.refund()
                return answer.data.get("result")

    async def once(self, node: NodeRecord) -> Any:
        """Ask this node and no other; return its result.

        Raises:
            CallError: with the one attempt made.
        """
        return await self._recorded(partial(self._once, node))

    async def _once(self, node: NodeRecord) -> Any:
        try:
            contract = self.team.contracts.of(node, self.query.capability)
            contract.check(self.params)
            return (await self._try(node, contract)).data.get("result")
        except CallError as error:
            self._give_up(error)

    def _stop(self, why: str) -> None:
        """The command on whose behalf this call was made is over."""
        for outstanding in list(self._out):
            outstanding.settle(_stopped(why, outstanding.known))

    # -- choosing -------------------------------------------------------------------------------------------------

    async def _choose(self) -> NodeRecord | None:
        """Return the node for the next try, or None to look again (after having waited for something to change)."""
        if self._above is not None and self._above.stopped is not None:
            self._give_up(_stopped(self._above.stopped, "not_sent"))
        if self._tried:
            self._forget_reborn()
        if self.keyed is not None:
            return await self.keyed.choose(self._excluded())
        return await self.choose_freely()

    async def choose_freely(self) -> NodeRecord | None:
        """Return the best node for the next try, whatever the key, or None to look again."""
        if self._alone:
            return await self._choose_idle()
        exclude = self._excluded()
        node = None
        if self._executions and (failing := self.team.router.failing):
            # One try has failed: the next had better not meet another node that failed just now.
            node = self.team.choose(self.query, {*exclude, *failing})
        if node is None:
            node = self.team.choose(self.query, exclude)
        if node is not None:
            self._busy = None
            return node
        if self._busy is not None and self._place is not None:
            # It was woken, and the room was another's: the reasons have not changed.
            if await self._wait(self._busy):
                return None
            self._busy = None
        try:
            self.team.refuse(self.query, exclude)
        except AllNodesBusyError as error:
            self._busy = error
            await self._wait(error)
        except NoCapableNodesError as error:
            self._busy = None
            await self._wait_for_return(error)
        return None

    @property
    def _alone(self) -> bool:
        return self.revived is not None or len(self._strikes) >= SOLO_AFTER

    def _excluded(self, besides: str = "") -> Collection[str]:
        above = self._above
        if above is None and not besides:
            return self._tried
        # A node that waits for this very call must not be asked to serve it: that is a loop.
        ancestors = (*above.message.ancestors, above.node) if above is not None else ()
        return {*self._tried, *ancestors, besides}

    def other_node(self, node: NodeRecord) -> NodeRecord | None:
        """Return a node with room that could have this work besides `node`, or None."""
        if self.keyed is not None or self.revived is not None:
            return None  # nobody else may have it as long as this one is there
        if self._alone:
            idle = self._idle(self._excluded(node.key))
            return self.team.rng.choice(idle) if idle else None
        return self.team.choose(self.query, self._excluded(node.key))

    @property
    def last(self) -> CallError | None:
        """How the last try failed."""
        return self._last

    def tried(self, node: NodeRecord) -> None:
        """Leave this incarnation out as long as there are others."""
        self._tried[node.key] = node.uid

    def _pass_over(self, node: NodeRecord) -> None:
        """This incarnation is gone."""
        self._tried[node.key] = node.uid
        self._refusals += 1

    def _forget_reborn(self) -> None:
        """A node that came back under a new uid has not been tried."""
        for key, uid in list(self._tried.items()):
            node = self.team.node(key)
            if node is not None and node.uid != uid:
                del self._tried[key]

    def _forget_full(self) -> None:
        """Those that refused for want of room are full like all others, and may be the first to have some again."""
        if self._refusals > _MAX_REFUSALS // 2:
            return  # they have some again and again, and never when the call arrives
        for key in list(self._tried):
            load = self.team.router.load(key)
            last = next((one for one in reversed(self.attempts) if one.node == key), None)
            refused = last is not None and last.code is Code.RESOURCE_EXHAUSTED and last.outcome == "refused"
            if refused and load is not None and load.active >= load.capacity:
                del self._tried[key]

    def _idle(self, exclude: Collection[str]) -> list[NodeRecord]:
        """Return the candidates that do nothing else, as far as this caller knows."""
        rows = self.team.rows(self.query, exclude)
        keys = [
            row.node for row in rows if row.candidate and row.load == 0 and row.state in ("ready", "busy")
        ]
        return [node for key in keys if (node := self.team.node(key)) is not None]

    async def _choose_idle(self) -> NodeRecord | None:
        """Return a node that does nothing else, or one that soon will, or wait for one."""
        exclude = self._excluded()
        if idle := self._idle(exclude):
            return self.team.rng.choice(idle)
        # It takes nothing more until what it has in hand has ended and this has been done.
        if (node := self.team.choose(self.query, exclude)) is not None:
            return node
        try:
            self.team.refuse(self.query, exclude)
        except AllNodesBusyError as error:
            await self._wait(error)
        except NoCapableNodesError as error:
            if self._last is None:
                raise
            # One that leaves, or whose lease ended with those of all others, may be back in a moment.
            left = self.deadline - boottime()
            if left <= 0 or all(row.state == "offline" for row in error.passed_over):
                self._give_up(self._never_alone(self._last))
            await asyncio.sleep(min(left, pause(1, self.team.rng)))
            # Those that refused had no room, and may have some now.
            self._tried = {key: uid for key, uid in self._tried.items() if key in self._strikes}
        return None

    async def _wait(self, error: AllNodesBusyError) -> bool:
        """Wait for room; return whether the call was woken."""
        left = self.deadline - boottime()
        if left <= 0 or (self.on_busy == "fail" and not self._alone):
            self._give_up(
                AllNodesBusyError(
                    error.summary,
                    capability=self.query.capability,
                    retry_after=error.retry_after,
                    passed_over=error.passed_over,
                )
            )
        if self._place is None:
            self._place = self.team.waiting.place(self.priority)
        if self._tried:
            self._forget_full()
        question = (self.query, frozenset(self._excluded()))
        self.team.inquiries.waits(self.query)
        try:
            return await self.team.waiting.wait(
                self.query.capability, self._place, min(left, _LOOK_AGAIN), question
            )
        finally:
            self.team.inquiries.over(self.query)

    async def _wait_for_return(self, error: NoCapableNodesError) -> None:
        """Nobody is left. Wait a little and look again if some may take it yet, or come back to the bus; else say so."""
        left = self.deadline - boottime()
        alive = any(
            row.state in ("ready", "busy", "unknown") and row.node in self._tried for row in error.passed_over
        )
        now = boottime()
        if self._alone_since is None:
            self._alone_since = now
        # Registered but not on the bus: it is being started again, or it never serves commands.
        hopeless = isinstance(self._last, BusUnavailableError) and now - self._alone_since >= _RETURN_WAIT
        # Those who live and are cut off from the bus come back with it; that costs no try.
        cut_off = self.on_busy == "wait" and any(self._is_cut_off(row) for row in error.passed_over)
        again = cut_off or (self._tried and alive and not hopeless and self._refusals < _MAX_REFUSALS)
        if left <= 0 or not again:
            if self._last is not None and (
                left <= 0
                or not isinstance(self._last, (BusUnavailableError, DeliveryError))
                or "broker" in self._last.details
            ):
                self._give_up(self._last)
            self._give_up(
                NoCapableNodesError(
                    error.summary, capability=self.query.capability, passed_over=error.passed_over
                )
            )
        await asyncio.sleep(min(left, pause(self._refusals, self.team.rng)))
        self._tried.clear()

    def _is_cut_off(self, row: PassedOver) -> bool:
        node = self.team.node(row.node)
        return node is not None and row.state == "draining" and node.cut_off

    # -- one try --------------------------------------------------------------------------------------------------

    async def _try(self, node: NodeRecord, contract: Contract) -> Message:
        """Send to one node and return its result message; every other end is a `CallError`."""
        team, router = self.team, self.team.router
        started = boottime()
        left = self.deadline - started
        if left < TOO_LITTLE:
            if self._last is not None:
                raise self._too_late(self._last)
            raise CallTimeoutError(f"{self.query.capability} had no time left to be sent", outcome="not_sent")
        limit = min(value for value in (left, contract.timeout, self.attempt_timeout) if value is not None)
        # Where the caller's own deadline leaves no margin, the node has so much less of it.
        message = self._message(node, min(limit, left - min(WAY_BACK, left / 10)))
        router.sent(node.key, uid=node.uid)
        outcome: Outcome = "cancelled"
        load: tuple[int, int, int, int] | None = None
        try:
            exchange = await tracing.send(
                team.bus, node.mindbus_queue, message, on_progress=self._progress(node), within=self._span
            )
            outstanding = Outstanding(exchange, message, node, self, contract, started)
            try:
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
                if self.keyed is not None:
                    self.keyed.done(node)
                self._note(node, started, None)
                return answer
            error = error_from(answer)
            outcome = _blame(error)
            raise error
        except CallError as error:
            if load is None and isinstance(error, (BusUnavailableError, DeliveryError)):
                # The bus says that it is gone, which the registry cannot know yet.
                team.suspects.mark(node.key, node.uid, "its connection was lost just now")
                if self.keyed is not None:
                    self.keyed.cut = True
            self._note(node, started, error)
            raise
        finally:
            router.done(node.key, outcome, load=load, duration=boottime() - started, uid=node.uid)
            team.room(node)

    def _note(self, node: NodeRecord, started: float, error: CallError | None) -> None:
        """Write a try down; the one that brought the result stays last."""
        attempt = Attempt(
            node.key,
            started - self.began,
            boottime() - started,
            error="" if error is None else error.summary or type(error).__name__,
            code=None if error is None else error.code,
            outcome=None if error is None else error.outcome,
        )
        self.attempts.append(attempt)
        if len(self.attempts) > 1 and not self.attempts[-2].error:
            self.attempts[-2:] = self.attempts[:-3:-1]

    async def _answer(self, outstanding: Outstanding, limit: float) -> Message:
        """Wait for the answer; past the limit, or when the caller goes away, the command is taken back."""
        exchange, vigil = outstanding.exchange, self.team.vigil
        self._out.add(outstanding)
        vigil.watch(outstanding)
        if self._above is not None and self._above.stopped is not None:
            self._stop(self._above.stopped)  # while the command was being handed over
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
                f"no answer to {self.query.capability} within {limit:.3f} s",
                outcome=outstanding.known,
                retryable=True,
            ) from None
        except asyncio.CancelledError:
            if self.keyed is None or not self.keyed.leaves_it_running:
                exchange.cancel()
            raise
        finally:
            self._out.discard(outstanding)
            vigil.forget(outstanding, duration)

    async def elsewhere(self, node: NodeRecord) -> tuple[NodeRecord, Message] | None:
        """Send the same work to another node while `node` is silent; return its answer, None if nobody has room.

        Raises:
            CallError: the other one failed, too.
        """
        other = self.other_node(node)
        if other is None:
            return None
        contract = self.team.contracts.of(other, self.query.capability)
        return other, await self._try(other, contract)

    def _message(self, node: NodeRecord, limit: float) -> Message:
        above, revived = self._above, self.revived
        ancestors: tuple[str, ...] = () if revived is None else revived.ancestors
        if above is not None:
            ancestors = (*above.message.ancestors, above.node)
        if (trace := self._trace) is None:
            span = self._span
            parent = revived if above is None else above.message
            trace = self._trace = tracing.trace_below(parent) if span is None else span.trace
        return Message.command(
            self.query.capability,
            self.params,
            source=self.team.source if self.keyed is None else self.keyed.source,
            timeout=limit,
            priority=self.priority,
            uid=node.uid,
            key="" if self.keyed is None else self.keyed.key,
            ancestors=ancestors,
            traceparent=trace.traceparent,
            tracestate=trace.tracestate,
            extensions=self._extensions(),
        )

    def _extensions(self) -> dict[str, str] | None:
        """Mark a repeated try with its number, so that a node can tell it from the first, and a solo one as such."""
        self._sends += 1
        marks = {} if self.revived is None else dict(self.revived.extensions)
        marks.pop("attempt", None)
        if self._sends > 1:
            marks["attempt"] = str(self._sends)
        return (marks | _SOLO if self._alone else marks) or None

    def _progress(self, node: NodeRecord) -> Callable[[Message], None] | None:
        listener = self.on_progress
        if listener is None:
            return None
        return lambda message: listener(node, message.data)

    # -- after a failed try ---------------------------------------------------------------------------------------

    async def _after(self, node: NodeRecord, contract: Contract, error: CallError) -> None:
        """Return if another try makes sense, else raise the final error."""
        left = self.deadline - boottime()
        if self.team.closed or error.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.CANCELLED):
            self._give_up(error)
        refused = error.retryable and error.outcome in ("not_sent", "refused")
        if self.keyed is not None and refused and await self.keyed.refused(node, error):
            return
        if left <= 0 or (isinstance(error, CallTimeoutError) and left < WAY_BACK + TOO_LITTLE):
            error = self._never_alone(error)
            plain = isinstance(error, (CallTimeoutError, AllNodesBusyError))
            self._give_up(error if plain else self._too_late(error))
        if self.keyed is None:
            self.tried(node)
        else:
            await self.keyed.failed(node)
        if error.outcome in ("not_sent", "refused"):
            self._refusals += 1
            if not error.retryable or self._refusals > _MAX_REFUSALS:
                self._give_up(error)
            return
        self._executions += 1
        self._alone_since = None
        if contract.idempotent is False or self.revived is not None:
            self._give_up(error)
        if isinstance(error, DeliveryError):
            if error.details.get("stopped"):
                return  # its node lives, and stopped it for another reason: that is no strike
            self._strikes.append(node.key)
            if len(self._strikes) >= MAX_ATTEMPTS:
                await self._bury(node, error)
            return
        silent = isinstance(error, CallTimeoutError) and not error.details.get("stopped")
        if (
            not error.retryable
            or self._executions >= MAX_ATTEMPTS
            or (silent and contract.idempotent is not True)
        ):
            self._give_up(error)
        if not self.team.budget.spend():
            self._give_up(error)
        self._paid = True
        await asyncio.sleep(min(left, pause(self._executions, self.team.rng)))

    async def _bury(self, node: NodeRecord, error: CallError) -> NoReturn:
        """It may be what kills its nodes: nobody gets it again."""
        text = (
            f"{self.query.capability} may have started on {len(self._strikes)} nodes, and each of them was gone before it "
            f"answered ({', '.join(self._strikes)}): it is not tried again"
        )
        logger.error("%s", text, extra={"node": node.key, "capability": self.query.capability})
        try:
            await self.team.bus.bury(self._message(node, max(0.0, self.deadline - boottime())), text)
        except CallError as failure:
            logger.error("the command could not be kept as a dead letter: %s", failure)
        self._give_up(DeliveryError(text, code=Code.ABORTED, outcome="unknown", retryable=False))

    def _never_alone(self, error: CallError) -> CallError:
        """Return what to say of a last try: one that waited in vain for its node to be idle had no room."""
        if not (self._alone and error.outcome == "refused" and isinstance(error, CallTimeoutError)):
            return error
        return AllNodesBusyError(
            f"no node that can do {self.query.capability} was idle in time, and this must be done alone",
            capability=self.query.capability,
            passed_over=self.team.rows(self.query, self._excluded()),
        )

    def _too_late(self, last: CallError) -> CallTimeoutError:
        return CallTimeoutError(
            f"the deadline of {self.query.capability} passed while it was being sent again: {last.summary}",
            outcome=last.outcome,
        )

    def _give_up(self, error: CallError) -> NoReturn:
        error.attempts = tuple(self.attempts)
        if any(attempt.outcome == "unknown" for attempt in self.attempts):
            # Whatever became of the last try, an earlier one may have done the work.
            error.outcome = "unknown"
        raise error


def _stopped(why: str, outcome: Known) -> CallCancelledError:
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
