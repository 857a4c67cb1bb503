"""The world of a walk whose process may die: whatever happened is remembered by the engine, and on record for people."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from roster.cards import ActionStep, ProcessCard, Step
from roster.errors import (
    BusUnavailableError,
    CallCancelledError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    NoCapableNodesError,
)
from roster.orchestrator.homed import HomedCall
from roster.orchestrator.runs import writes
from roster.orchestrator.runs.engine import Given
from roster.orchestrator.runs.walking import failure
from roster.orchestrator.runs.world import Decision, End, Error, Heard, Order, Place, RunFailure, Tried

if TYPE_CHECKING:
    from roster.orchestrator.runs.executor import Executor
    from roster.registry import NodeRecord

logger = logging.getLogger("roster.orchestrator.runs")

_MAX_KEY = 200
_LOOK_SECONDS = 1.0
_UNSURE = (DeliveryError, BusUnavailableError, CallTimeoutError, CallCancelledError)


class DurableWorld:
    """See `World`. One for each walk.

    Args:
        executor: of this process.
        run: the run's id.
        walk: the walk's id.
        card: what is walked.
        deadline: when the run has to be over, seconds after 1970.
        wait_for_nodes: whether a step waits, up to its timeout, for a node that can do it.
        homes: the nodes that earlier processes handed the steps to which have not ended: by the steps' keys.
    """

    def __init__(
        self,
        executor: Executor,
        *,
        run: str,
        walk: str,
        card: ProcessCard,
        deadline: float,
        wait_for_nodes: bool,
        homes: Mapping[str, str],
    ) -> None:
        self._executor = executor
        self._run = run
        self._walk = walk
        self._card = card
        self._deadline = deadline
        self._wait_for_nodes = wait_for_nodes
        self._homes = dict(homes)
        self._waits = 0
        self._waited_for: dict[str, str] = {}
        self._attempts: dict[str, list[dict[str, Any]]] = {}

    # -- steps ----------------------------------------------------------------------------------------------------

    async def enter(self, place: Place, step: Step) -> None:
        """See `World`."""
        await self._executor.gate(self._run, self._card.name)
        if time.time() >= self._deadline:
            raise RunFailure(self._too_late(place.step))
        executor = self._executor
        executor.journal.post(writes.enter_step(self._run, place, step, executor.number()))
        executor.tell("step_started", self._run, self._card, step=place.key, kind=writes.kind_of(step))

    def leave(self, place: Place, step: Step, *, error: Error | None = None, skipped: bool = False) -> None:
        """See `World`."""
        state = "skipped" if skipped else "failed" if error is not None else "succeeded"
        executor = self._executor
        if skipped:
            executor.journal.post(writes.enter_step(self._run, place, step, executor.number()))
        attempts = self._attempts.pop(place.key, ())
        self._waited_for.pop(place.key, None)
        executor.journal.post(writes.leave_step(self._run, place, state, error, attempts))
        executor.tell(
            f"step_{state}", self._run, self._card, step=place.key, kind=writes.kind_of(step), error=error
        )

    async def attempt(self, place: Place, step: ActionStep, params: Any, number: int, key: int) -> Tried:
        """See `World`."""

        async def work() -> dict[str, Any]:
            return await self._try(place, step, params, key)

        found = await self._remember(f"{place.key}~{number}", work)
        attempts = self._attempts.setdefault(place.key, [])
        attempts += found["attempts"]
        if found["error"] is None:
            return Tried(result=found["result"])
        self._post(writes.note_step(self._run, place.key, attempts=writes.to_json(attempts)))
        return Tried(error=found["error"], known=found["known"])

    async def rest(self, place: Place, seconds: float) -> None:
        """See `World`."""
        if seconds > 0:
            await self._until(place, "rest", seconds)

    # -- waiting --------------------------------------------------------------------------------------------------

    async def pause(self, place: Place, seconds: float) -> None:
        """See `World`."""
        await self._until(place, "duration", seconds)

    async def event(self, place: Place, name: str, timeout: float) -> Heard:
        """See `World`."""
        return await self._heard(place, "event", name, timeout, {"event": name[:200]})

    async def approval(self, place: Place, message: str, timeout: float) -> Heard:
        """See `World`."""
        heard = await self._heard(place, "approval", place.key, timeout, {"message": message[:10_000]})
        if heard.how == "came" and not heard.data.get("approved"):
            return Heard("rejected", heard.data)
        return heard

    async def escalate(self, place: Place, error: Error) -> Decision:
        """See `World`."""
        left = self._deadline - time.time()
        what = {"message": str(error.get("message", ""))[:10_000]}
        heard = await self._heard(place, "escalation", place.key, left, what)
        if heard.how == "timeout":
            return "abort"
        approved = heard.data.get("approved")
        return "continue" if approved is None else "again" if approved else "abort"

    async def _until(self, place: Place, what: str, seconds: float) -> None:
        self._waits += 1
        until = await self._remember(f"{place.key}!{what}{self._waits}", _in(min(seconds, self._left(place))))
        self._note_wait(place, "duration", {}, until)
        await asyncio.sleep(max(0.0, until - time.time()))
        self._post(writes.note_step(self._run, place.key, waiting=None, state="running"))

    async def _heard(
        self, place: Place, kind: str, name: str, timeout: float, what: Mapping[str, Any]
    ) -> Heard:
        self._waits += 1
        label = f"{place.key}!{kind}{self._waits}"
        left = self._left(place)
        until = await self._remember(label + "-until", _in(min(timeout, left)))
        self._note_wait(place, kind, what, until)
        self._executor.tell("step_waiting", self._run, self._card, step=place.key, waits=kind, **what)

        async def listen() -> dict[str, Any]:
            signal = "event" if kind == "event" else "approval"
            take = writes.take_signal(self._run, signal, name, f"{self._walk}:{label}")
            while True:
                word = self._executor.word(self._run)
                found, data = await self._executor.journal.commit(take)
                if found:
                    return {"how": "came", "data": data}
                rest = until - time.time()
                if rest <= 0:
                    return {"how": "timeout", "data": None}
                await asyncio.wait([word], timeout=rest)

        found = await self._remember(label, listen)
        self._post(writes.note_step(self._run, place.key, waiting=None, state="running"))
        if found["how"] == "timeout" and time.time() >= self._deadline:
            raise RunFailure(self._too_late(place.step))
        return Heard(found["how"], found["data"])

    def _note_wait(self, place: Place, kind: str, what: Mapping[str, Any], until: float | None) -> None:
        from roster.orchestrator.runs.record import moment

        waiting = {
            "kind": kind,
            "step": place.key,
            **what,
            "since": moment(time.time()),
            "until": moment(until),
        }
        self._post(writes.note_step(self._run, place.key, state="waiting", waiting=writes.to_json(waiting)))

    def _left(self, place: Place) -> float:
        left = self._deadline - time.time()
        if left <= 0:
            raise RunFailure(self._too_late(place.step))
        return left

    def _too_late(self, step: str) -> Error:
        return failure(
            f"the run took longer than the {self._card.timeout:g} s that it may take in all (timeout)",
            code=Code.DEADLINE_EXCEEDED,
            step=step,
            kind="CallTimeoutError",
        )

    # -- beside each other ----------------------------------------------------------------------------------------

    async def blocks(
        self, place: Place, orders: Sequence[Order], *, need: int, max_concurrency: int
    ) -> list[End]:
        """See `World`."""

        async def walk_all() -> list[dict[str, Any]]:
            return await self._beside(place, orders, need, max_concurrency)

        found = await self._remember(f"{place.key}!blocks", walk_all)
        return [_end(one) for one in found]

    async def card(self, place: Place, card: str, inputs: Any, timeout: float | None, number: int) -> End:
        """See `World`."""
        order = await self._executor.card_order(self._run, self._card, card)
        left = self._left(place)
        deadline = time.time() + (left if timeout is None else min(timeout, left))
        walk = f"{self._run}/{place.key}/{number}"
        full = {
            "digest": order,
            "inputs": inputs if isinstance(inputs, dict) else {},
            "prefix": f"{place.key}/{number}/",
            "deadline": deadline,
        }

        async def run() -> dict[str, Any]:
            await self._executor.begin(walk, self._run, full, parent=self._walk)
            return await self._executor.ended(walk)

        return _end(await self._remember(f"{place.key}!card{number}", run))

    async def _beside(
        self, place: Place, orders: Sequence[Order], need: int, max_concurrency: int
    ) -> list[dict[str, Any]]:
        executor = self._executor
        walks = [f"{self._run}/{order.prefix[:-1]}" for order in orders]
        ends: list[dict[str, Any] | None] = [None] * len(orders)
        going: dict[asyncio.Task[dict[str, Any]], int] = {}
        following = iter(range(len(orders)))
        done = failed = 0

        async def one(number: int) -> dict[str, Any]:
            order = orders[number]
            full = {
                "digest": self._card.digest,
                "block": list(order.block),
                "prefix": order.prefix,
                "scope": order.scope,
                "deadline": self._deadline,
            }
            await executor.begin(walks[number], self._run, full, parent=self._walk)
            return await executor.ended(walks[number])

        try:
            while done < need and len(orders) - failed >= need:
                while len(going) < max_concurrency and (number := next(following, None)) is not None:
                    going[asyncio.create_task(one(number))] = number
                if not going:
                    break
                ready, _ = await asyncio.wait(going, return_when=asyncio.FIRST_COMPLETED)
                for task in ready:
                    number = going.pop(task)
                    ends[number] = end = task.result()
                    done += end["how"] == "done"
                    failed += end["how"] == "failed"
                    if end["how"] == "complete":
                        return [one or {"how": "cancelled"} for one in ends]
            return [one or {"how": "cancelled"} for one in ends]
        finally:
            needless = [walks[number] for number in going.values()]
            for task in going:
                task.cancel()
            if needless and asyncio.current_task().cancelling() == 0:  # type: ignore[union-attr]  # we run in one
                await executor.stop(self._run, needless)

    # -- one try --------------------------------------------------------------------------------------------------

    async def _try(self, place: Place, step: ActionStep, params: Any, key: int) -> dict[str, Any]:
        began = time.time()
        timeout = min(step.timeout, self._left(place))
        attempts: list[dict[str, Any]] = []
        error: CallError
        while True:
            call = await self._executor.orchestrator.prepare(
                step.action,
                params,
                timeout=max(0.001, began + timeout - time.time()),
                selector=step.selector,
                strategy=step.strategy,
                sticky_key=self._run if step.strategy == "sticky" else None,
            )
            source = self._executor.orchestrator.team.source_here()
            home = self._homes.pop(place.key, None)
            call.keyed = HomedCall(
                call,
                self._key(place, key),
                source,
                home,
                self._dispatcher(place),
                leaving=lambda: self._executor.leaving,
            )
            at = time.time()
            try:
                result = await call.run()
            except CallError as failed:
                error = failed
                attempts += [_attempt(one, at) for one in error.attempts]
                if self._may_wait(error, began + timeout):
                    await self._await_node(place, step, error, began + timeout)
                    continue
                break
            attempts += [_attempt(one, at) for one in call.attempts]
            return {"result": result, "error": None, "attempts": attempts, "known": True}
        return {
            "result": None,
            "error": _told(error),
            "attempts": attempts,
            "known": error.outcome != "unknown" or not isinstance(error, _UNSURE),
        }

    def _may_wait(self, error: CallError, deadline: float) -> bool:
        return (
            self._wait_for_nodes
            and isinstance(error, NoCapableNodesError)
            and error.outcome == "not_sent"
            and time.time() < deadline
        )

    async def _await_node(self, place: Place, step: ActionStep, error: CallError, deadline: float) -> None:
        if self._waited_for.get(place.key) != error.summary:  # a word each second would wear the disk out
            self._waited_for[place.key] = error.summary
            self._note_wait(place, "node", {"message": error.summary[:2000]}, deadline)
        room = self._executor.orchestrator.team.waiting
        left = max(0.0, deadline - time.time())
        await room.wait(step.action, room.place(0), min(left, _LOOK_SECONDS))

    def _dispatcher(self, place: Place) -> Callable[[NodeRecord], Awaitable[None]]:
        async def dispatch(node: NodeRecord) -> None:
            executor = self._executor
            write = writes.dispatch(self._walk, self._run, place.key, executor.id, node.key, node.uid)
            try:
                await executor.journal.commit(write)
            except writes.GivenAwayError:
                raise Given from None

        return dispatch

    def _key(self, place: Place, number: int) -> str:
        """Return the idempotency key of a step's work: the run, the visit, and how often it is known to have failed."""
        key = f"{self._run}/{place.key}~{number}"
        if len(key.encode()) <= _MAX_KEY:
            return key
        return f"{self._run}/{hashlib.sha256(key.encode()).hexdigest()}"

    def _post(self, write: writes.Write) -> None:
        self._executor.journal.post(write)

    async def _remember(self, name: str, work: Callable[[], Awaitable[Any]]) -> Any:
        """Do something once; only what is meant to be remembered is: a result, or that the run comes to nothing."""

        async def guarded() -> dict[str, Any]:
            try:
                return {"result": await work()}
            except RunFailure as failed:
                return {"failure": failed.error}
            except Exception as error:  # a database that is away is no result
                raise Given(f"{name}: {error}") from error

        found = await self._executor.engine.remember(name, guarded)
        if "failure" in found:
            raise RunFailure(found["failure"])
        return found["result"]


def _in(seconds: float) -> Callable[[], Awaitable[float]]:
    async def until() -> float:
        return time.time() + seconds

    return until


def _end(found: Mapping[str, Any]) -> End:
    return End(
        found["how"],
        result=found.get("result"),
        status=found.get("status", "success"),
        changed=found.get("changed") or {},
        error=found.get("error"),
    )


def end_as_json(end: End) -> dict[str, Any]:
    """Return an end as it is remembered."""
    return asdict(end)


def _attempt(attempt: Any, at: float) -> dict[str, Any]:
    from roster.orchestrator.runs.record import moment

    return {
        "node": attempt.node,
        "outcome": "ok" if not attempt.error else attempt.outcome or "unknown",
        "error": attempt.error or None,
        "at": moment(at + attempt.started),
        "seconds": round(attempt.duration, 6),
    }


def _told(error: CallError) -> dict[str, Any]:
    told: dict[str, Any] = {
        "code": str(error.code),
        "type": type(error).__name__,
        "message": str(error)[:4000],
        "retryable": error.retryable,
        "outcome": error.outcome,
    }
    if error.details:
        told["details"] = cast("Any", error.details)
    return told
