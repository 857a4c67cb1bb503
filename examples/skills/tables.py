"""Tables in CSV: what is wrong with them, the rows without the repeated and the broken ones, and figures of each column."""

from __future__ import annotations

import csv
import io
import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any

MAX_ROWS = 100_000
MAX_SHOWN = 50
_DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Table:
    """A table as text: its columns and rows, each row with the line where it begins."""

    columns: list[str]
    rows: list[tuple[int, list[str]]]
    delimiter: str


def read(text: str) -> Table:
    """Read CSV; the delimiter is the one of `,;|` and the tab that the first line has most of.

    Raises:
        ValueError: there is no head, a column has no name or one twice, quotes are not closed, or there are too many rows.
    """
    head = text.lstrip("\ufeff").partition("\n")[0]
    delimiter = max(_DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text.lstrip("\ufeff"), newline=""), delimiter=delimiter, strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            if cells:
                rows.append((line, [cell.strip() for cell in cells]))
            if len(rows) > MAX_ROWS + 1:
                raise ValueError(f"the table has more than {MAX_ROWS} rows")
            line = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(f"line {line}: not CSV: {error}") from error
    if not rows:
        raise ValueError("the table is empty: its first line names the columns")
    columns = rows.pop(0)[1]
    if "" in columns or len(set(columns)) < len(columns):
        raise ValueError(f"line 1: columns need names, each its own: {', '.join(columns)}")
    return Table(columns, rows, delimiter)


def check(table: Table, types: dict[str, str]) -> list[dict[str, Any]]:
    """Return what is wrong, in the order of the lines: `line`, `column`, `problem`.

    Args:
        table: the table.
        types: what each column must hold: `integer`, `number`, `date` (2025-12-31), `text`, with a `?` behind it where it
            may be empty.

    Raises:
        ValueError: a type is unknown, or a column is not there.
    """
    columns = {name: table.columns.index(name) for name in types if name in table.columns}
    if missing := [name for name in types if name not in columns]:
        raise ValueError(f"no column {', '.join(missing)}: there are {', '.join(table.columns)}")
    for name, kind in types.items():
        if kind.removesuffix("?") not in _KINDS:
            raise ValueError(f"{name}: no type {kind!r}: there are {', '.join(_KINDS)}")
    found: list[dict[str, Any]] = []
    first: dict[tuple[str, ...], int] = {}
    for line, row in table.rows:
        if len(row) != len(table.columns):
            found.append(_problem(line, "", f"{len(row)} cells, and {len(table.columns)} columns"))
            continue
        if (before := first.setdefault(tuple(row), line)) != line:
            found.append(_problem(line, "", f"the same as line {before}"))
            continue
        for name, kind in types.items():
            cell = row[columns[name]]
            if not cell:
                if not kind.endswith("?"):
                    found.append(_problem(line, name, "empty"))
            elif not _is(cell, kind.removesuffix("?")):
                found.append(_problem(line, name, f"no {kind.removesuffix('?')}: {cell[:40]}"))
    return found


def clean(table: Table, problems: list[dict[str, Any]]) -> str:
    """Return the table as CSV without the lines that have a problem."""
    bad = {problem["line"] for problem in problems}
    out = io.StringIO()
    writer = csv.writer(out, delimiter=table.delimiter, lineterminator="\n")
    writer.writerow(table.columns)
    writer.writerows(row for line, row in table.rows if line not in bad)
    return out.getvalue()


def describe(table: Table) -> list[dict[str, Any]]:
    """Return each column's figures: of numbers their spread, of all else the commonest values."""
    found: list[dict[str, Any]] = []
    for number, name in enumerate(table.columns):
        cells = [row[number] for _, row in table.rows if number < len(row) and row[number]]
        column: dict[str, Any] = {"column": name, "filled": len(cells), "different": len(set(cells))}
        if cells and all(_is(cell, "number") for cell in cells):
            values = [_number(cell) for cell in cells]
            column |= {
                "kind": "number",
                "sum": round(sum(values), 2),
                "mean": round(statistics.fmean(values), 2),
                "median": round(statistics.median(values), 2),
                "deviation": round(statistics.stdev(values), 2) if len(values) > 1 else 0.0,
                "least": min(values),
                "most": max(values),
            }
        else:
            column |= {
                "kind": "text",
                "common": dict(Counter(cells).most_common(3)),
            }
        found.append(column)
    return found


def outliers(table: Table, column: str) -> list[dict[str, Any]]:
    """Return the values of a column far from the rest: more than 1.5 times the middle half's width outside it (Tukey).

    A row is named by its first cell.

    Raises:
        ValueError: there is no such column, or it has fewer than four numbers.
    """
    if column not in table.columns:
        raise ValueError(f"no column {column}: there are {', '.join(table.columns)}")
    at = table.columns.index(column)
    values = [(row[0], _number(row[at])) for _, row in table.rows if at < len(row) and _is(row[at], "number")]
    if len(values) < 4:
        raise ValueError(f"{column} has {len(values)} numbers: what is far from the rest takes four")
    low, _, high = statistics.quantiles([value for _, value in values], n=4)
    reach = 1.5 * (high - low)
    return [
        {"row": name, "value": value} for name, value in values if not low - reach <= value <= high + reach
    ]


def _problem(line: int, column: str, text: str) -> dict[str, Any]:
    return {"line": line, "column": column, "problem": text}


def _number(cell: str) -> float:
    """Read a number; a decimal comma is one too."""
    return float(cell.replace("\u00a0", "").replace(",", "."))


def _is(cell: str, kind: str) -> bool:
    try:
        value = _KINDS[kind](cell)
    except ValueError:
        return False
    return not isinstance(value, float) or abs(value) < float("inf")  # nan compares with nothing


_KINDS: dict[str, Callable[[str], object]] = {
    "integer": int,
    "number": _number,
    "date": date.fromisoformat,
    "text": str,
}
