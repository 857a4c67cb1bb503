"""What a card looks like: the words of each node and way of its graph, for whatever draws them."""

from __future__ import annotations

from dataclasses import dataclass

from roster._text import safe
from roster.cards.card import ProcessCard
from roster.cards.flow import Flow
from roster.cards.steps import (
    ActionStep,
    CheckpointStep,
    CompleteStep,
    ConditionStep,
    ForeachStep,
    JumpStep,
    ParallelStep,
    SubprocessStep,
    WaitStep,
)

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Drawn:
    """One node to draw.

    Attributes:
        shape: `box`, `diamond` (decides), `round` (begins or ends), `bar` (parts or joins), `person`, `clock`.
        title: the step's id.
        detail: what it does, in one line; may be empty.
        inside: the node of the step that it stands in; None at the top.
    """

    shape: str
    title: str
    detail: str = ""
    inside: int | None = None


@dataclass(frozen=True, slots=True)
class Arrow:
    """One way to draw.

    Attributes:
        source: the number of the node that it leaves.
        target: the number of the node that it leads to.
        label: what it depends on; may be empty.
    """

    source: int
    target: int
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A card to draw.

    Attributes:
        nodes: what there is, by number.
        arrows: the ways between them.
        order: the numbers of the nodes that are reached, each before what follows it, loops aside; then the others.
    """

    nodes: dict[int, Drawn]
    arrows: tuple[Arrow, ...]
    order: tuple[int, ...]


def picture(card: ProcessCard) -> Picture:
    """Return what there is to draw of a card. No text in it can disturb a terminal."""
    flow = Flow(card)
    nodes: dict[int, Drawn] = {}
    for number, node in enumerate(flow.nodes):
        if node.step is None:
            nodes[number] = Drawn("round", node.role)
            continue
        parent = flow.parent.get(node.step.id)
        inside = flow.entry[parent.id] if parent is not None else None
        if node.role == "join":
            nodes[number] = Drawn("bar", _short(node.step.id), "joined", inside)
        else:
            shape, detail = _said(card, node.step.id)
            nodes[number] = Drawn(shape, _short(node.step.id), _short(detail), inside)
    # A branch that ends several times in one way is drawn once.
    arrows = dict.fromkeys(
        Arrow(edge.source, edge.target, edge.label) for node in flow.nodes for edge in node.ways
    )
    order = flow.order()
    rest = sorted(set(nodes) - set(order))
    return Picture(nodes, tuple(arrows), (*order, *rest))


def _said(card: ProcessCard, name: str) -> tuple[str, str]:
    step = card.steps[name]
    match step:
        case ActionStep():
            return "box", step.action
        case ConditionStep():
            return "diamond", str(card.written((*step.path, "condition")))
        case CompleteStep():
            return "round", step.status
        case WaitStep():
            event = card.written((*step.path, "event"))
            return "clock", f"wait for {event}" if step.duration is None else f"wait {step.duration:g} s"
        case CheckpointStep():
            return "person", str(card.written((*step.path, "message")))
        case ParallelStep():
            return "bar", f"parallel, {step.need} of {len(step.branches)}"
        case ForeachStep():
            return "bar", f"for each {step.variable} of {card.written((*step.path, 'items'))}"
        case SubprocessStep():
            return "box", f"card {step.card}"
        case JumpStep():
            return "box", "next"
        case _:
            return "box", ""


def _short(text: str) -> str:
    text = safe(" ".join(text[: 4 * _SHOWN].split()))
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
