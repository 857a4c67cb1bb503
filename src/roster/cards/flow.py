"""The ways through a card: one graph over all its steps, those in branches and loops included.

A plain step is one node. A `parallel` or `foreach` step is two: where its blocks begin, and where they come together again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from roster.cards.card import ProcessCard
from roster.cards.steps import (
    ActionStep,
    Block,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    Fallback,
    ForeachStep,
    ParallelStep,
    Step,
    SubprocessStep,
    WaitStep,
)

Role: TypeAlias = Literal["start", "step", "join", "end"]


@dataclass(frozen=True, slots=True)
class Edge:
    """One way from a node to another.

    Attributes:
        source: the node it leaves.
        target: the node it leads to.
        label: what it depends on: `then`, `else`, `failure`, `timeout`, `skipped`, or nothing.
        sets: whether the step has brought its output on this way.
        branch: which block begins or ends with it, None where none does.
        local: the variables set before it end here (the last step of a loop's body).
    """

    source: int
    target: int
    label: str = ""
    sets: bool = False
    branch: int | None = None
    local: bool = False


@dataclass(slots=True)
class Node:
    """One place of the graph.

    Attributes:
        role: what it is.
        step: the step it belongs to; None for the start and the end.
        ways: the edges that leave it.
        comes: the edges that lead to it.
    """

    role: Role
    step: Step | None = None
    ways: list[Edge] = field(default_factory=list)
    comes: list[Edge] = field(default_factory=list)


class Flow:
    """The graph of one card.

    Attributes:
        nodes: every node; the first is the start, the second the end of the run.
        entry: the node of each step, by its id.
        join: the node behind the blocks of each step that has any.
        parent: the step that a step stands in; top-level steps have none.
    """

    START, END = 0, 1

    def __init__(self, card: ProcessCard) -> None:
        self.nodes: list[Node] = [Node("start"), Node("end")]
        self.entry: dict[str, int] = {}
        self.join: dict[str, int] = {}
        self.parent: dict[str, Step] = {}
        for step in card.steps.values():
            self.entry[step.id] = self._node(Node("step", step))
            if step.blocks:
                self.join[step.id] = self._node(Node("join", step))
            for block in step.blocks:
                for inner in block.steps:
                    self.parent[inner] = step
        self._edge(Edge(self.START, self.entry[card.block.first]))
        self._block(card, card.block, Edge(0, self.END))

    def _node(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def _edge(self, edge: Edge) -> None:
        self.nodes[edge.source].ways.append(edge)
        self.nodes[edge.target].comes.append(edge)

    def _block(self, card: ProcessCard, block: Block, end: Edge) -> None:
        """Add the ways of a block; `end` is what the edge looks like that ends it."""
        for name in block.steps:
            step = card.steps[name]
            entry = self.entry[name]
            leaves = self.join.get(name, entry)
            for label, target, sets in _ways(step):
                source = entry if label == "skipped" else leaves
                if target is None:
                    self._edge(Edge(source, end.target, label, sets, end.branch, end.local))
                else:
                    self._edge(Edge(source, self.entry[target], label, sets))
            if isinstance(step, CompleteStep):
                self._edge(Edge(entry, self.END))
            for index, inner in enumerate(step.blocks):
                self._edge(Edge(entry, self.entry[inner.first], branch=index))
                local = isinstance(step, ForeachStep)
                self._block(card, inner, Edge(0, self.join[name], branch=index, local=local))
            if isinstance(step, ForeachStep):
                # There may be no items; and what the body sets ends with it.
                self._edge(Edge(entry, self.join[name], "no items"))

    def reached(self) -> set[int]:
        """Return the nodes that some way leads to."""
        seen = {self.START}
        stack = [self.START]
        arrived: dict[int, set[int]] = {}
        while stack:
            for edge in self.nodes[stack.pop()].ways:
                node = self.nodes[edge.target]
                if node.role == "join" and isinstance(node.step, ParallelStep) and edge.branch is not None:
                    branches = arrived.setdefault(edge.target, set())
                    branches.add(edge.branch)
                    if len(branches) < node.step.need:
                        continue
                if edge.target not in seen:
                    seen.add(edge.target)
                    stack.append(edge.target)
        return seen

    def order(self) -> list[int]:
        """Return the reachable nodes so that each comes before what follows it, loops aside."""
        out: list[int] = []
        seen = {self.START}
        stack: list[tuple[int, Iterator[Edge]]] = [(self.START, iter(self.nodes[self.START].ways))]
        while stack:
            node, ways = stack[-1]
            for edge in ways:
                if edge.target not in seen:
                    seen.add(edge.target)
                    stack.append((edge.target, iter(self.nodes[edge.target].ways)))
                    break
            else:
                out.append(node)
                stack.pop()
        return out[::-1]

    def loops(self) -> list[list[int]]:
        """Return the strongly connected parts that are loops, each in the order of the card.

        Source: Tarjan, Depth-first search and linear graph algorithms, 1972; without recursion, for long cards.
        """
        index: dict[int, int] = {}
        low: dict[int, int] = {}
        open_: list[int] = []
        is_open: set[int] = set()
        out: list[list[int]] = []
        for root in range(len(self.nodes)):
            if root in index:
                continue
            stack: list[tuple[int, Iterator[Edge]]] = []

            def enter(node: int, stack: list[tuple[int, Iterator[Edge]]] = stack) -> None:
                index[node] = low[node] = len(index)
                open_.append(node)
                is_open.add(node)
                stack.append((node, iter(self.nodes[node].ways)))

            enter(root)
            while stack:
                node, ways = stack[-1]
                for edge in ways:
                    if edge.target not in index:
                        enter(edge.target)
                        break
                    if edge.target in is_open:
                        low[node] = min(low[node], index[edge.target])
                else:
                    stack.pop()
                    if stack:
                        low[stack[-1][0]] = min(low[stack[-1][0]], low[node])
                    if low[node] == index[node]:
                        part = [open_.pop()]
                        while part[-1] != node:
                            part.append(open_.pop())
                        is_open.difference_update(part)
                        if len(part) > 1 or any(edge.target == node for edge in self.nodes[node].ways):
                            out.append(sorted(part))
        return sorted(out)


def _ways(step: Step) -> Iterator[tuple[str, str | None, bool]]:
    """Yield where a step leads: on what that depends, the step, and whether its output is set then."""
    if step.when is not None:
        yield "skipped", step.next, False
    match step:
        case ConditionStep(then=then, otherwise=otherwise):
            yield "then", then, False
            yield "else", otherwise, False
        case CompleteStep():
            pass
        case ActionStep(retry=retry) | SubprocessStep(retry=retry):
            yield "", step.next, True
            yield from _fallback("failure", retry.on_failure, step)
        case WaitStep(on_timeout=fallback) | CheckpointStep(on_timeout=fallback):
            yield "", step.next, True
            yield from _fallback("timeout", fallback, step)
        case _:
            yield "", step.next, True


def _fallback(label: str, fallback: Fallback, step: Step) -> Iterator[tuple[str, str | None, bool]]:
    match fallback.kind:
        case "continue":
            yield label, step.next, False
        case "goto":
            yield label, fallback.step, False
        case _:
            pass
