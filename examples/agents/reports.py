"""An agent that puts parts together to one report in Markdown."""

from __future__ import annotations

import os
from typing import Any

from examples.agents.starting import main, refusing
from examples.skills.report import report
from roster import Node


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)

    @node.capability("merge_report")
    def merge_report(title: str, sections: list[dict[str, Any]]) -> dict[str, Any]:
        with refusing():
            text = report(title, sections)
            return {"text": text, "sections": len(sections)}

    return node


if __name__ == "__main__":
    main(make, "reports-001.yaml")
