"""Whom one call may go to next: the best of those that it has not been at, or a wait until there is one."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus.failure import OUT_OF_REACH, says
from roster.errors import (
    AllNodesBusyError,
    BusUnavailableError,
    CallError,
    CallTimeoutError,
    Code,
    DeliveryError,
    NoCapableNodesError,
    PassedOver,
)
from roster.orchestrator.budget import pause
from roster.orchestrator.waiting import Place
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.call import Call

_MAX_REFUSALS = 64
# How long a call waits for registered nodes that nobody can reach: what an agent needs to be started again.
_RETURN_WAIT = 3.0
# Seconds after which a call that waits looks by itself: an ejection ends by time alone, and that wakes nobody.
_LOOK_AGAIN = 1.0


class Candidates:
    """The part of one call that chooses its nodes, and knows which of them it has been at."""

    __slots__ = ("_busy", "_call", "_place", "_refusals", "_tried", "_unreached_since")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._tried: dict[str, str] = {}
        self._place: Place | None = None
        self._busy: AllNodesBusyError | None = None
        self._refusals = 0
        self._unreached_since: float | None = None

    # -- choosing -------------------------------------------------------------------------------------------------

    async def choose(self) -> NodeRecord | None:
        """Return the best node for the next try, whatever the key, or None to look again after something has changed."""
        call = self._call
        if call.alone:
            return await self._choose_idle()
        team, query = call.team, call.query
        exclude = self.excluded()
        node = None
        if call.executions and (failing := team.router.failing):
            # One try has failed: the next had better not meet another node that failed just now.
            node = team.choose(query, {*exclude, *failing})
        if node is None:
            node = team.choose(query, exclude)
        if node is not None:
            self._busy = None
            return node
        if self._busy is not None and self._place is not None:
            # It was woken, and the room was another's: the reasons have not changed.
            if await self._wait(self._busy):
                return None
            self._busy = None
        try:
            team.refuse(query, exclude)
        except AllNodesBusyError as error:
            self._busy = error
            await self._wait(error)
        except NoCapableNodesError as error:
            self._busy = None
            await self.wait_for_return(error)
        return None

    def besides(self, node: NodeRecord) -> NodeRecord | None:
        """Return a node with room that could have this work as well as `node`, or None."""
        call = self._call
        if call.keyed is not None or call.revived is not None:
            return None  # nobody else may have it as long as this one is there
        exclude = self.excluded(node.key)
        if call.alone:
            idle = self._idle(exclude)
            return call.team.rng.choice(idle) if idle else None
        return call.team.choose(call.query, exclude)

    def excluded(self, besides: str = "") -> Collection[str]:
        """Return the keys of those that are left out at present."""
        above = self._call.above
        if above is None and not besides:
            return self._tried
        # A node that waits for this very call must not be asked to serve it: that is a loop.
        ancestors = (*above.message.ancestors, above.node) if above is not None else ()
        return {*self._tried, *ancestors, besides}

    async def _choose_idle(self) -> NodeRecord | None:
        """Return a node that does nothing else, or one that soon will, or wait for one."""
        call, team = self._call, self._call.team
        exclude = self.excluded()
        if idle := self._idle(exclude):
            return team.rng.choice(idle)
        # It takes nothing more until what it has in hand has ended and this has been done.
        if (node := team.choose(call.query, exclude)) is not None:
            return node
        try:
            team.refuse(call.query, exclude)
        except AllNodesBusyError as error:
            await self._wait(error)
        except NoCapableNodesError as error:
            if call.last is None:
                raise
            # One that leaves, or whose lease ended with those of all others, may be back in a moment.
            left = call.deadline - boottime()
            if left <= 0 or all(row.state == "offline" for row in error.passed_over):
                call.give_up(self.never_alone(call.last))
            await asyncio.sleep(min(left, pause(1, team.rng)))
            # Those that refused had no room, and may have some now.
            self._tried = {key: uid for key, uid in self._tried.items() if key in call.strikes}
        return None

    def never_alone(self, error: CallError) -> CallError:
        """Return what to say of a last try: one that waited in vain for its node to be idle had no room."""
        call = self._call
        if not (call.alone and error.outcome == "refused" and isinstance(error, CallTimeoutError)):
            return error
        return AllNodesBusyError(
            f"no node that can do {call.query.capability} was idle in time, and this must be done alone",
            capability=call.query.capability,
            passed_over=call.team.rows(call.query, self.excluded()),
        )

    def _idle(self, exclude: Collection[str]) -> list[NodeRecord]:
        """Return the candidates that do nothing else, as far as this caller knows."""
        team = self._call.team
        rows = team.rows(self._call.query, exclude)
        keys = [
            row.node for row in rows if row.candidate and row.load == 0 and row.state in ("ready", "busy")
        ]
        return [node for key in keys if (node := team.node(key)) is not None]

    # -- what became of them --------------------------------------------------------------------------------------

    def tried(self, node: NodeRecord) -> None:
        """Leave this incarnation out as long as there are others."""
        self._tried[node.key] = node.uid

    def gone(self, node: NodeRecord) -> None:
        """This incarnation is no more."""
        self._tried[node.key] = node.uid
        self._refusals += 1

    def refused(self) -> bool:
        """One of them has surely not begun; return whether that was one too many."""
        self._refusals += 1
        return self._refusals > _MAX_REFUSALS

    def reached(self) -> None:
        """One of them may have begun: they are not all out of reach."""
        self._unreached_since = None

    def forget_reborn(self) -> None:
        """A node that came back under a new uid has not been tried."""
        for key, uid in list(self._tried.items()):
            node = self._call.team.node(key)
            if node is not None and node.uid != uid:
                del self._tried[key]

    def _forget_full(self) -> None:
        """Those that refused for want of room are full like all others, and may be the first to have some again."""
        if self._refusals > _MAX_REFUSALS // 2:
            return  # they have some again and again, and never when the call arrives
        for key in list(self._tried):
            load = self._call.team.router.load(key)
            last = next((one for one in reversed(self._call.attempts) if one.node == key), None)
            refused = last is not None and last.code is Code.RESOURCE_EXHAUSTED and last.outcome == "refused"
            if refused and load is not None and load.active >= load.capacity:
                del self._tried[key]

    # -- waiting --------------------------------------------------------------------------------------------------

    async def _wait(self, error: AllNodesBusyError) -> bool:
        """Wait for room; return whether the call was woken."""
        call, team = self._call, self._call.team
        left = call.deadline - boottime()
        if left <= 0 or (call.on_busy == "fail" and not call.alone):
            call.give_up(
                AllNodesBusyError(
                    error.summary,
                    capability=call.query.capability,
                    retry_after=error.retry_after,
                    passed_over=error.passed_over,
                )
            )
        if self._place is None:
            self._place = team.waiting.place(call.priority)
        if self._tried:
            self._forget_full()
        question = (call.query, frozenset(self.excluded()))
        team.inquiries.waits(call.query)
        try:
            return await team.waiting.wait(
                call.query.capability, self._place, min(left, _LOOK_AGAIN), question
            )
        finally:
            team.inquiries.over(call.query)

    async def wait_for_return(self, error: NoCapableNodesError) -> None:
        """Nobody is left. Wait a little and look again if some may take it yet, or come back to the bus; else say so."""
        call, last = self._call, self._call.last
        now = boottime()
        left = call.deadline - now
        alive = any(
            row.state in ("ready", "busy", "unknown") and row.node in self._tried for row in error.passed_over
        )
        if self._unreached_since is None:
            self._unreached_since = now
        # Registered but not on the bus: it is being started again, or it never serves commands.
        hopeless = isinstance(last, BusUnavailableError) and now - self._unreached_since >= _RETURN_WAIT
        # Those who live and are cut off from the bus come back with it; that costs no try.
        cut_off = call.on_busy == "wait" and any(self._is_cut_off(row) for row in error.passed_over)
        again = cut_off or (self._tried and alive and not hopeless and self._refusals < _MAX_REFUSALS)
        if left <= 0 or not again:
            if last is not None and (
                left <= 0
                or not isinstance(last, (BusUnavailableError, DeliveryError))
                or says(last, OUT_OF_REACH)
            ):
                call.give_up(last)
            call.give_up(
                NoCapableNodesError(
                    error.summary, capability=call.query.capability, passed_over=error.passed_over
                )
            )
        await asyncio.sleep(min(left, pause(self._refusals, call.team.rng)))
        self._tried.clear()

    def _is_cut_off(self, row: PassedOver) -> bool:
        node = self._call.team.node(row.node)
        return node is not None and row.state == "draining" and node.cut_off
