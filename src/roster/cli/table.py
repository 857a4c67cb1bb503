"""Columns of text as kubectl prints them: separated by spaces, fitted to a terminal, whole in a pipe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from roster._text import safe

GAP = "   "
_LEAST = 8  # a column that gives way keeps so many cells


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        title: its heading.
        gives_way: whether it is cut first when a terminal is too narrow.
        paint: returns the ANSI style of a cell (`32` for green), or an empty string.
    """

    title: str
    gives_way: bool = False
    paint: Callable[[str], str] | None = None


class Table:
    """Lays rows out. Cells are made safe here, whatever they hold; an empty one is shown as `<none>`.

    Args:
        columns: what the cells of a row mean.
        rows: what the widths are taken from.
        width: cells of the terminal; None: nothing is cut.
        colour: whether to paint.
    """

    def __init__(
        self, columns: Sequence[Column], rows: Sequence[Sequence[str]], *, width: int | None, colour: bool
    ) -> None:
        self._columns = columns
        self._colour = colour
        self._cut = width is not None
        self._rows = [self._cells(row) for row in rows]
        self._widths = [cells(column.title) for column in columns]
        for row in self._rows:
            self._widths = [max(old, cells(cell)) for old, cell in zip(self._widths, row, strict=True)]
        if width is not None:
            self._fit(width)

    @staticmethod
    def _cells(row: Sequence[str]) -> list[str]:
        return [safe(cell) or "<none>" for cell in row]

    def _fit(self, width: int) -> None:
        excess = sum(self._widths) + len(GAP) * (len(self._widths) - 1) - width
        while excess > 0:
            shrinkable = [
                at
                for at, column in enumerate(self._columns)
                if column.gives_way and self._widths[at] > _LEAST
            ]
            if not shrinkable:
                return  # the terminal wraps the rest: cutting names would be worse
            widest = max(shrinkable, key=lambda at: self._widths[at])
            self._widths[widest] -= 1
            excess -= 1

    def header(self) -> str:
        """Return the headings."""
        return self._line([column.title for column in self._columns], painted=False)

    def lines(self) -> list[str]:
        """Return the rows."""
        return [self._line(row) for row in self._rows]

    def line(self, row: Sequence[str]) -> str:
        """Return one more row in the same layout; a cell that is wider than its column pushes the others."""
        return self._line(self._cells(row))

    def _line(self, row: Sequence[str], *, painted: bool = True) -> str:
        out = []
        last = len(row) - 1
        for at, (column, cell) in enumerate(zip(self._columns, row, strict=True)):
            width = self._widths[at]
            shown = _clip(cell, width) if self._cut and column.gives_way else cell
            padding = "" if at == last else " " * (width - cells(shown))
            style = column.paint(cell) if painted and self._colour and column.paint is not None else ""
            out.append((f"\x1b[{style}m{shown}\x1b[0m" if style else shown) + padding)
        return GAP.join(out)


def cells(text: str) -> int:
    """Return how many cells of a terminal a text takes: a CJK character takes two."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def _clip(text: str, width: int) -> str:
    if cells(text) <= width:
        return text
    if text.isascii():
        return text[: width - 1] + "…"
    from rich.cells import set_cell_size

    return set_cell_size(text, width - 1) + "…"
