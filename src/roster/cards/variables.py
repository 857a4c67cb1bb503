"""Which variables are set where: data flow over every way through a card, loops and branches included.

Two questions are asked of each use: can any way that leads here have set the variable (if not, the card is wrong), and has
every way set it (if not, the author is warned, with one way that has not). Both are solved as bit sets over the graph, until
nothing changes any more.

Source: Kildall, A unified approach to global program optimization, 1973.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from roster.cards.card import GIVEN, ProcessCard
from roster.cards.flow import Edge, Flow
from roster.cards.steps import ForeachStep, ParallelStep, Step
from roster.passport.words import Path


@dataclass(frozen=True, slots=True)
class Use:
    """One use of a variable that is not surely set.

    Attributes:
        step: the step that uses it.
        path: where, in the document.
        name: the variable.
        never: no way can have set it.
        way: ids of steps on one way that has not set it, up to here.
    """

    step: Step
    path: Path
    name: str
    never: bool
    way: tuple[str, ...] = ()


class Variables:
    """The variables of one card at each node of its graph.

    Attributes:
        setters: the ids of the steps that set each variable; of what is set before the first step, nobody.
    """

    def __init__(self, card: ProcessCard, flow: Flow, reached: Iterable[int]) -> None:
        self._card = card
        self._flow = flow
        self._reached = set(reached)
        self.setters: dict[str, list[str]] = {name: [] for name in (*GIVEN, *card.variables)}
        for step in card.steps.values():
            for name in _made(step):
                self.setters.setdefault(name, []).append(step.id)
        self._bits = {name: 1 << number for number, name in enumerate(self.setters)}
        self._all = (1 << len(self._bits)) - 1
        first = sum(self._bits[name] for name in {*GIVEN, *card.variables})
        self._may = [0] * len(flow.nodes)
        self._must = [self._all] * len(flow.nodes)
        self._may[Flow.START] = self._must[Flow.START] = first
        self._solve()

    def _solve(self) -> None:
        flow = self._flow
        order = [node for node in flow.order() if node in self._reached]
        rank = {node: number for number, node in enumerate(order)}
        waiting = deque(order[1:])
        queued = set(waiting)
        while waiting:
            node = waiting.popleft()
            queued.discard(node)
            may, must = self._at(node)
            if (may, must) == (self._may[node], self._must[node]):
                continue
            self._may[node], self._must[node] = may, must
            for edge in flow.nodes[node].ways:
                if edge.target in rank and edge.target not in queued:
                    queued.add(edge.target)
                    waiting.append(edge.target)

    def _at(self, node: int) -> tuple[int, int]:
        here = self._flow.nodes[node]
        coming = [edge for edge in here.comes if edge.source in self._reached and not edge.local]
        may = 0
        for edge in coming:
            may |= self._may[edge.source] | self._added(edge)
        if here.role == "join" and isinstance(here.step, ParallelStep):
            return may, self._joined(coming, here.step)
        must = self._all
        for edge in coming:
            must &= self._must[edge.source] | self._added(edge)
        return may, must

    def _joined(self, coming: list[Edge], step: ParallelStep) -> int:
        """Return what is surely set once so many branches have ended, whichever these are."""
        ends = [self._all] * len(step.branches)
        for edge in coming:
            if edge.branch is not None:
                ends[edge.branch] &= self._must[edge.source] | self._added(edge)
        spare = len(ends) - step.need
        if not spare:
            out = 0
            for end in ends:
                out |= end
            return out
        # Set by more branches than may be left out: counted bit by bit, only where branches differ.
        out = self._all
        for end in ends:
            out &= end
        some = 0
        for end in ends:
            some |= end
        for bit in _bits(some & ~out):
            if sum(bool(end & bit) for end in ends) > spare:
                out |= bit
        return out

    def _added(self, edge: Edge) -> int:
        step = self._flow.nodes[edge.source].step
        if step is None:
            return 0
        added = self._bits[step.output] if edge.sets and step.output is not None else 0
        if isinstance(step, ForeachStep) and edge.branch is not None:
            added |= self._bits[step.variable] | self._bits[step.variable_index]
        return added

    def unsure(self) -> Iterator[Use]:
        """Yield every use of a variable, in a step that is reached, that not every way there has set."""
        for step in self._card.steps.values():
            node = self._flow.entry[step.id]
            if node not in self._reached:
                continue
            seen: set[tuple[Path, str]] = set()
            for path, reference in step.reads():
                name = reference.root
                where = (*step.path, *path)
                if (where, name) in seen:
                    continue
                seen.add((where, name))
                bit = self._bits.get(name, 0)
                if not self._may[node] & bit:
                    yield Use(step, where, name, never=True)
                elif not self._must[node] & bit:
                    yield Use(step, where, name, never=False, way=self._way_without(name, node))

    def _way_without(self, name: str, node: int) -> tuple[str, ...]:
        """Return the shortest way to a node on which nothing sets a variable."""
        bit = self._bits[name]
        came: dict[int, int] = {Flow.START: Flow.START}
        queue = deque([Flow.START])
        while queue and node not in came:
            at = queue.popleft()
            for edge in self._flow.nodes[at].ways:
                if edge.target not in came and not edge.local and not self._added(edge) & bit:
                    came[edge.target] = at
                    queue.append(edge.target)
        out: list[str] = []
        at = node
        while at in came and at != Flow.START:
            here = self._flow.nodes[at]
            if here.role == "step" and here.step is not None:
                out.append(here.step.id)
            at = came[at]
        return tuple(reversed(out))


def _made(step: Step) -> Iterator[str]:
    """Yield what a step sets."""
    if step.output is not None:
        yield step.output
    if isinstance(step, ForeachStep):
        yield step.variable
        yield step.variable_index


def _bits(mask: int) -> Iterator[int]:
    while mask:
        low = mask & -mask
        yield low
        mask ^= low
