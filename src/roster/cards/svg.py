"""A card as an SVG picture, laid out here: a row for each step that must come before the next, ways back along the side."""

from __future__ import annotations

from xml.sax.saxutils import escape

from roster._text import safe
from roster.cards.card import ProcessCard
from roster.cards.drawing import Arrow, Drawn, Picture, picture

_WIDTH, _HEIGHT = 200, 48
_ACROSS, _DOWN, _LANE, _MARGIN = 40, 44, 18, 20
_CHARS = 30
_STYLE = (
    "text{font:12px sans-serif;text-anchor:middle;fill:#1f2430}.d{font-size:10px;fill:#5a6270}"
    ".l{font-size:10px;fill:#7a4a00}.n{fill:#f4f6fa;stroke:#5b6b8c}.diamond{fill:#fff6e0}.round{fill:#e6f4ea}.bar{fill:#ece8f7}.person{fill:#fde8ef}"
    ".clock{fill:#e4f1f7}.w{fill:none;stroke:#5b6b8c}.b{stroke-dasharray:5 3}"
)


def to_svg(card: ProcessCard) -> str:
    """Return a card as an SVG document that needs nothing else: no script, no font, no style sheet."""
    return _Layout(picture(card)).draw(card.name)


class _Layout:
    """Where each node lies: `x` and `y` are the middle of its box."""

    def __init__(self, drawn: Picture) -> None:
        self._drawn = drawn
        rank = _ranks(drawn)
        rows: dict[int, list[int]] = {}
        for number in drawn.order:
            rows.setdefault(rank[number], []).append(number)
        widest = max(map(len, rows.values()))
        self._inner = widest * (_WIDTH + _ACROSS) - _ACROSS
        self._x: dict[int, float] = {}
        self._y: dict[int, float] = {}
        for row, (_, numbers) in enumerate(sorted(rows.items())):
            left = _MARGIN + (self._inner - len(numbers) * (_WIDTH + _ACROSS) + _ACROSS) / 2 + _WIDTH / 2
            for column, number in enumerate(numbers):
                self._x[number] = left + column * (_WIDTH + _ACROSS)
                self._y[number] = _MARGIN + _HEIGHT / 2 + row * (_HEIGHT + _DOWN)
        self._lanes = 0
        self._height = 2 * _MARGIN + len(rows) * (_HEIGHT + _DOWN) - _DOWN

    def draw(self, title: str) -> str:
        ways = [self._way(arrow) for arrow in self._drawn.arrows]
        boxes = [self._box(number, node) for number, node in self._drawn.nodes.items()]
        width = 2 * _MARGIN + self._inner + (self._lanes + 1) * _LANE
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{self._height}" '
                f'viewBox="0 0 {width} {self._height}" role="img">',
                f"<title>{_text(title)}</title>",
                f"<style>{_STYLE}</style>",
                '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
                '<path d="M0 0L8 4L0 8z" fill="#5b6b8c"/></marker></defs>',
                *ways,
                *boxes,
                "</svg>",
            ]
        )

    def _way(self, arrow: Arrow) -> str:
        x1, y1 = self._x[arrow.source], self._y[arrow.source]
        x2, y2 = self._x[arrow.target], self._y[arrow.target]
        rows = (y2 - y1) / (_HEIGHT + _DOWN)
        if 0 < rows < 1.5:
            top, bottom = y1 + _HEIGHT / 2, y2 - _HEIGHT / 2
            middle = (top + bottom) / 2
            path = f"M{x1:g} {top:g}C{x1:g} {middle:g} {x2:g} {middle:g} {x2:g} {bottom:g}"
            label_x, label_y = (x1 + x2) / 2, middle - 3
        else:
            # Back, or past other rows: between the rows to a lane of its own along the side, so it crosses no box.
            self._lanes += 1
            lane = _MARGIN + self._inner + self._lanes * _LANE
            shift = 4 * (self._lanes % 4)
            top, bottom = y1 + _HEIGHT / 2, y2 - _HEIGHT / 2
            out, back = top + 12 + shift, bottom - 12 - shift
            path = f"M{x1 + 40:g} {top:g}V{out:g}H{lane:g}V{back:g}H{x2 + 40:g}V{bottom:g}"
            label_x, label_y = x1 + 70, out - 3
        dashed = " b" if rows <= 0 else ""
        text = (
            f'<text class="l" x="{label_x:g}" y="{label_y:g}">{_text(arrow.label)}</text>'
            if arrow.label
            else ""
        )
        return f'<path class="w{dashed}" d="{path}" marker-end="url(#a)"/>{text}'

    def _box(self, number: int, node: Drawn) -> str:
        x, y = self._x[number], self._y[number]
        left, top = x - _WIDTH / 2, y - _HEIGHT / 2
        if node.shape == "diamond":
            corners = [(left, y), (left + 14, top), (left + _WIDTH - 14, top), (left + _WIDTH, y)]
            corners += [(left + _WIDTH - 14, top + _HEIGHT), (left + 14, top + _HEIGHT)]
            points = " ".join(f"{across:g},{down:g}" for across, down in corners)
            shape = f'<polygon class="n diamond" points="{points}"/>'
        else:
            radius = _HEIGHT / 2 if node.shape == "round" else 4
            size = f'x="{left:g}" y="{top:g}" width="{_WIDTH}" height="{_HEIGHT}" rx="{radius:g}"'
            shape = f'<rect class="n {node.shape}" {size}/>'
        first = f'<text x="{x:g}" y="{y - 3 if node.detail else y + 4:g}">{_cut(node.title)}</text>'
        second = f'<text class="d" x="{x:g}" y="{y + 13:g}">{_cut(node.detail)}</text>' if node.detail else ""
        whole = f"{node.title}: {node.detail}" if node.detail else node.title
        return f"<g><title>{_text(whole)}</title>{shape}{first}{second}</g>"


def _ranks(drawn: Picture) -> dict[int, int]:
    """Return the row of each node: one below the lowest of what leads to it, ways back aside."""
    place = {number: index for index, number in enumerate(drawn.order)}
    rank = dict.fromkeys(drawn.order, 0)
    ways: dict[int, list[int]] = {}
    for arrow in drawn.arrows:
        ways.setdefault(arrow.source, []).append(arrow.target)
    for number in drawn.order:
        for target in ways.get(number, ()):
            if place[target] > place[number]:
                rank[target] = max(rank[target], rank[number] + 1)
    return rank


def _cut(text: str) -> str:
    return _text(text if len(text) <= _CHARS else text[: _CHARS - 1] + "…")


def _text(text: str) -> str:
    return escape(safe(text))
