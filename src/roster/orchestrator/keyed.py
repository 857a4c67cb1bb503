"""Calls with an idempotency key: which node gets them, so that a repeat meets the answer of the first.

A key goes to the candidate that ranks first for it (rendezvous hash), busy or not, and stays there: another gets it only
when the registry no longer shows that node as a candidate, or the node is dead. A candidate may have come after the key was
used. So, unless this caller has seen the first in rank as a candidate for a whole window, it asks the next in rank whether
they know the key, up to the first whom it has seen for that long. It also asks those who take no work at present (draining,
paused, blocked, a capability withdrawn), since they may be at it still. In a team that does not change this costs nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Literal, cast

from roster._clock import boottime
from roster.bus import Message
from roster.bus.context import TOO_LITTLE
from roster.bus.failure import UNHEARD, says
from roster.bus.keys import answers_window, checked_key, namespace_of, scope_of
from roster.bus.message import Kind
from roster.errors import (
    AllNodesBusyError,
    BusUnavailableError,
    CallError,
    CallTimeoutError,
    Code,
    NoCapableNodesError,
)
from roster.orchestrator.budget import pause
from roster.orchestrator.patience import Patience
from roster.registry import NodeRecord
from roster.routing import Routable
from roster.routing.strategies import rendezvous

if TYPE_CHECKING:
    from roster.orchestrator.call import Call
    from roster.orchestrator.candidates import Candidates
    from roster.orchestrator.teamview import TeamView

logger = logging.getLogger("roster.orchestrator")

MAX_REMEMBERED = 10_000
ASKED_AT_ONCE = 16
ANSWER_SECONDS = 0.5
# What was heard a moment ago is not asked again while a call waits for room.
_HEARD_SECONDS = 1.0
_LONGEST_WAIT = 0.5
# A node that lives and is cut off from the bus says so in the registry within these seconds, or is back.
_ABSENCE = 2.0
_CANDIDATES = ("ready", "busy", "unknown")

Known = Literal["unknown", "running", "kept", "silent", "gone"]


class Keys:
    """What one orchestrator knows of keys and of those who may have them.

    Args:
        team: its registry and its bus.
        window: seconds that nodes keep answers.
        now: the clock that decides.
    """

    def __init__(
        self, team: TeamView, window: float | None = None, now: Callable[[], float] = boottime
    ) -> None:
        self.team = team
        self.window = answers_window(window)
        self.now = now
        self.asked = 0
        self._patience = Patience(team.bus, ANSWER_SECONDS)
        self._since: dict[str, float] = {}
        self._listings = -1
        self._absent: OrderedDict[str, tuple[str, float, float]] = OrderedDict()
        self._remembered: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._waiting: dict[str, list[tuple[int, int, asyncio.Future[None]]]] = {}
        self._numbers = itertools.count()

    # -- what the informer says -----------------------------------------------------------------------------------

    def seen(self, before: NodeRecord | None, record: NodeRecord) -> None:
        """A node is new or has changed: since when has it been the candidate that it is now?"""
        if record.state not in _CANDIDATES:
            self._since.pop(record.key, None)
        elif (
            before is None
            or before.uid != record.uid
            or before.generation != record.generation
            or before.state not in _CANDIDATES
            or before.capabilities != record.capabilities
        ):
            self._since[record.key] = self.now()
        if self._waiting:
            self.wake(record.key)

    def gone(self, key: str) -> None:
        """A node is no longer in the registry."""
        self._since.pop(key, None)
        if self._waiting:
            self.wake(key)

    def doubtful(self, ranked: list[NodeRecord]) -> list[NodeRecord]:
        """Return those of the candidates, best first, who may have got a key before a better one came."""
        listings = self.team.registry.informer.listings
        if listings != self._listings:
            # The copy was made anew: who left and came back meanwhile was not seen to.
            if self._listings >= 0:
                self._since = dict.fromkeys(self._since, self.now())
            self._listings = listings
        long_ago = self.now() - self.window
        found = []
        for above, node in itertools.pairwise(ranked):
            if self._since.get(above.key, self.now()) <= long_ago:
                break
            found.append(node)
        return found

    # -- who has a key --------------------------------------------------------------------------------------------

    def remember(self, scope: str, node: NodeRecord) -> None:
        """This node answered a call with the key."""
        self._remembered[scope] = (node.key, node.uid)
        self._remembered.move_to_end(scope)
        if len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def remembered(self, scope: str) -> tuple[str, str] | None:
        """Return the node that answered, and its incarnation then."""
        return self._remembered.get(scope)

    async def ask(self, node: NodeRecord, scope: str, limit: float) -> Known:
        """Ask a node whether it knows a key, and wait for so many seconds at most."""
        self.asked += 1
        message = Message.control("recall", {"scope": scope}, source=self.team.source)
        try:
            async with asyncio.timeout(limit):
                answer = await self._patience.hear(node, message)
        except TimeoutError:
            return "silent"
        except BusUnavailableError as error:
            return "silent" if says(error, UNHEARD) or not self._is_dead(node) else "gone"
        except CallError:
            return "silent"  # the connection broke: the next try shows whether it is gone
        self._absent.pop(node.key, None)
        result = answer.data.get("result") if answer.kind is Kind.RESULT else None
        if not isinstance(result, dict):
            return "unknown"  # it knows no keys at all
        if node.uid and result.get("uid", node.uid) != node.uid:
            return "gone"
        known = result.get("known")
        return cast("Known", known) if known in ("running", "kept") else "unknown"

    def _is_dead(self, node: NodeRecord) -> bool:
        """Nobody serves a node's queue: whether it is dead. Else it is cut off from the bus, and may be at work."""
        current = self.team.node(node.key)
        if current is None or current.uid != node.uid or current.state == "offline":
            return True
        if current.cut_off:
            self._absent.pop(node.key, None)
            return False
        holder = None if current.status is None else current.status.holder
        if holder is not None and holder.liveness() == "dead":
            return True
        now = self.now()
        uid, since, last = self._absent.pop(node.key, (node.uid, now, now))
        if uid != node.uid or now - last > _ABSENCE:
            since = now
        self._absent[node.key] = node.uid, since, now
        if len(self._absent) > MAX_REMEMBERED:
            self._absent.popitem(last=False)
        return now - since >= _ABSENCE

    # -- waiting for one node -------------------------------------------------------------------------------------

    async def wait(self, key: str, priority: int, seconds: float) -> None:
        """Wait until something changes at a node, at most so many seconds."""
        woken = asyncio.get_running_loop().create_future()
        place = (-priority, next(self._numbers), woken)
        places = self._waiting.setdefault(key, [])
        places.append(place)
        try:
            async with asyncio.timeout(seconds):
                await woken
        except TimeoutError:
            pass  # it was bounded so that what nobody tells is looked at, too
        finally:
            if place in places:
                places.remove(place)
            if not places and self._waiting.get(key) is places:
                del self._waiting[key]

    def room(self, key: str) -> None:
        """A node may have room: wake a call that waits for it."""
        load = self.team.router.load(key)
        if load is not None and load.active < load.capacity + max(2, load.capacity):
            self.wake(key)

    @property
    def waiting(self) -> bool:
        """Whether a call waits for a node."""
        return bool(self._waiting)

    def wake(self, key: str) -> None:
        """Wake the first call that waits for a node."""
        waiting = [place for place in self._waiting.get(key, ()) if not place[2].done()]
        if waiting:
            min(waiting, key=lambda place: place[:2])[2].set_result(None)


