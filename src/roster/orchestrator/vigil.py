"""Watches over commands that are outstanding longer than usual: asks their node, and does not wait for the silent.

It costs the fast path two dict operations a call. A node that does not answer a ping within half a second, or the longer
time that its distance takes (`Patience`), is suspect: it gets no new work from this caller, and what is outstanding there is
sent to another node as well where the capability says that this is harmless (`idempotent: true`), else when its lease ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.bus import Message
from roster.bus.base import Exchange, OutlivesCallers
from roster.bus.message import Kind
from roster.errors import CallError, DeliveryError, Outcome
from roster.orchestrator.patience import Patience
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.contracts import Contract
    from roster.orchestrator.teamview import TeamView
    from roster.orchestrator.tries import Tries

logger = logging.getLogger("roster.orchestrator")

_SWEEP = 0.05
_OVERDUE = 0.5
_OVERDUE_AT_MOST = 2.0
_USUAL_TIMES = 2.0
_PONG = 0.5
_ASK_AGAIN = 1.0
# An answer that is in the socket already must be read before the registry's word of its node's end counts.
_LAST_WORDS = 0.05
# Over a broker it may be on its way, and the broker tells the fate of what a node leaves behind: then that word counts.
_BY_BROKER = 2.0
_LAG = 0.25
_BEGUN = {True: "had begun", False: "had not begun", None: "may have begun"}


@dataclass(slots=True, eq=False)
class Outstanding:
    """One command that was sent and is not answered.

    Attributes:
        tries: those of its call.
        answered_by: the node that answered in its place, empty if none did.
    """

    exchange: Exchange
    message: Message
    node: NodeRecord
    tries: Tries
    contract: Contract
    sent: float
    hedge: asyncio.Task[None] | None = None
    answered_by: str = ""

    @property
    def known(self) -> Outcome:
        """What is known of the work as long as there is no answer."""
        return "refused" if self.exchange.started is False else "unknown"

    def settle(self, end: Message | CallError) -> None:
        """End it from this side, and take the command back from its node."""
        answer = self.exchange.answer
        if not answer.done():
            if isinstance(end, Message):
                answer.set_result(end)
            else:
                answer.set_exception(end)
        self.exchange.cancel()


class Vigil:
    """All outstanding commands of one orchestrator."""

    def __init__(self, team: TeamView, now: Callable[[], float] = boottime) -> None:
        self._team = team
        self._now = now
        self._open: dict[Outstanding, None] = {}
        self._usual: dict[str, float] = {}
        self._asking: set[str] = set()
        self._asked: dict[str, float] = {}
        self._silent: dict[str, str] = {}
        self._pongs = Patience(team.bus, _PONG, now)
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._closed = False

    # -- the fast path --------------------------------------------------------------------------------------------

    def watch(self, outstanding: Outstanding) -> None:
        """Begin to watch over a command."""
        self._open[outstanding] = None
        if self._timer is None:
            self._plan()

    def forget(self, outstanding: Outstanding, duration: float | None) -> None:
        """It is over. `duration` in seconds if it was answered with a result."""
        self._open.pop(outstanding, None)
        if duration is not None:
            capability = outstanding.contract.capability
            usual = self._usual.get(capability)
            self._usual[capability] = duration if usual is None else usual + 0.1 * (duration - usual)
        if outstanding.hedge is not None:
            outstanding.hedge.cancel()

    # -- looking --------------------------------------------------------------------------------------------------

    def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + _SWEEP
        self._timer = loop.call_at(self._due, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        # While this loop itself lags, late answers are its own fault.
        self._team.router.lagging = asyncio.get_running_loop().time() - self._due > _LAG
        now = self._now()
        for outstanding in self._open:
            age = now - outstanding.sent
            if age < _OVERDUE:
                break  # they are in order of sending
            if age >= self._patience(outstanding.contract.capability):
                self._ask(outstanding.node)
        self._ask_the_silent()
        if self._open or self._silent:
            self._plan()

    def _ask_the_silent(self) -> None:
        """Nothing of ours may be out there any more: who was found silent is asked until it answers or is another."""
        for key, uid in list(self._silent.items()):
            node = self._team.node(key)
            if node is None or node.uid != uid:
                del self._silent[key]  # the router has forgotten that incarnation, too
            else:
                self._ask(node)

    def _patience(self, capability: str) -> float:
        return max(_OVERDUE, min(_OVERDUE_AT_MOST, self._usual.get(capability, 0.0) * _USUAL_TIMES))

    def _ask(self, node: NodeRecord) -> None:
        if node.key in self._asking or self._now() - self._asked.get(node.key, float("-inf")) < _ASK_AGAIN:
            return
        if self._team.router.lagging:
            return
        self._asked[node.key] = self._now()
        self._asking.add(node.key)
        task = asyncio.create_task(self._ping(node), name=f"a ping to {node.key}")
        task.add_done_callback(lambda _: self._asking.discard(node.key))
        self._own(task)

    async def ask(self, node: NodeRecord) -> None:
        """Ask a node for a sign of life now, whether or not a command of it is overdue, and act on what it says."""
        await self._ping(node)

    async def _ping(self, node: NodeRecord) -> None:
        try:
            pong = await self._pongs.hear(node, Message.control("ping", source=self._team.source))
        except TimeoutError:
            if not self._team.router.lagging:
                self._on_silence(node)
            return
        except CallError:
            # Its connection is lost: the exchanges have failed by themselves, and who is gone need not be asked.
            if self._silent.pop(node.key, None) is not None:
                self._team.suspects.mark(node.key, node.uid, "its connection was lost just now")
            return
        self._on_pong(node, pong)

    def _on_pong(self, node: NodeRecord, pong: Message) -> None:
        if self._silent.pop(node.key, None) is not None:
            logger.info("%s answers again", node.key, extra={"node": node.key, "uid": node.uid})
            self._team.suspects.forget(node.key)
            self._team.router.trust(node.key)
            # How long that took says when it woke, or how far it is: the next pong tells which.
            self._own(asyncio.create_task(self._ping(node)))
        result = pong.data.get("result") if pong.kind is Kind.RESULT else None
        waiting = result.get("waiting") if isinstance(result, dict) else None
        if not isinstance(waiting, list):
            return
        idle_elsewhere = {
            outstanding.message.id
            for outstanding in self._open
            if outstanding.node.key == node.key
            and outstanding.message.id in waiting
            and self._room_elsewhere(outstanding)
        }
        if idle_elsewhere:
            # It waits in the hands of a busy node while another is free: move it. The node answers `refused` for each
            # that has not begun by then, and the call goes on from there.
            self._own(asyncio.create_task(self._revoke(node, sorted(idle_elsewhere))))

    def _room_elsewhere(self, outstanding: Outstanding) -> bool:
        return outstanding.tries.other_node(outstanding.node) is not None

    async def _revoke(self, node: NodeRecord, ids: list[str]) -> None:
        async with asyncio.timeout(_PONG):
            message = Message.control("revoke", {"ids": ids}, source=self._team.source)
            await (await self._team.bus.send(node.mindbus_queue, message)).answer

    def _on_silence(self, node: NodeRecord) -> None:
        if self._silent.get(node.key) != node.uid:
            self._silent[node.key] = node.uid
            logger.warning(
                "%s does not answer: no new work goes there",
                node.key,
                extra={"node": node.key, "uid": node.uid},
            )
        self._team.router.suspect(node.key, "does not answer")
        for outstanding in list(self._open):
            if outstanding.node.key == node.key and outstanding.node.uid == node.uid:
                self._send_elsewhere_too(outstanding)
        if self._timer is None and not self._closed:
            self._plan()

    # -- acting ---------------------------------------------------------------------------------------------------

    def _send_elsewhere_too(self, outstanding: Outstanding) -> None:
        if outstanding.contract.idempotent is not True or outstanding.hedge is not None:
            return
        outstanding.hedge = asyncio.create_task(self._hedge(outstanding))
        self._own(outstanding.hedge)

    async def _hedge(self, outstanding: Outstanding) -> None:
        """Have another node do it as well: the first answer wins, the other is taken back."""
        # Room somewhere wakes calls, not this; `forget` ends it.
        while (answer := await outstanding.tries.elsewhere(outstanding.node)) is None:  # noqa: ASYNC110 - see above
            await asyncio.sleep(_SWEEP)
        if not outstanding.exchange.answer.done():
            node, message = answer
            outstanding.answered_by = node.key
            outstanding.settle(message)

    def node_gone(self, key: str, uid: str | None, *, left: bool = False) -> None:
        """The registry says that a node's lease has ended, or that another incarnation (`uid`) has its name.

        Args:
            left: it has left in good order, and has said what became of everything that it had in hand.
        """
        gone = [one for one in self._open if one.node.key == key and one.node.uid != uid]
        if gone and not self._closed:
            by_broker = left and isinstance(self._team.bus, OutlivesCallers)
            patience = _BY_BROKER if by_broker else _LAST_WORDS
            asyncio.get_running_loop().call_later(patience, self._bury, gone, left)

    def _bury(self, gone: list[Outstanding], left: bool) -> None:
        for outstanding in gone:
            if outstanding in self._open and not outstanding.exchange.answer.done():
                begun = _BEGUN[outstanding.exchange.started]
                why = "it has left" if left else "its lease has ended"
                text = f"{outstanding.node.key} is gone, {why}; the work {begun}"
                outstanding.settle(DeliveryError(text, outcome=outstanding.known))

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A ping, hedge or revocation that fails changes nothing: the first try is still out.
            logger.debug("%s did not help: %s", task.get_name(), error)

    def end_all(self, error: Callable[[Outstanding], CallError]) -> None:
        """End every command that is outstanding, and take it back."""
        for outstanding in list(self._open):
            outstanding.settle(error(outstanding))

    def close(self) -> None:
        """Stop watching."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
