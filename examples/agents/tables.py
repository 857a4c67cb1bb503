"""An agent that works on tables in CSV: checks, cleans, counts, and looks for what stands out."""

from __future__ import annotations

import os
from typing import Any

from examples.agents.starting import main, refusing
from examples.skills import tables
from roster import Node


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)

    @node.capability("check_table")
    def check_table(csv: str, types: dict[str, str]) -> dict[str, Any]:
        with refusing():
            table = tables.read(csv)
            problems = tables.check(table, types)
            bad = len({problem["line"] for problem in problems})
            return {
                "rows": len(table.rows),
                "bad": bad,
                "bad_percent": round(100 * bad / len(table.rows), 1) if table.rows else 0.0,
                "problems": problems[: tables.MAX_SHOWN],
                "clean": tables.clean(table, problems),
            }

    @node.capability("describe_table")
    def describe_table(csv: str) -> dict[str, Any]:
        with refusing():
            table = tables.read(csv)
            return {"rows": len(table.rows), "columns": tables.describe(table)}

    @node.capability("find_outliers")
    def find_outliers(csv: str, column: str) -> dict[str, Any]:
        with refusing():
            return {"column": column, "outliers": tables.outliers(tables.read(csv), column)}

    return node


if __name__ == "__main__":
    main(make, "tables-001.yaml")
