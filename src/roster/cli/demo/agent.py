"""The demo's agents: a writer or an editor, whichever its passport declares.

Run as `python -m roster.cli.demo.agent PASSPORT`. They write templates instead of asking a language model, and take their
time over it as one would.
"""

from __future__ import annotations

import asyncio
import random
import sys

from roster import Context, Node

_OPENINGS = (
    "Few things are as quietly important as",
    "It is time to talk about",
    "Everybody has an opinion on",
)
_SECONDS = (0.12, 0.3)  # for one piece of work


async def write_article(topic: str, context: Context, style: str = "plain") -> dict[str, object]:
    """Write an article in three paragraphs, telling of each."""
    paragraphs = []
    for number, opening in enumerate(_OPENINGS, 1):
        await asyncio.sleep(random.uniform(*_SECONDS) / len(_OPENINGS))  # noqa: S311 - a pace, not a secret
        paragraphs.append(f"{opening} {topic}.")
        context.progress(paragraph=number, of=len(_OPENINGS))
    return {
        "article": "\n\n".join(paragraphs),
        "metadata": {"style": style, "words": sum(len(p.split()) for p in paragraphs)},
    }


async def edit_text(text: str) -> dict[str, str]:
    """Tidy a text: single spaces, a capital first, a full stop last."""
    await asyncio.sleep(random.uniform(*_SECONDS) / 2)  # noqa: S311 - a pace, not a secret
    tidy = " ".join(text.split())
    return {"edited_text": tidy[:1].upper() + tidy[1:] + ("" if tidy.endswith((".", "!", "?")) else ".")}


def make(path: str) -> Node:
    """Return the node of a passport, with a handler for each capability that it declares."""
    node = Node.load(path)
    for function in (write_article, edit_text):
        if node.passport.capability(function.__name__) is not None:
            node.capability(function.__name__)(function)
    return node


if __name__ == "__main__":
    make(sys.argv[1]).run()
