"""Timings of the parts, each module a subject: `python -m bench`.

A module of this package is a benchmark when it has `NAME: str`, its title, and `def run() -> list[Row]`;
rows may also be plain tuples `(what, figure)` or `(what, figure, goal)`. It measures `runs()` times and
gives `Row.measured` the samples, so that the table shows the median with the smallest and the largest.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

_settings = {"runs": 5, "full": False}


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    Attributes:
        what: what was measured.
        value: the figure: the median where there were several runs.
        unit: its unit.
        goal: what it should be, `<= 3` or `>= 10000` in the same unit; other text is shown as it is.
        note: how it was measured, where that matters.
        low: the smallest of the runs.
        high: the largest of the runs.
        runs: how often it was measured.
    """

    what: str
    value: float | str
    unit: str = ""
    goal: str | None = None
    note: str = ""
    low: float | None = None
    high: float | None = None
    runs: int = 1

    @classmethod
    def measured(
        cls, what: str, samples: Sequence[float], unit: str, *, goal: str | None = None, note: str = ""
    ) -> Row:
        """Return the row for the samples of several runs."""
        return cls(
            what, statistics.median(samples), unit, goal, note, min(samples), max(samples), len(samples)
        )

    def verdict(self) -> str:
        """Return `met` or `MISSED` where the goal is a bound on a number, else nothing."""
        if self.goal is None or isinstance(self.value, str):
            return ""
        sign, _, bound = self.goal.partition(" ")
        try:
            limit = float(bound.replace(" ", ""))
        except ValueError:
            return ""
        if sign == "<=":
            return "met" if self.value <= limit else "MISSED"
        if sign == ">=":
            return "met" if self.value >= limit else "MISSED"
        return ""


AnyRow: TypeAlias = Row | tuple[str, str] | tuple[str, str, str]


def runs() -> int:
    """Return how often each figure is to be measured: `--runs`."""
    return _settings["runs"]


def full() -> bool:
    """Return whether what is measured over a time is to be measured over all of it: `--full`."""
    return bool(_settings["full"])


def configure(*, runs: int, full: bool) -> None:
    """Set how often each figure is to be measured, and whether over the full time."""
    _settings.update(runs=runs, full=full)


def progress(text: str) -> None:
    """Say on standard error what is being measured."""
    print(f"  {text}", file=sys.stderr, flush=True)
