"""An agent that checks the links between pages in Markdown."""

from __future__ import annotations

import os
from typing import Any

from examples.agents.starting import main, refusing
from examples.skills import links
from roster import Context, Node


def make(passport: str | os.PathLike[str]) -> Node:
    """Return the node of a passport."""
    node = Node.load(passport)

    @node.capability("check_links")
    def check_links(
        pages: list[dict[str, Any]], context: Context, files: list[str] | None = None
    ) -> dict[str, Any]:
        with refusing():
            try:
                texts = {str(page["path"]): str(page["text"]) for page in pages}
            except KeyError as error:
                raise ValueError(f"pages: each has a path and a text, one has no {error}") from error
            found = []
            for path in sorted(texts):
                context.check()  # stop where nobody waits for it any more
                found.append(links.check(path, texts, frozenset(files or ())))
            return {
                "pages": len(found),
                "links": sum(page["links"] for page in found),
                "outside": sum(page["outside"] for page in found),
                "broken": [{"page": page["path"], **one} for page in found for one in page["broken"]],
                "broken_count": sum(len(page["broken"]) for page in found),
            }

    return node


if __name__ == "__main__":
    main(make, "links-001.yaml")