class KeyedCall:
    """The part of one call that concerns its key.

    Args:
        call: the call.
        key: the caller's key.
        source: who calls; its namespace is the key's.

    Raises:
        ConfigError: that is no key.
    """

    def __init__(self, call: Call, key: str, source: str) -> None:
        self.key = checked_key(key)
        self.source = source
        self.cut = False
        self._call = call
        self._keys = call.team.keys
        self._scope = scope_of(namespace_of(source), call.query.capability, key)
        self._heard: dict[tuple[str, str], float] = {}
        self._pauses = 0

    @property
    def leaves_it_running(self) -> bool:
        """Whether a caller that goes away leaves the work to be asked for again, rather than take it back."""
        return False

    # -- choosing -------------------------------------------------------------------------------------------------

    async def choose(self, candidates: Candidates) -> NodeRecord | None:
        """Return the node for the next try, or None to look again."""
        self.cut = False
        excluded = set(candidates.excluded())
        query, router = self._call.query, self._call.team.router
        ranked = self._ranked(router.candidates(query.capability, **query.where), excluded)
        before = self._keys.remembered(self._scope)
        for node in ranked if before is not None else ():
            if (node.key, node.uid) == before:
                return node
        doubtful = self._keys.doubtful(ranked)
        if resting := router.resting(query.capability, **query.where):
            doubtful += self._ranked(resting, excluded)
        if doubtful:
            holder, silent = await self._ask(doubtful)
            if holder is not None:
                return holder
            if silent is not None:
                await self._wait_for_word(silent)
                return None
            now = self._ranked(router.candidates(query.capability, **query.where), excluded)
            if [node.uid for node in now[:1]] != [node.uid for node in ranked[:1]]:
                return None  # the first in rank has come, or gone, while the others were asked
        return ranked[0] if ranked else await self._nobody(candidates, excluded)

    def _ranked(self, nodes: Iterable[Routable], excluded: set[str]) -> list[NodeRecord]:
        """Return nodes, busy ones too, best first."""
        score = rendezvous(self._scope)
        scored = [(score(node.key), node) for node in nodes if node.key not in excluded]
        scored.sort(key=lambda one: one[0], reverse=True)
        # The router knows no other nodes than the records that the orchestrator gave it.
        return [cast("NodeRecord", node) for _, node in scored]

    async def _nobody(self, candidates: Candidates, excluded: set[str]) -> NodeRecord | None:
        call = self._call
        try:
            return call.team.refuse(call.query, excluded)
        except NoCapableNodesError as error:
            await candidates.wait_for_return(error)
            return None

    async def _ask(self, nodes: list[NodeRecord]) -> tuple[NodeRecord | None, NodeRecord | None]:
        """Return the node that knows the key, else one that did not say."""
        now = self._keys.now()
        left = [node for node in nodes if now - self._heard.get((node.key, node.uid), -1e9) >= _HEARD_SECONDS]
        silent: NodeRecord | None = None
        for at in range(0, len(left), ASKED_AT_ONCE):
            batch = left[at : at + ASKED_AT_ONCE]
            answers = await asyncio.gather(*(self._asked(node) for node in batch))
            for known in ("kept", "running"):
                if known in answers:
                    return batch[answers.index(known)], None
            for node, answer in zip(batch, answers, strict=True):
                if answer == "unknown":  # who is gone may be back in a moment, and given it by others
                    self._heard[node.key, node.uid] = self._keys.now()
                elif answer == "silent" and silent is None:
                    silent = node
        return None, silent

    async def _asked(self, node: NodeRecord) -> Known:
        return await self._keys.ask(node, self._scope, self._call.deadline - boottime())

    async def _wait_for_word(self, node: NodeRecord) -> None:
        """A node that may be at it says nothing: it must be heard, or be gone, before another does it."""
        left = self._call.deadline - boottime()
        if left <= 0:
            self._call.give_up(
                CallTimeoutError(
                    f"{node.key} may know the key of this call to {self._call.query.capability}, and has not answered",
                    outcome="not_sent",
                )
            )
        await self._pause(node, left)

    # -- after a try ----------------------------------------------------------------------------------------------

    def done(self, node: NodeRecord) -> None:
        """The node brought the result."""
        self._keys.remember(self._scope, node)

    async def refused(self, node: NodeRecord, error: CallError, candidates: Candidates) -> bool:
        """It did not start. Wait for the same node, unless it is gone; return whether that was all there is to do."""
        call = self._call
        left = call.deadline - boottime()
        full = error.code is Code.RESOURCE_EXHAUSTED and not self.cut
        if not full:  # to others it may be out of reach, too, and they may have passed it over
            self._heard.clear()
        if full and (call.on_busy == "fail" or left <= 0):
            raise self._no_room(node)
        if left <= 0:
            call.give_up(call.too_late(error))
        attempts = call.attempts
        if (
            len(attempts) > 1
            and attempts[-1].node == attempts[-2].node
            and attempts[-1].error == attempts[-2].error
        ):
            del attempts[-1]  # one line for one wait
        if self.cut and await self._gone(node):
            candidates.gone(node)
            return True
        await self._pause(node, left)
        if full and call.deadline - boottime() < TOO_LITTLE:
            raise self._no_room(node)
        return True

    def _no_room(self, node: NodeRecord) -> AllNodesBusyError:
        call = self._call
        return AllNodesBusyError(
            f"{node.key}, which this key of {call.query.capability} belongs to, has no room",
            capability=call.query.capability,
            passed_over=call.team.rows(call.query),
            attempts=call.attempts,
        )

    async def failed(self, node: NodeRecord, candidates: Candidates) -> None:
        """It may have started. If its node is gone the next in rank gets it; else the same one again."""
        self._heard.clear()
        if self._left(node) or (self.cut and await self._gone(node)):
            candidates.gone(node)

    async def _gone(self, node: NodeRecord) -> bool:
        """Whether this incarnation is dead, as far as registry and bus can tell; silence is not death."""
        return self._left(node) or await self._asked(node) == "gone"

    def _left(self, node: NodeRecord) -> bool:
        current = self._call.team.node(node.key)
        return current is None or current.uid != node.uid or current.state == "offline"

    async def _pause(self, node: NodeRecord, left: float) -> None:
        self._pauses += 1
        seconds = min(left, _LONGEST_WAIT, 0.005 + pause(self._pauses, self._call.team.rng))
        await self._keys.wait(node.key, self._call.priority, seconds)
