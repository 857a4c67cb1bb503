"""Draws what happened: answers and latency over time with the faults marked, a row for each peer, on one time axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, inf
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from chaos.course import Course, Fault

# Seconds that one point stands for.
BIN = 0.5
COLOURS = {
    "answers": "#c9d6e2",
    "median": "#1f5f99",
    "slowest": "#e08a1e",
    "bad": "#c0202a",
    "fault": "#b9b9b9",
}
_LOWEST, _MOST = 5e-3, 400


def draw(courses: Sequence[Course], file: Path) -> None:
    """Write the picture, as SVG with its text as text.

    Args:
        courses: a row for each, from above.
        file: where to.

    Raises:
        OSError: it cannot be written.
    """
    # Neither the day nor chance is in it: the same courses make the same file.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "roster", "font.size": 8}):
        figure = Figure(figsize=(9.6, 1.0 + 1.75 * len(courses)), layout="constrained")
        rows = figure.subplots(len(courses), 1, sharex=True, squeeze=False)[:, 0]
        end = max(call.began for course in courses for call in course.calls)
        for axes, course in zip(rows, courses, strict=True):
            _row(axes, course, end)
        _name_faults(rows[0], courses[0].faults)
        rows[-1].set_xlabel("seconds since the load began")
        entries = {
            str(entry.get_label()): entry
            for axes in figure.axes
            for entry in axes.get_legend_handles_labels()[0]
        }
        figure.legend(handles=list(entries.values()), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})


def _row(axes: Axes, course: Course, end: float) -> None:
    bins = ceil(end / BIN)
    taken: list[list[float]] = [[] for _ in range(bins + 1)]
    answers = [0.0] * (bins + 1)
    for call in course.calls:
        if call.outcome != "answered":
            continue
        taken[int(call.began / BIN)].append(call.taken)
        if (at := int((call.began + call.taken) / BIN)) <= bins:
            answers[at] += 1 / BIN
    moments = [(number + 0.5) * BIN for number in range(bins + 1)]
    shown = [(at, sorted(each)) for at, each in zip(moments, taken, strict=True) if each]
    for fault in course.faults:
        axes.axvspan(
            fault.began, max(fault.ended, fault.began + 0.1), color=COLOURS["fault"], alpha=0.4, lw=0
        )
    flow = axes.twinx()
    flow.fill_between(
        moments, answers, step="mid", color=COLOURS["answers"], lw=0, label="answers a second (right axis)"
    )
    # What was held up comes at once, and may be more than fits.
    flow.set_ylim(0, _MOST)
    flow.set_ylabel("answers/s")
    # The latency lies over the answers, and both over the faults.
    axes.set_zorder(flow.get_zorder() + 1)
    axes.patch.set_visible(False)
    axes.plot(
        [at for at, _ in shown],
        [each[-1] for _, each in shown],
        color=COLOURS["slowest"],
        lw=0.8,
        label="slowest answer",
    )
    axes.plot(
        [at for at, _ in shown],
        [each[len(each) // 2] for _, each in shown],
        color=COLOURS["median"],
        lw=1.2,
        label="median answer",
    )
    bad = sorted({int(call.began / BIN) for call in course.calls if call.outcome != "answered"})
    longest = course.timeout if course.timeout < inf else 100.0
    axes.plot(
        [moments[number] for number in bad],
        [longest * 1.3] * len(bad),
        ls="",
        marker="x",
        ms=4,
        color=COLOURS["bad"],
        label="calls without an answer",
    )
    axes.set_yscale("log")
    axes.set_ylim(_LOWEST, longest * 2)
    axes.set_yticks([0.01, 0.1, 1, 10], ["10 ms", "100 ms", "1 s", "10 s"])
    axes.minorticks_off()
    axes.set_xlim(0, end)
    axes.set_title(course.name, loc="left", fontweight="bold", pad=3)


def _name_faults(axes: Axes, faults: Sequence[Fault]) -> None:
    """Write above the first row where each kind of fault begins."""
    begins: dict[str, float] = {}
    for fault in faults:
        begins.setdefault(fault.kind, fault.began)
    for number, (kind, began) in enumerate(begins.items()):
        axes.annotate(
            kind,
            (began, 1),
            # Two lines of them, since they are longer than the times between.
            xytext=(0, 14 + 10 * (number % 2)),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=7,
            annotation_clip=False,
        )
