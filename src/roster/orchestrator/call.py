"""One call: pick a node, send, wait, and go to another when that one is gone, full or failing."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from roster._clock import boottime
from roster.bus import Message, error_from
from roster.bus.base import Exchange
from roster.bus.context import current_command
from roster.bus.message import Kind
from roster.errors import (
    AllNodesBusyError,
    Attempt,
    BusUnavailableError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    NoCapableNodesError,
)
from roster.orchestrator.budget import MAX_ATTEMPTS, pause
from roster.orchestrator.contracts import Contract
from roster.orchestrator.waiting import Place
from roster.passport import Selector, VersionRange
from roster.registry import NodeRecord
from roster.routing.router import Outcome

if TYPE_CHECKING:
    from roster.orchestrator.orchestrator import Orchestrator

# What a node needs to notice a deadline by itself and say so, before its caller gives up on hearing of it.
_ANSWER_MARGIN = 0.25
_MAX_REFUSALS = 64


@dataclass(frozen=True, slots=True)
class Query:
    """Which nodes will do."""

    capability: str
    version: VersionRange | None = None
    selector: Selector | None = None
    namespace: str | None = None
    strategy: str | None = None
    sticky_key: str | None = None


@dataclass(slots=True)
class Call:
    """One call from its beginning to its answer.

    What decides after a failed try is what is known of the work (`outcome`), never a guess:
    - `not_sent`, `refused`: it surely did not start. The next node gets it at once; that is not a retry.
    - the node is gone and the work may have started: sent again, unless the capability says `idempotent: false`, or the
      same command has struck three nodes already (it may be what kills them).
    - the node answered that it failed, and that trying again makes sense: sent again within the retry budget.
    - the node is silent past the try's time limit: sent again only if the capability says `idempotent: true`; nobody
      knows whether the silent one still works on it.
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
    _executions: int = 0
    _deaths: int = 0
    _refusals: int = 0
    _last: CallError | None = None

    async def run(self) -> Any:
        """Return the result.

        Raises:
            CallError: with the attempts made.
        """
        self.team.budget.earn()
        rng = self.team.rng
        while True:
            node = await self._choose(rng)
            if node is None:
                continue
            contract = self.team.contracts.of(node, self.query.capability)
            try:
                contract.check(self.params)
                return await self._try(node, contract)
            except CallError as error:
                self._last = error
                await self._after(node, contract, error, rng)

    async def once(self, node: NodeRecord) -> Any:
        """Ask this node and no other; return its result.

        Raises:
            CallError: with the one attempt made.
        """
        try:
            contract = self.team.contracts.of(node, self.query.capability)
            contract.check(self.params)
            return await self._try(node, contract)
        except CallError as error:
            self._give_up(error)

    # -- choosing -------------------------------------------------------------------------------------------------

    async def _choose(self, rng: random.Random) -> NodeRecord | None:
        """Return the node for the next try, or None to look again (after having waited for something to change)."""
        query = self.query
        if self._tried:
            self._forget_reborn()
        handling = current_command.get()
        exclude: Any = self._tried
        if handling is not None:
            # A node that waits for this very call must not be asked to serve it: that is a loop.
            exclude = {*self._tried, *handling.message.ancestors, handling.node}
        try:
            return self.team.choose(query, exclude)
        except AllNodesBusyError as error:
            await self._wait_for_room(error)
        except NoCapableNodesError as error:
            await self._wait_for_return(error, rng)
        return None

    def _forget_reborn(self) -> None:
        """A node that came back under a new uid has not been tried."""
        for key, uid in list(self._tried.items()):
            node = self.team.node(key)
            if node is not None and node.uid != uid:
                del self._tried[key]

    async def _wait_for_room(self, error: AllNodesBusyError) -> None:
        left = self.deadline - boottime()
        if self.on_busy == "fail" or left <= 0:
            raise AllNodesBusyError(
                f"all nodes with {self.query.capability} are busy",
                capability=self.query.capability,
                retry_after=error.retry_after,
                passed_over=error.passed_over,
                attempts=self.attempts,
            )
        waiting = self.team.waiting
        if self._place is None:
            self._place = waiting.place(self.priority)
        # Bounded: a wake-up can be missed when room appears by way of time alone (an ejection that ends).
        await waiting.wait(self.query.capability, self._place, min(left, 1.0))

    async def _wait_for_return(self, error: NoCapableNodesError, rng: random.Random) -> None:
        """Nobody is left. If some were tried and may take it yet, wait a little and try them again; else say so."""
        left = self.deadline - boottime()
        alive = any(
            row.state in ("ready", "busy", "unknown") and row.node in self._tried for row in error.passed_over
        )
        if not self._tried or not alive or self._refusals >= _MAX_REFUSALS or left <= 0:
            if self._last is not None and (
                left <= 0 or not isinstance(self._last, (BusUnavailableError, DeliveryError))
            ):
                self._give_up(self._last)
            raise NoCapableNodesError(
                error.summary,
                capability=self.query.capability,
                passed_over=error.passed_over,
                attempts=self.attempts,
            )
        await asyncio.sleep(min(left, pause(self._refusals, rng)))
        self._tried.clear()

    # -- one try --------------------------------------------------------------------------------------------------

    async def _try(self, node: NodeRecord, contract: Contract) -> Any:
        """Send to one node and return its result; every other end is a `CallError`."""
        team, router = self.team, self.team.router
        started = boottime()
        left = self.deadline - started
        if left <= 0:
            raise CallTimeoutError(f"{self.query.capability} had no time left to be sent", outcome="not_sent")
        limit = min(value for value in (left, contract.timeout, self.attempt_timeout) if value is not None)
        message = self._message(node, limit)
        router.sent(node.key, uid=node.uid)
        outcome: Outcome = "cancelled"
        load: tuple[int, int, int, int] | None = None
        try:
            exchange = await team.bus.send(node.mindbus_queue, message, on_progress=self._progress(node))
            try:
                answer = await self._answer(exchange, limit if limit >= left else limit + _ANSWER_MARGIN)
            except (DeliveryError, CallTimeoutError):
                outcome = "failed"
                raise
            if answer.load is not None:
                load = (answer.load.active, answer.load.mine, answer.load.capacity, answer.load.seq)
            if answer.kind is Kind.RESULT:
                outcome = "ok"
                self.attempts.append(Attempt(node.key, started - self.began, boottime() - started))
                return answer.data.get("result")
            error = error_from(answer)
            outcome = _blame(error)
            raise error
        except CallError as error:
            if isinstance(error, CallTimeoutError):
                outcome = "timeout"
            if isinstance(error, BusUnavailableError) or (isinstance(error, DeliveryError) and load is None):
                # The bus says that it is gone, which the registry cannot know yet.
                outcome = "cancelled"
                team.suspects.mark(node.key, node.uid, "its connection was lost just now")
            elif load is not None:
                team.suspects.forget(node.key)
            self.attempts.append(
                Attempt(
                    node.key,
                    started - self.began,
                    boottime() - started,
                    error=error.summary or type(error).__name__,
                    code=error.code,
                    outcome=error.outcome,
                )
            )
            raise
        finally:
            router.done(node.key, outcome, load=load, duration=boottime() - started, uid=node.uid)
            team.room(node)

    async def _answer(self, exchange: Exchange, limit: float) -> Message:
        """Wait for the answer; past the limit, or when the caller goes away, the command is taken back."""
        self.team.open.add(exchange)
        try:
            async with asyncio.timeout(limit):
                return await exchange.answer
        except TimeoutError:
            exchange.cancel()
            raise CallTimeoutError(
                f"no answer to {self.query.capability} within {limit:.3f} s",
                outcome="unknown" if exchange.started else "refused",
                retryable=True,
            ) from None
        except asyncio.CancelledError:
            if self.team.closed and exchange.answer.cancelled():
                raise DeliveryError(
                    "the orchestrator was closed, and took the command back",
                    code=Code.CANCELLED,
                    outcome="unknown" if exchange.started else "refused",
                    retryable=False,
                ) from None
            exchange.cancel()
            raise
        finally:
            self.team.open.discard(exchange)

    def _message(self, node: NodeRecord, limit: float) -> Message:
        handling = current_command.get()
        ancestors: tuple[str, ...] = ()
        trace = ""
        if handling is not None:
            ancestors = (*handling.message.ancestors, handling.node)
            trace = handling.message.traceparent
        return Message.command(
            self.query.capability,
            self.params,
            source=self.team.source,
            timeout=limit,
            priority=self.priority,
            uid=node.uid,
            ancestors=ancestors,
            traceparent=_traceparent(trace),
        )

    def _progress(self, node: NodeRecord) -> Callable[[Message], None] | None:
        listener = self.on_progress
        if listener is None:
            return None
        return lambda message: listener(node, message.data)

    # -- after a failed try ---------------------------------------------------------------------------------------

    async def _after(
        self, node: NodeRecord, contract: Contract, error: CallError, rng: random.Random
    ) -> None:
        """Return if another try makes sense, else raise the final error."""
        left = self.deadline - boottime()
        if self.team.closed or error.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.CANCELLED):
            self._give_up(error)
        if left <= 0:
            self._give_up(error if isinstance(error, CallTimeoutError) else self._too_late(error))
        self._tried[node.key] = node.uid
        if error.outcome in ("not_sent", "refused"):
            self._refusals += 1
            if not error.retryable or self._refusals > _MAX_REFUSALS:
                self._give_up(error)
            return
        self._executions += 1
        if contract.idempotent is False:
            self._give_up(error)
        if isinstance(error, DeliveryError):
            self._deaths += 1
            if self._deaths >= MAX_ATTEMPTS:
                self._give_up(error)
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
        await asyncio.sleep(min(left, pause(self._executions, rng)))

    def _too_late(self, last: CallError) -> CallTimeoutError:
        return CallTimeoutError(
            f"the deadline of {self.query.capability} passed while it was being sent again: {last.summary}",
            outcome=last.outcome,
        )

    def _give_up(self, error: CallError) -> NoReturn:
        error.attempts = tuple(self.attempts)
        raise error


def _blame(error: CallError) -> Outcome:
    """Say for the router how the node did: an error that its handler raised on purpose is an answer like any other."""
    if error.outcome in ("not_sent", "refused"):
        return "refused"
    if error.code is Code.DEADLINE_EXCEEDED:
        return "timeout"
    if error.code is Code.CANCELLED:
        return "cancelled"
    return "failed" if error.retryable else "ok"


def _traceparent(parent: str) -> str:
    """Return a W3C `traceparent`: the parent's trace with a new span, or a new trace.

    Source: W3C Trace Context, level 1.
    """
    span = os.urandom(8).hex()
    parts = parent.split("-")
    if len(parts) >= 4 and len(parts[1]) == 32:
        return f"00-{parts[1]}-{span}-{parts[3]}"
    return f"00-{os.urandom(16).hex()}-{span}-01"
