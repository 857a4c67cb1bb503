"""Calls through the gateway: those that somebody waits for, and those that are asked after later."""

from __future__ import annotations

import asyncio
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

from roster._clock import boottime, utc_now
from roster.errors import Attempt, CallCancelledError, CallError, NoCapableNodesError, RosterError
from roster.gateway.encoding import encode
from roster.gateway.problems import Problem, attempts_of, problem_of
from roster.orchestrator import CallAnswer
from roster.registry import NodeEvent

if TYPE_CHECKING:
    from roster.gateway.core import Gateway

MAX_CALLS = 1000
MAX_KEPT = 1000
MAX_BYTES = 64 * 1024 * 1024
_LOOK_AGAIN = 1.0


@dataclass(slots=True, eq=False)
class Kept:
    """One asynchronous call.

    Attributes:
        id: by which it is asked after.
        owner: the digest of the token that made it.
        state: `running`, `succeeded`, `failed` or `cancelled`.
    """

    id: str
    capability: str
    owner: str
    state: str = "running"
    created_at: str = field(default_factory=utc_now)
    ended_at: str | None = None
    over_at: float = 0.0
    size: int = 0
    answer: CallAnswer | None = None
    attempts: tuple[Attempt, ...] = ()
    problem: Problem | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def document(self) -> dict[str, Any]:
        """Return it as JSON."""
        answer = self.answer
        return {
            "id": self.id,
            "capability": self.capability,
            "state": self.state,
            "created_at": self.created_at,
            "ended_at": self.ended_at,
            "result": answer.result if answer is not None else None,
            "node": answer.node if answer is not None else None,
            "attempts": attempts_of(self.attempts),
            "duration": round(answer.duration, 6) if answer is not None else None,
            "error": self.problem.document() if self.problem is not None else None,
        }


