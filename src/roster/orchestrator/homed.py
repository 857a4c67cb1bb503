"""Calls of a card's steps: least loaded like any other, and yet with an idempotency key, since their run remembers the node.

Before a command goes out its node is written into the run's record. Whoever goes on with the run after a crash asks that
node first: it may be at it still, or keep the answer. Only when it does not know the key, or is gone, may another have the
work. So no key need be looked for, and load spreads as it should.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

from roster._clock import boottime
from roster.errors import BusUnavailableError, CallError, CallTimeoutError, DeliveryError
from roster.orchestrator.keyed import KeyedCall
from roster.registry import NodeRecord

if TYPE_CHECKING:
    from roster.orchestrator.call import Call
    from roster.orchestrator.candidates import Candidates

# A node that died behind its work, and before its caller could write the answer down, has the answer on its disk. It is
# given this long to come back before another does the work again.
_PATIENCE = 10.0
_LOOK_SECONDS = 0.5

Dispatch = Callable[[NodeRecord], Awaitable[None]]


class HomedCall(KeyedCall):
    """The part of one call that concerns the key of a card's step.

    Args:
        call: the call.
        key: of the step's work.
        source: who calls; its namespace is the key's.
        home: `namespace/name` of the node that the work was handed to before, by this process or by one that is gone.
        dispatch: awaited with the node before each command: it returns when the node is on record.
        leaving: whether this process leaves, so that another will ask for the answer.

    Source: DESIGN, rule 9 of what breaks.
    """

    def __init__(
        self,
        call: Call,
        key: str,
        source: str,
        home: str | None,
        dispatch: Dispatch,
        leaving: Callable[[], bool],
    ) -> None:
        super().__init__(call, key, source)
        self._leaving = leaving
        self._home = home
        # What the home was told in this process needs no question: it has the key.
        self._told: tuple[str, str] | None = None
        # Whether it said that it has the answer: then its death is no reason to do the work again, it comes back with it.
        self._kept = False
        self._dispatch = dispatch
        self._patient_until = min(call.began + _PATIENCE, (call.began + call.deadline) / 2)

    @property
    def leaves_it_running(self) -> bool:
        """Whoever takes the run up joins the work; to stop it would be to do it twice."""
        return self._leaving()

    async def choose(self, candidates: Candidates) -> NodeRecord | None:
        """Return the node for the next try, on record, or None to look again."""
        self.cut = False
        node = await self._at_home(candidates.excluded()) if self._home is not None else None
        if node is None:
            if self._home is not None:
                return None
            node = await candidates.choose()
            if node is None:
                return None
        await self._dispatch(node)
        self._home, self._told = node.key, (node.key, node.uid)
        return node

    async def _at_home(self, exclude: Collection[str]) -> NodeRecord | None:
        """Return the node that has the work; None if it has to be heard first, or has not got it (then there is no home)."""
        home = str(self._home)
        node = self._call.team.node(home)
        if node is not None and (node.key, node.uid) == self._told and home not in exclude:
            return node
        known = "gone"
        if node is not None and node.state != "offline" and home not in exclude:
            known = await self._asked(node)
            if known in ("kept", "running"):
                self._kept = known == "kept"
                return node
            if known == "silent":
                await self._wait_for_word(node)
                return None
        if known == "gone" and (self._told is None or self._kept) and boottime() < self._patient_until:
            await self._keys.wait(home, self._call.priority, _LOOK_SECONDS)
            return None
        self._home = None
        return None

    def done(self, node: NodeRecord) -> None:
        """The node brought the result: the run's record says so, nothing else need."""

    async def refused(self, node: NodeRecord, error: CallError, candidates: Candidates) -> bool:
        """It did not start, so anybody may have it."""
        self._home = self._told = None
        return False

    async def failed(self, node: NodeRecord, candidates: Candidates) -> None:
        """If it may have started it stays with its node, as long as that is there; else anybody may have it."""
        last = self._call.last
        if self._home is None or not isinstance(last, DeliveryError | BusUnavailableError | CallTimeoutError):
            self._home = self._told = None
            candidates.tried(node)
            return
        if self._kept:
            now = boottime()
            self._patient_until = min(now + _PATIENCE, (now + self._call.deadline) / 2)
        await super().failed(node, candidates)
