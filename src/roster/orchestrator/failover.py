"""From try to try until a call has its answer: what follows when a node is gone, full or failing."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, NoReturn

from roster._clock import boottime
from roster.bus.context import MAX_DEPTH, TOO_LITTLE, WAY_BACK
from roster.bus.failure import STOPPED, UNHEARD, says
from roster.errors import AllNodesBusyError, CallError, CallTimeoutError, Code, DeliveryError, RemoteError
from roster.orchestrator.budget import MAX_ATTEMPTS, pause
from roster.orchestrator.candidates import Candidates
from roster.orchestrator.contracts import Contract
from roster.orchestrator.tries import Tries, stopped
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.call import Call

logger = logging.getLogger("roster.orchestrator")


class Failover:
    """Takes one call from node to node.

    What decides after a failed try is what is known of the work (`outcome`), never a guess:
    - `not_sent`, `refused`: it surely did not start. The next node gets it at once; that is not a retry.
    - the node is gone and the work may have started: sent again, unless the capability says `idempotent: false`, or the
      same command has struck three nodes already (it may be what kills them). After the second it is sent alone, to a
      node that is idle or takes nothing more until it is, so that its neighbours do not collect its strikes.
    - the node answered that it failed, and that trying again makes sense: sent again within the retry budget.
    - the node is silent past the try's time limit: sent again only if the capability says `idempotent: true`; nobody
      knows whether the silent one still works on it.

    With an idempotency key the rules are the same, but "again" is to the same node, as long as it is there (`KeyedCall`).

    A dead letter that is sent again is sent alone and starts once: it may do to its node what it did to others.
    """

    __slots__ = ("_call", "_candidates", "_paid", "_tries")

    def __init__(self, call: Call) -> None:
        # The call does not know of these: a circle would leave each call, and its params, to the garbage collector.
        self._call = call
        self._candidates = Candidates(call)
        self._tries = Tries(call, self._candidates)
        self._paid = False

    async def run(self) -> Any:
        """Return the result; when the command on whose behalf the call was made is over, so is the call.

        Raises:
            CallError: with the attempts made.
        """
        above = self._call.above
        if above is None:
            return await self._run()
        ancestors = (*above.message.ancestors, above.node)
        if len(ancestors) > MAX_DEPTH:
            raise RemoteError(
                f"{self._call.query.capability} would be the {len(ancestors)}th delegation in a row, at most "
                f"{MAX_DEPTH} are allowed: {' > '.join(ancestors)}",
                code=Code.FAILED_PRECONDITION,
                outcome="not_sent",
            )
        loop = asyncio.get_running_loop()

        def stop(why: str) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nothing is out any more
                loop.call_soon_threadsafe(self._tries.stop, why)

        remove = above.on_stop(stop)
        try:
            return await self._run()
        finally:
            remove()

    async def _run(self) -> Any:
        call = self._call
        while True:
            node = await self._choose()
            if node is None:
                continue
            contract = call.team.contracts.of(node, call.query.capability)
            try:
                contract.check(call.params)
                answer = await self._tries.send(node, contract)
            except CallError as error:
                call.last = error
                self._paid = False
                await self._after(node, contract, error)
            else:
                if self._paid:
                    call.team.budget.refund()
                return answer.data.get("result")

    async def once(self, node: NodeRecord) -> Any:
        """Ask this node and no other; return its result.

        Raises:
            CallError: with the one attempt made.
        """
        call = self._call
        try:
            contract = call.team.contracts.of(node, call.query.capability)
            contract.check(call.params)
            return (await self._tries.send(node, contract)).data.get("result")
        except CallError as error:
            call.give_up(error)

    async def _choose(self) -> NodeRecord | None:
        """Return the node for the next try, or None to look again (after having waited for something to change)."""
        call = self._call
        if call.above is not None and call.above.stopped is not None:
            call.give_up(stopped(call.above.stopped, "not_sent"))
        self._candidates.forget_reborn()
        if call.keyed is not None:
            return await call.keyed.choose(self._candidates)
        return await self._candidates.choose()

    async def _after(self, node: NodeRecord, contract: Contract, error: CallError) -> None:
        """Return if another try makes sense, else raise the final error."""
        call, candidates = self._call, self._candidates
        left = call.deadline - boottime()
        if call.team.closed or error.code in (Code.INVALID_ARGUMENT, Code.UNIMPLEMENTED, Code.CANCELLED):
            call.give_up(error)
        refused = error.retryable and error.outcome in ("not_sent", "refused")
        if call.keyed is not None and refused and await call.keyed.refused(node, error, candidates):
            return
        if left <= 0 or (isinstance(error, CallTimeoutError) and left < WAY_BACK + TOO_LITTLE):
            error = candidates.never_alone(error)
            plain = isinstance(error, (CallTimeoutError, AllNodesBusyError))
            call.give_up(error if plain else call.too_late(error))
        if call.keyed is None:
            candidates.tried(node)
        else:
            await call.keyed.failed(node, candidates)
        if error.outcome in ("not_sent", "refused"):
            once_too_often = candidates.refused()
            if once_too_often or not error.retryable:
                call.give_up(error)
            return
        candidates.reached()
        if contract.idempotent is False or call.revived is not None:
            call.give_up(error)
        unheard = isinstance(error, DeliveryError) and says(error, UNHEARD)
        if unheard and call.keyed is not None:
            return  # our own line was lost: who is asked with the key again joins what has begun
        call.executions += 1
        if isinstance(error, DeliveryError):
            if not unheard and not says(error, STOPPED):
                call.strikes.append(node.key)  # else it was surely not the command that did it
            if len(call.strikes) >= MAX_ATTEMPTS:
                await self._bury(node, error)
            if call.executions >= MAX_ATTEMPTS:
                call.give_up(error)
            return
        silent = isinstance(error, CallTimeoutError) and not says(error, STOPPED)
        if (
            not error.retryable
            or call.executions >= MAX_ATTEMPTS
            or (silent and contract.idempotent is not True)
        ):
            call.give_up(error)
        if not call.team.budget.spend():
            call.give_up(error)
        self._paid = True
        await asyncio.sleep(min(left, pause(call.executions, call.team.rng)))

    async def _bury(self, node: NodeRecord, error: CallError) -> NoReturn:
        """It may be what kills its nodes: nobody gets it again."""
        call = self._call
        text = (
            f"{call.query.capability} may have started on {len(call.strikes)} nodes, and each of them was gone before it "
            f"answered ({', '.join(call.strikes)}): it is not tried again"
        )
        logger.error("%s", text, extra={"node": node.key, "capability": call.query.capability})
        try:
            await call.team.bus.bury(self._tries.message(node, max(0.0, call.deadline - boottime())), text)
        except CallError as failure:
            logger.error("the command could not be kept as a dead letter: %s", failure)
        call.give_up(DeliveryError(text, code=Code.ABORTED, outcome="unknown", retryable=False))
