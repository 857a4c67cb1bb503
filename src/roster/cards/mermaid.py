"""A card as Mermaid text, which GitHub and most editors draw.

Source: https://mermaid.js.org/syntax/flowchart.html (entity codes in quoted text).
"""

from __future__ import annotations

import re

from roster.cards.card import ProcessCard
from roster.cards.drawing import Drawn, Picture, picture
from roster.cards.flow import Flow

_SHAPES = {
    "box": '["{}"]',
    "diamond": '{{"{}"}}',
    "round": '(["{}"])',
    "bar": '[/"{}"\\]',
    "person": '[["{}"]]',
    "clock": '>"{}"]',
}
# Everything that Mermaid, or the HTML that it makes, could take for syntax.
_SYNTAX = re.compile(r"""[^\w \-.,:/()=+*?!']""")


def to_mermaid(card: ProcessCard) -> str:
    """Return a card as a Mermaid flowchart.

    Example:
        >>> print(to_mermaid(ProcessCard.parse("steps: [{id: a, action: write}]")))
        flowchart TD
          n0(["start"])
          n2["a<br/>write"]
          n1(["end"])
          n0 --> n2
          n2 --> n1
    """
    drawn = picture(card)
    lines = ["flowchart TD"]
    _nodes(drawn, None, lines, "  ")
    for arrow in drawn.arrows:
        label = f"|{_text(arrow.label)}|" if arrow.label else ""
        lines.append(f"  n{arrow.source} -->{label} n{arrow.target}")
    return "\n".join(lines)


def _nodes(drawn: Picture, inside: int | None, lines: list[str], indent: str) -> None:
    """Write the nodes that stand in a step; what stands in another comes as a group behind it."""
    parents = {node.inside for node in drawn.nodes.values()}
    for number in sorted(drawn.nodes, key=lambda number: (number == Flow.END, number)):
        node = drawn.nodes[number]
        if node.inside != inside:
            continue
        lines.append(f"{indent}n{number}{_SHAPES[node.shape].format(_label(node))}")
        if number in parents:
            lines.append(f'{indent}subgraph g{number}["{_text(node.title)}"]')
            _nodes(drawn, number, lines, indent + "  ")
            lines.append(f"{indent}end")


def _label(node: Drawn) -> str:
    return _text(node.title) + (f"<br/>{_text(node.detail)}" if node.detail else "")


def _text(text: str) -> str:
    return _SYNTAX.sub(lambda found: f"#{ord(found.group())};", text)