@dataclass(slots=True, eq=False)
class _Waiting:
    """A call that waits for want of a node."""

    capability: str
    namespace: str | None
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Calls:
    """The calls of one gateway. It belongs to the gateway's loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._waiting: set[_Waiting] = set()
        self._open = 0
        self._numbers = count(1)
        self._prefix = os.urandom(8).hex()

    # -- one call ----------------------------------------------------------------------------------

    async def call(
        self,
        capability: str,
        params: Mapping[str, Any],
        *,
        wait_for_node: bool,
        timeout: float,
        **options: Any,
    ) -> CallAnswer:
        """Have it done; `options` are those of `Orchestrator.call`.

        Raises:
            CallError: as `Orchestrator.call`.
            Problem: too many calls are open.
        """
        if self._open >= MAX_CALLS:
            raise Problem(
                503, "too-many-calls", f"{MAX_CALLS} calls are open already", headers={"retry-after": "1"}
            )
        metrics = self._gateway.metrics
        flying = metrics.in_flight.labels(metrics.capability(capability))
        began = boottime()
        id = self._new_id()
        outcome = "CANCELLED"
        attempts: tuple[Attempt, ...] = ()
        self._open += 1
        flying.inc()
        try:
            answer = await self._ask(capability, params, wait_for_node, began + timeout, options)
            outcome, attempts = "ok", answer.attempts
            return answer
        except CallError as error:
            outcome, attempts = str(error.code), error.attempts
            raise
        finally:
            self._open -= 1
            flying.dec()
            metrics.call_ended(capability, outcome, boottime() - began, attempts)
            self._gateway.history.call_over(id, capability, attempts)

    async def _ask(
        self,
        capability: str,
        params: Mapping[str, Any],
        wait_for_node: bool,
        deadline: float,
        options: Mapping[str, Any],
    ) -> CallAnswer:
        while True:
            left = deadline - boottime()
            try:
                return await self._gateway.orchestrator.ask(
                    capability, params, timeout=max(0.0, left), **options
                )
            except NoCapableNodesError as error:
                left = deadline - boottime()
                if not wait_for_node or error.outcome == "unknown" or left <= 0:
                    raise
                await self._for_node(capability, options.get("namespace"), left)

    async def _for_node(self, capability: str, namespace: str | None, left: float) -> None:
        """Wait until a node that offers it comes or changes."""
        waiting = _Waiting(capability, namespace)
        self._waiting.add(waiting)
        try:
            async with asyncio.timeout(min(left, _LOOK_AGAIN)):
                await waiting.woken.wait()
        except TimeoutError:
            pass  # a node can become fit by way of time alone, which nobody tells
        finally:
            self._waiting.discard(waiting)

    def on_event(self, event: NodeEvent) -> None:
        """Wake those who wait for such a node."""
        for waiting in self._waiting:
            if waiting.capability in event.record.capabilities:
                waiting.woken.set()

    def waiting_for_node(self, capability: str, namespace: str | None) -> int:
        """Return how many calls wait for want of a node."""
        return sum(
            one.capability == capability and (namespace is None or one.namespace in (None, namespace))
            for one in self._waiting
        )

    # -- those that are asked after later ----------------------------------------------------------

    def begin(self, owner: str, capability: str, params: Mapping[str, Any], **options: Any) -> Kept:
        """Begin a call that nobody waits for here.

        Raises:
            Problem: too many calls are open.
        """
        if self._open >= MAX_CALLS:
            raise Problem(
                503, "too-many-calls", f"{MAX_CALLS} calls are open already", headers={"retry-after": "1"}
            )
        self._prune()
        kept = Kept(self._new_id(), capability, owner)
        self._kept[kept.id] = kept
        kept.task = asyncio.create_task(self._run(kept, params, options), name=f"roster-call {kept.id}")
        kept.task.add_done_callback(lambda _: self._over(kept))
        return kept

    async def _run(self, kept: Kept, params: Mapping[str, Any], options: Mapping[str, Any]) -> None:
        try:
            kept.answer = await self.call(kept.capability, params, **options)
            kept.attempts = kept.answer.attempts
            kept.state = "succeeded"
        except CallError as error:
            kept.problem, kept.attempts = problem_of(error), error.attempts
            kept.state = "failed"
        except RosterError as error:
            kept.problem, kept.state = problem_of(error), "failed"
        except Problem as problem:
            kept.problem, kept.state = problem, "failed"

    @staticmethod
    def _over(kept: Kept) -> None:
        """It has come to its end, or was cancelled before it began."""
        if kept.state == "running":
            kept.state = "cancelled"
            kept.problem = problem_of(
                CallCancelledError(f"the call {kept.id} was cancelled", outcome="unknown")
            )
        kept.ended_at = utc_now()
        kept.over_at = boottime()
        if kept.answer is not None:
            kept.size = len(encode(kept.answer.result))
        kept.over.set()

    def find(self, id: str, owner: str | None) -> Kept:
        """Return a call; `owner` is the digest of the token that may see none but its own, None for who may see all.

        Raises:
            Problem: there is none.
        """
        kept = self._kept.get(id)
        if kept is None or (owner is not None and kept.owner != owner):
            raise Problem(
                404,
                "not-found",
                f"there is no call {id[:100]} (any more): finished ones are kept for a while",
            )
        return kept

    def all(self, owner: str | None) -> list[Kept]:
        """Return the calls, newest first."""
        self._prune()
        return [kept for kept in reversed(self._kept.values()) if owner is None or kept.owner == owner]

    async def cancel(self, kept: Kept) -> None:
        """Cancel a call, and return when that has taken effect."""
        if kept.task is not None and not kept.task.done():
            kept.task.cancel()
            await kept.over.wait()

    def _prune(self) -> None:
        now, retention = boottime(), self._gateway.settings.retention
        over = [kept for kept in self._kept.values() if kept.over.is_set()]
        size = sum(kept.size for kept in over)
        for number, kept in enumerate(over):
            if kept.over_at + retention <= now or len(over) - number > MAX_KEPT or size > MAX_BYTES:
                del self._kept[kept.id]
                size -= kept.size

    def _new_id(self) -> str:
        return f"c-{self._prefix}-{next(self._numbers):x}"

    async def close(self) -> None:
        """Cancel what is open."""
        tasks = [kept.task for kept in self._kept.values() if kept.task is not None and not kept.task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
