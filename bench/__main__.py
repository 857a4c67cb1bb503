"""Runs the benchmarks and prints their tables: `python -m bench [NAME...] [--json] [--runs N] [--full]`."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import platform
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import bench
from bench import AnyRow, Row


@dataclass(frozen=True, slots=True)
class Subject:
    """A module that measures something."""

    module: str
    title: str
    run: Callable[[], Sequence[AnyRow]]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for. Return the exit status: 1 when a benchmark broke, 2 for a wrong name."""
    names = sorted(
        info.name for info in pkgutil.iter_modules(bench.__path__) if not info.name.startswith("_")
    )
    parser = argparse.ArgumentParser(prog="python -m bench", description="Timings, medians of several runs.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of: {', '.join(names)}; none is all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--runs", type=_positive, default=bench.runs(), help="runs of each figure (default %(default)s)"
    )
    parser.add_argument(
        "--full",
        action="store_true",
        help="measure for as long as the figures that are published (heartbeat: a minute)",
    )
    args = parser.parse_args(argv)
    if unknown := sorted(set(args.names) - set(names)):
        parser.error(f"no benchmark {', '.join(unknown)}: choose from {', '.join(names)}")
    bench.configure(runs=args.runs, full=args.full)

    facts = machine()
    if not args.json:
        print("; ".join(f"{name} {fact}" for name, fact in facts.items()))
    results: dict[str, list[dict[str, object]]] = {}
    broken = False
    for name in args.names or names:
        try:
            subject = _load(name)
            print(f"{subject.title} ...", file=sys.stderr, flush=True)
            began = time.perf_counter()
            rows = [_row(row) for row in subject.run()]
        except Exception:  # noqa: BLE001 - one that breaks must not hide the others; it is printed, and told at the end
            traceback.print_exc()
            print(f"benchmark {name} broke; its figures are missing", file=sys.stderr)
            broken = True
            continue
        print(f"  took {time.perf_counter() - began:.1f} s", file=sys.stderr, flush=True)
        if args.json:
            results[name] = [asdict(row) | {"verdict": row.verdict()} for row in rows]
        else:
            print(f"\n{subject.title}\n{table(rows)}", flush=True)
    if args.json:
        json.dump({"machine": facts, "results": results}, sys.stdout, indent=2, ensure_ascii=False)
        print()
    return 1 if broken else 0


def machine() -> dict[str, str]:
    """Return what the figures depend on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    facts = {"cores": str(cores), "cpu": _cpu()}
    facts["Python"] = f"{platform.python_version()} ({platform.python_implementation()})"
    facts["OS"] = f"{platform.system()} {platform.release()} {platform.machine()}"
    facts["load"] = f"{os.getloadavg()[0]:.1f} at the start"
    return facts


def table(rows: Sequence[Row]) -> str:
    """Return the rows as aligned text."""
    head = ("", "median", "", "min..max", "goal", "")
    cells = [head] + [
        (
            row.what,
            number(row.value),
            row.unit,
            ""
            if row.low is None or row.high is None
            else f"{number(row.low)}..{number(row.high)} of {row.runs}",
            " ".join(part for part in (row.goal or "", row.verdict()) if part),
            row.note,
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in cells) for column in range(len(head))]
    lines = []
    for line in cells:
        padded = [
            cell.rjust(width) if column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        lines.append("  " + "  ".join(padded).rstrip())
    return "\n".join(lines)


def number(value: float | str) -> str:
    """Return a figure with three significant digits, thousands apart."""
    if isinstance(value, str):
        return value
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", " ")
    return f"{value:.3g}"


def _row(row: AnyRow) -> Row:
    """Return a row as the dataclass."""
    if isinstance(row, Row):
        return row
    return Row(row[0], row[1], goal=row[2] if len(row) == 3 else None)


def _load(name: str) -> Subject:
    module = importlib.import_module(f"bench.{name}")
    return Subject(name, str(module.NAME), module.run)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _cpu() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
